"""The JSON Schemas of the user's files, made from the models, for completion and hints in editors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from command.grids import Grids
from ingest.streams import Streams


def schemas() -> dict[str, str]:
    """File name -> text of every schema."""
    return {
        "streams.schema.json": _text(Streams, "The cameras of a town: streams.yaml"),
        "grids.schema.json": _text(Grids, "The grids of a town: grids.geojson (RFC 7946)"),
    }


def _text(model: type[BaseModel], description: str) -> str:
    schema: dict[str, Any] = model.model_json_schema(by_alias=True)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "description": description}
    return json.dumps(schema, ensure_ascii=False, indent=2, sort_keys=True) + "\n"


def main() -> None:
    """Write the schemas into the folder that is given."""
    folder = Path(sys.argv[1])
    for name, text in schemas().items():
        (folder / name).write_text(text, encoding="utf-8")
        print(folder / name)


if __name__ == "__main__":
    main()

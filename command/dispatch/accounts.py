"""The MQTT accounts: one for each person and one for the service, made once, kept in the secrets folder.

`mqtt_accounts.json` (0600) holds the passwords for the clients that run on this machine; a broker gets `mqtt_passwd`
(0600), salted hashes in Mosquitto's own format, and `mqtt_acl`. Files are replaced as a whole, so a crash leaves the
old or the new. Passwords are 32 random characters, so a cheap hash is enough (there is no dictionary to try), and 162
devices that come back at once after a restart cost the broker milliseconds.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path

from command.dispatch.topics import SERVICE, check_person_id, mosquitto_acl
from ingest.errors import GridwatchError

_ITERATIONS = 101  # Mosquitto's own default for random passwords of machines
_NOBODY_HASH = "$7$101$AAAAAAAAAAAAAAAA$AAAA"  # what an unknown user's password is compared with, so it takes as long


class Accounts:
    """The accounts of one secrets folder. One process calls `ensure`; others only read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "mqtt_accounts.json"
        self.passwd_path = folder / "mqtt_passwd"
        self.acl_path = folder / "mqtt_acl"

    def ensure(self, person_ids: Iterable[str]) -> None:
        """Exactly the accounts of `person_ids` and the service: missing ones are made, others end, the rest stay.

        Raises:
            GridwatchError: `dispatch.person_id` or `dispatch.accounts_unreadable`.
        """
        passwords = self._read() if self.path.exists() else {}
        wanted = [SERVICE, *sorted({check_person_id(person_id) for person_id in person_ids})]
        kept = {user: passwords.get(user) or secrets.token_urlsafe(24) for user in wanted}
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if kept != passwords:
            _replace(self.path, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
        if kept != passwords or not self.passwd_path.exists():
            hashes = "".join(f"{user}:{hash_password(password)}\n" for user, password in kept.items())
            _replace(self.passwd_path, hashes)
        _replace(self.acl_path, mosquitto_acl())

    def password(self, user: str) -> str:
        """The password of a person's or the service's account.

        Raises:
            GridwatchError: `dispatch.no_account` or `dispatch.accounts_unreadable`.
        """
        found = self._read().get(user)
        if found is None:
            raise GridwatchError("dispatch.no_account", person=user, path=self.path)
        return found

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise GridwatchError("dispatch.accounts_unreadable", path=self.path, why=error) from error
        if not isinstance(found, dict) or not all(isinstance(word, str) for word in found.values()):
            raise GridwatchError("dispatch.accounts_unreadable", path=self.path, why="not an object of strings")
        return found


class PasswordFile:
    """The broker's side: salted hashes, read again when the file changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._hashes: dict[str, str] = {}

    def verify(self, user: str | None, password: str | None) -> bool:
        """Whether the password is the user's; takes the same time for an unknown user."""
        self._refresh()
        wanted = self._hashes.get(user or "")
        right = check_password(password or "", wanted or _NOBODY_HASH)
        return right and wanted is not None

    def _refresh(self) -> None:
        found = self._path.stat()
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if seen == self._seen:
            return
        lines = self._path.read_text(encoding="utf-8").splitlines()
        self._hashes = dict(line.split(":", 1) for line in lines if ":" in line)
        self._seen = seen


def hash_password(password: str) -> str:
    """`$7$iterations$salt$hash`: PBKDF2-HMAC-SHA512 as Mosquitto 2 writes it."""
    salt = secrets.token_bytes(12)
    derived = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    return f"$7${_ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(derived).decode()}"


def check_password(password: str, hashed: str) -> bool:
    """Whether `password` gives `hashed`, compared in constant time."""
    _, _, iterations, salt, wanted = hashed.split("$")
    derived = hashlib.pbkdf2_hmac("sha512", password.encode(), base64.b64decode(salt), int(iterations))
    return hmac.compare_digest(base64.b64encode(derived), wanted.encode())


def _replace(path: Path, text: str) -> None:
    """Write `path` whole or not at all, 0600, durable on return."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise

"""Under which account the embedded PostgreSQL runs, and what that account can reach.

PostgreSQL refuses root. An ordinary user's server runs as that user; root's runs under a number of its own that needs
no entry in /etc/passwd, or as the account `gridwatch` where a package made one; never as `nobody`, whom others share.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

OWN_ID = 28080
ACCOUNT = "gridwatch"


@dataclass(frozen=True)
class Account:
    """A uid and gid to change to, or None twice: stay who we are."""

    uid: int | None
    gid: int | None

    @classmethod
    def for_data(cls, data_dir: Path) -> Account:
        """The account of existing data (an ordinary user's folder stays his, also under sudo), else the usual one."""
        if os.geteuid() != 0:
            return cls(None, None)
        if data_dir.exists() and (owner := data_dir.stat()).st_uid != 0:
            return cls(owner.st_uid, owner.st_gid)
        try:
            entry = pwd.getpwnam(ACCOUNT)
        except KeyError:
            return cls(OWN_ID, OWN_ID)
        return cls(entry.pw_uid, entry.pw_gid)

    def words(self) -> tuple[str, str]:
        """uid and gid as `pg_exec` takes them."""
        return ("-", "-") if self.uid is None else (str(self.uid), str(self.gid))

    def own(self, path: Path) -> None:
        """Give one file or folder to the account."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def own_tree(self, folder: Path) -> None:
        """Give a folder and everything in it to the account."""
        if self.uid is None:
            return
        for parent, folders, files in os.walk(folder):
            for name in (*folders, *files):
                self.own(Path(parent) / name)
        self.own(folder)

    def can_enter(self, folder: Path) -> bool:
        """Whether the account can search `folder` and everything above it, by mode bits (ACLs only ever help)."""
        if self.uid is None:
            return True
        return all(self._may(step, 0o1) for step in (folder, *folder.parents))

    def can_execute(self, program: Path) -> bool:
        """Whether the account can run the file at this path."""
        real = program.resolve()
        return self.uid is None or (self.can_enter(real.parent) and self._may(real, 0o5))

    def _may(self, path: Path, bits: int) -> bool:
        stat = path.stat()
        shift = 6 if stat.st_uid == self.uid else 3 if stat.st_gid == self.gid else 0
        return (stat.st_mode >> shift) & bits == bits

    def initdb_account(self) -> Account:
        """Who may run `initdb`, which insists on a name in /etc/passwd even when told another.

        Where ours has none, a system account that nobody logs in to makes the new folder and hands it over at once.
        """
        if self.uid is None:
            return self
        try:
            pwd.getpwuid(self.uid)
        except KeyError:
            system = [entry for entry in pwd.getpwall() if 0 < entry.pw_uid < 1000 and entry.pw_name != "nobody"]
            if system:
                chosen = min(system, key=lambda entry: entry.pw_uid)
                return Account(chosen.pw_uid, chosen.pw_gid)
        return self

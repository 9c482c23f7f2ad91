"""What waits on disk for the database: a spool is one SQLite file (WAL), written by one process and drained by another.

Life of a row: `put` returns when the row is on disk (fsync), the reader takes it with `read`, and `remove` forgets it
after the database has committed. A row that comes back, because the reader died between commit and removal, is met
again with the same sequence number: whoever stores it must be idempotent.

Bad cases. Killed at any instruction: SQLite's write-ahead log drops the half-written transaction, nobody was told that
it was durable. Disk full: the spool owns a reserve (a file of allocated blocks) and lives on it; only when that is used
up too does `put` raise, and the row stays with its caller. File damaged: the readable rows are moved to a new file with
their numbers, the damaged one is kept beside it. Database away: the file grows, bounded by the disk alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ingest.bell import Bell as Bell  # one import for who writes a spool
from ingest.disk_reserve import DiskReserve
from ingest.errors import GridwatchError
from ingest.event import new_id

log = logging.getLogger(__name__)

SUFFIX = ".spool"
RESERVE_BYTES = 32 << 20

_SCHEMA = """
CREATE TABLE IF NOT EXISTS spool (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rows (seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, body TEXT NOT NULL);
"""
_BUSY_S = 10.0
_EXACT_COUNT = 100_000
_SHRINK_BYTES = (
    64 << 20
)  # free pages that are given back to the disk, so that an outage's backlog does not stay for ever
_SHRINK_PAGES = 2048  # at most so many a removal: nobody waits long behind it
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class SpoolRow(NamedTuple):
    """One waiting row; `seq` grows by one a row and is never used again within this spool."""

    seq: int
    kind: str
    body: str


class _Ticket:
    """One caller's rows on their way into a commit that several callers share."""

    __slots__ = ("done", "error", "rows", "seqs")

    def __init__(self, rows: Sequence[tuple[str, str]]) -> None:
        self.rows = rows
        self.seqs: list[int] = []
        self.error: BaseException | None = None
        self.done = False


class Spool:
    """One spool file. Any thread may call any method; they block for an fsync (milliseconds): await them in a thread.

    The first `put` makes this object the file's one writer (an flock held for the object's life). `reserve_bytes`
    are allocated beside the file as `<path>.reserve` for the day the disk is full.
    """

    def __init__(self, path: Path, *, bell: Bell | None = None, reserve_bytes: int = RESERVE_BYTES) -> None:
        self.path = path
        self._bell = bell
        self._reserve = DiskReserve(path.with_name(path.name + ".reserve"), reserve_bytes)
        self._turn = threading.Lock()  # guards the connection; its holder commits for everybody who waits
        self._waiting_lock = threading.Lock()
        self._waiting: list[_Ticket] = []
        self._lock_fd: int | None = None
        self._next_seq = 0
        self.put_rows = 0  # counters of this object, for /metrics
        self.commits = 0
        self.refused_rows = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db, self._inode = self._open()

    # ---- writing

    def put(self, kind: str, body: str) -> int:
        """Store one row and return its sequence number; durable on return.

        Raises:
            GridwatchError: `spool.disk_full` (reserve used up too), `spool.two_writers`, `spool.damaged`.
        """
        return self.put_many([(kind, body)])[0]

    def put_many(self, rows: Sequence[tuple[str, str]]) -> list[int]:
        """Store (kind, body) rows together, all or none; durable on return. Callers at one moment share one fsync."""
        for kind, body in rows:
            kind.encode()  # a lone surrogate fails here, alone, and not in a commit shared with others
            body.encode()
        if not rows:
            return []
        ticket = _Ticket(rows)
        with self._waiting_lock:
            self._waiting.append(ticket)
        with self._turn:
            if not ticket.done:  # nobody who had the turn before took this ticket along
                with self._waiting_lock:
                    tickets, self._waiting = self._waiting, []
                self._commit(tickets)
        if ticket.error is not None:
            raise ticket.error
        if self._bell is not None:
            self._bell.ring()
        return ticket.seqs

    def _commit(self, tickets: list[_Ticket]) -> None:
        try:
            self._become_writer()
            try:
                self._insert(tickets)
            except sqlite3.OperationalError as full:
                if full.sqlite_errorcode != sqlite3.SQLITE_FULL or not self._reserve.release():
                    raise
                self._insert(tickets)
            except sqlite3.DatabaseError as damaged:
                if damaged.sqlite_errorcode not in _DAMAGED:
                    raise
                self._mend()
                self._insert(tickets)
        except BaseException as error:
            told: BaseException = error
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                told = GridwatchError("spool.disk_full", path=self.path)
            for ticket in tickets:
                ticket.error, ticket.done = told, True
                self.refused_rows += len(ticket.rows)
        else:
            self.commits += 1
            if self._reserve.exhausted:
                self._reserve.hold()

    def _insert(self, tickets: list[_Ticket]) -> None:
        self._follow()
        first = self._next_seq
        numbered: list[tuple[int, str, str]] = []
        for ticket in tickets:
            ticket.seqs = list(range(first + len(numbered), first + len(numbered) + len(ticket.rows)))
            numbered += [(seq, kind, body) for seq, (kind, body) in zip(ticket.seqs, ticket.rows, strict=True)]
        with self._transaction():
            self._db.executemany("INSERT INTO rows (seq, kind, body) VALUES (?, ?, ?)", numbered)
        self._next_seq = first + len(numbered)
        self.put_rows += len(numbered)
        for ticket in tickets:
            ticket.done = True

    # ---- reading

    def read(self, limit: int, after: int = 0, kind: str | None = None) -> list[SpoolRow]:
        """The oldest `limit` rows numbered above `after`, of one kind or all, in order. Empty when nothing waits."""
        with self._turn, self._mending():
            self._follow()
            found = self._db.execute(
                "SELECT seq, kind, body FROM rows WHERE seq > ?1 AND (?2 IS NULL OR kind = ?2) ORDER BY seq LIMIT ?3",
                (after, kind, limit),
            )
            return [SpoolRow(*row) for row in found]

    def remove_through(self, seq: int, kind: str | None = None) -> None:
        """Forget every row (of one kind or all) up to and including `seq`. Not fsynced: power cuts bring rows back."""
        with self._turn, self._mending():
            self._follow()
            with self._transaction():
                self._db.execute("DELETE FROM rows WHERE seq <= ?1 AND (?2 IS NULL OR kind = ?2)", (seq, kind))
            self._shrink()

    def remove(self, seqs: Iterable[int]) -> None:
        """Forget these rows; unknown numbers are ignored."""
        with self._turn, self._mending():
            self._follow()
            with self._transaction():
                self._db.executemany("DELETE FROM rows WHERE seq = ?", [(seq,) for seq in seqs])
            self._shrink()

    @property
    def id(self) -> str:
        """The file's own name for itself: stem and a random part, another one when numbers restart."""
        with self._turn, self._mending():
            self._follow()
            return str(self._db.execute("SELECT value FROM spool WHERE name = 'id'").fetchone()[0])

    @property
    def count(self) -> int:
        """Waiting rows: exact up to 100,000, the span of their numbers above that (counting them would read them)."""
        with self._turn, self._mending():
            self._follow()
            low, high = self._db.execute("SELECT (SELECT min(seq) FROM rows), (SELECT max(seq) FROM rows)").fetchone()
            if low is None:
                return 0
            if high - low >= _EXACT_COUNT:
                return int(high - low + 1)
            return int(self._db.execute("SELECT count(*) FROM rows").fetchone()[0])

    @property
    def bytes(self) -> int:
        """What the file and its log take on disk, without the reserve."""
        total = 0
        for name in (self.path.name, self.path.name + "-wal"):
            with contextlib.suppress(FileNotFoundError):
                total += self.path.with_name(name).stat().st_size
        return total

    @property
    def on_reserve(self) -> bool:
        """True while the disk is full and the spool lives on its reserve: video must go, intake must say 503."""
        return self._reserve.exhausted

    def close(self) -> None:
        """Give the file back; rows stay. Idempotent."""
        with self._turn:
            self._db.close()
            if self._lock_fd is not None:
                os.close(self._lock_fd)
                self._lock_fd = None

    # ---- the file

    def _open(self) -> tuple[sqlite3.Connection, int]:
        deadline_s = time.monotonic() + _BUSY_S
        try:
            while True:
                try:
                    return self._connect()
                except sqlite3.OperationalError as busy:  # two open a new file at once: the change to WAL does not wait
                    if busy.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline_s:
                        raise
                    time.sleep(0.01)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode not in _DAMAGED:
                raise
            self._set_aside(error)
            return self._connect()

    def _connect(self) -> tuple[sqlite3.Connection, int]:
        db = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first table, or it does nothing
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {'FULL' if self._lock_fd is not None else 'NORMAL'}")
            db.execute(f"PRAGMA journal_size_limit = {8 << 20}")
            if db.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('spool', 'rows')").fetchone()[0] < 2:
                db.executescript("BEGIN IMMEDIATE;" + _SCHEMA + "COMMIT;")
            identity = f"{self.path.stem}/{new_id().hex[-8:]}"
            db.execute("INSERT INTO spool VALUES ('id', ?) ON CONFLICT DO NOTHING", (identity,))
            last = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'rows'").fetchone()
        except BaseException:
            db.close()
            raise
        self._next_seq = (last[0] if last else 0) + 1
        return db, self.path.stat().st_ino

    def _follow(self) -> None:
        """Open the file anew when the other process has replaced it (it was damaged, or deleted by hand)."""
        try:
            if self.path.stat().st_ino == self._inode:
                return
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._db.close()
        self._db, self._inode = self._open()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back by itself
                    self._db.execute("ROLLBACK")
            raise

    def _shrink(self) -> None:
        free_pages, page_bytes = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_size")
        )
        if free_pages * page_bytes > _SHRINK_BYTES:
            self._db.execute(f"PRAGMA incremental_vacuum({_SHRINK_PAGES})").fetchall()

    # ---- one writer

    def _become_writer(self) -> None:
        if self._lock_fd is not None:
            return
        lock_fd = _lock(self.path)
        if lock_fd is None:
            raise GridwatchError("spool.two_writers", path=self.path)
        self._lock_fd = lock_fd
        self._db.execute("PRAGMA synchronous = FULL")
        try:
            damaged = self._db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok"
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode not in _DAMAGED:
                raise
            damaged = True
        if damaged:
            self._mend()
        # The file itself must be in its folder before a row in it counts as durable.
        _sync_folder(self.path.parent)
        self._reserve.hold()

    # ---- damage

    @contextlib.contextmanager
    def _mending(self) -> Iterator[None]:
        """Damage met while reading: mend the file and raise `spool.damaged`; the caller simply asks again."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode not in _DAMAGED:
                raise
            self._mend()
            raise GridwatchError("spool.damaged", path=self.path) from error

    def _mend(self) -> None:
        """Move what can be read to a new file; `spool.damaged` when another process is the writer: it will mend."""
        lock_fd = None
        if self._lock_fd is None:
            lock_fd = _lock(self.path)
            if lock_fd is None:
                raise GridwatchError("spool.damaged", path=self.path)
        try:
            self._db.close()
            self._set_aside(None)
            self._db, self._inode = self._open()
        finally:
            if lock_fd is not None:
                os.close(lock_fd)

    def _set_aside(self, error: Exception | None) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged-{new_id().hex[-8:]}")
        for ending in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                self.path.with_name(self.path.name + ending).rename(aside.with_name(aside.name + ending))
        rows, identity = _salvage(aside)
        log.error(
            "spool file damaged: set aside, readable rows kept",
            extra={"spool": str(self.path), "aside": str(aside), "kept_rows": len(rows), "reason": str(error or "")},
        )
        db, _ = self._connect()
        with contextlib.closing(db):
            db.execute("BEGIN IMMEDIATE")
            if identity is not None:
                db.execute("UPDATE spool SET value = ? WHERE name = 'id'", (identity,))
            db.executemany("INSERT INTO rows (seq, kind, body) VALUES (?, ?, ?)", rows)
            db.execute("COMMIT")


def _salvage(path: Path) -> tuple[list[SpoolRow], str | None]:
    """Rows of a damaged file, read from both ends towards the damage; and the spool's id when it can be read."""
    kept: dict[int, SpoolRow] = {}
    identity: str | None = None
    with contextlib.suppress(sqlite3.DatabaseError), contextlib.closing(sqlite3.connect(path)) as db:
        with contextlib.suppress(sqlite3.DatabaseError):
            identity = db.execute("SELECT value FROM spool WHERE name = 'id'").fetchone()[0]
        for order in ("ASC", "DESC"):
            with contextlib.suppress(sqlite3.DatabaseError):
                for row in db.execute(f"SELECT seq, kind, body FROM rows ORDER BY seq {order}"):  # noqa: S608
                    if all(isinstance(value, kind) for value, kind in zip(row, (int, str, str), strict=True)):
                        kept[row[0]] = SpoolRow(*row)
    return [kept[seq] for seq in sorted(kept)], identity


def _lock(path: Path) -> int | None:
    """The file's writer lock as an open descriptor, or None when another holds it."""
    fd = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

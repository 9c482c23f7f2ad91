"""The embedded PostgreSQL: the default store of a town that has no database server of its own.

Life: `start` takes the home's lock, ends a server that a killed predecessor left behind, makes the data folder when
there is none, starts the server and returns a connection string once it answers. `stop` is a fast shutdown. When the
server dies in between, `alive` says so and `keep` starts it again at the same address.

Who gets in: no TCP; a socket in a folder with mode 0700; scram-sha-256 with a random password that lies in a 0600 file.
The connection string names that file, so it can be printed.

Bad cases. Parent killed with -9: the kernel tells the server to shut down. Server killed with -9: the next start
recovers from its log. Parent folder closed to the server's account (a home below /root): the data folder is handed over
as an open descriptor, its parents stay as they are. Data of another major version: refused with a sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import psycopg

from command.store.pg_account import Account
from command.store.pg_binaries import binaries_for, major_version
from ingest.errors import GridwatchError

log = logging.getLogger(__name__)

USER = DATABASE = "gridwatch"
_LONGEST_FOLDER = 107 - len("/.s.PGSQL.5432.lock")
_SOCKET_PREFIX = "gridwatch-pg-"  # below the temporary folder, where the run folder does not serve
_LOG_BYTES = 16 << 20
_SHIM = Path(__file__).with_name("pg_exec.py")
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    "shared_buffers": "128MB",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %d ",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",  # its compilation costs more than these queries
    "random_page_cost": "1.1",
    "max_wal_size": "2GB",
    "wal_compression": "on",
    "idle_in_transaction_session_timeout": "5min",  # a hung client must not hold locks for ever
}


class EmbeddedPostgres:
    """One server over one data folder. Methods block; call them from a thread in asyncio programs. Not re-entrant.

    `data_dir` is made when absent; beside it live `<data_dir>.log` and `<data_dir>.lock`. `run_dir` gets the socket
    folder. `secrets_dir` (default: `secrets` beside the data) gets the password file. `settings` add to the server's.
    """

    def __init__(
        self,
        data_dir: Path,
        run_dir: Path,
        *,
        secrets_dir: Path | None = None,
        settings: dict[str, str] | None = None,
        start_timeout_s: float = 60.0,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.run_dir = run_dir.absolute()
        self.secrets_dir = (secrets_dir or self.data_dir.parent / "secrets").absolute()
        self.log_path = self.data_dir.with_name(self.data_dir.name + ".log")
        self._settings = {**_SETTINGS, **(settings or {})}
        self._start_timeout_s = start_timeout_s
        self._lock_fd: int | None = None
        self._data_fd: int | None = None
        self._socket_dir: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()
        self._ended.set()
        self._stopping = False

    @classmethod
    def for_home(cls, home: Path) -> EmbeddedPostgres:
        """The server of a Gridwatch home (`settings.home`)."""
        return cls(home / "pg", home / "run")

    @property
    def passfile(self) -> Path:
        """The password in libpq's format, 0600."""
        return self.secrets_dir / "postgres.pgpass"

    @property
    def conninfo(self) -> str:
        """The connection string of the started server; holds no password itself."""
        assert self._socket_dir is not None, "not started"
        return _conninfo(self._socket_dir, DATABASE, self.passfile)

    @property
    def pid(self) -> int | None:
        """The server's process id while it lives."""
        return self._process.pid if self._process is not None and self.alive() else None

    def start(self) -> str:
        """Start the server, or do nothing when it lives; returns the connection string.

        Raises:
            GridwatchError: `store.home_in_use`, `store.version_differs`, `store.no_binaries`, `store.unreachable`,
                `store.not_empty`, `store.initdb_failed`, `store.start_failed`.
        """
        if self.alive():
            return self.conninfo
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            _end_strays(self.data_dir)
            account = Account.for_data(self.data_dir)
            binaries = binaries_for(account, self.data_dir.parent)
            self._check_version(binaries)
            if self._socket_dir is None or not self._socket_dir.is_dir():
                self._socket_dir = self._make_socket_dir(account)
            if not (self.data_dir / "PG_VERSION").exists():
                self._initialise(account, binaries)
            self._launch(account, binaries)
            self._await_ready()
        except BaseException:
            self.stop()
            raise
        return self.conninfo

    def stop(self) -> None:
        """Fast shutdown: clients are cut, what was committed is safe. Idempotent."""
        self._stopping = True
        process = self._process
        if process is not None:
            for number, patience_s in ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0)):
                if self._ended.is_set():
                    break
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)
                self._ended.wait(patience_s)
            self._process = None
        if self._socket_dir is not None:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
            self._socket_dir = None
        for fd in (self._data_fd, self._lock_fd):
            if fd is not None:
                os.close(fd)
        self._data_fd = self._lock_fd = None

    def alive(self) -> bool:
        """Whether the server process lives (it may still be recovering)."""
        return self._process is not None and not self._ended.is_set()

    async def keep(self, poll_s: float = 0.2, longest_wait_s: float = 5.0) -> None:
        """Start the server again whenever it dies, until cancelled; waits grow while it will not stay up."""
        wait_s = 0.0
        up_since_s = time.monotonic()
        while True:
            await asyncio.sleep(poll_s)
            if self.alive() or self._stopping:
                continue
            wait_s = 0.0 if time.monotonic() - up_since_s > 60 else min(longest_wait_s, max(0.25, wait_s * 2))
            log.error("database server died and is started again", extra={"log": str(self.log_path), "wait_s": wait_s})
            await asyncio.sleep(wait_s)
            try:
                await asyncio.to_thread(self._restart)
            except (GridwatchError, OSError) as error:
                log.error("database server does not start", extra={"reason": str(error)})
            up_since_s = time.monotonic()

    def _restart(self) -> None:
        _end_strays(self.data_dir)
        account = Account.for_data(self.data_dir)
        self._launch(account, binaries_for(account, self.data_dir.parent))
        self._await_ready()

    # ---- the steps of a start

    def _take_lock(self) -> None:
        if self._lock_fd is not None:
            return
        path = self.data_dir.with_name(self.data_dir.name + ".lock")
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise GridwatchError("store.home_in_use", home=self.data_dir.parent) from None
        self._lock_fd = fd

    def _check_version(self, binaries: Path) -> None:
        try:
            data = int((self.data_dir / "PG_VERSION").read_text())
        except FileNotFoundError:
            return
        program = major_version(binaries)
        if data != program:
            raise GridwatchError("store.version_differs", path=self.data_dir, data=data, program=program)

    def _make_socket_dir(self, account: Account) -> Path:
        folder = self.run_dir / "pg"
        self.run_dir.mkdir(parents=True, exist_ok=True)
        if len(os.fsencode(folder)) > _LONGEST_FOLDER or not account.can_enter(self.run_dir):
            folder = Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX))
        else:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        folder.chmod(0o700)
        account.own(folder)
        return folder

    def _initialise(self, account: Account, binaries: Path) -> None:
        """Make the data folder beside its final place and rename it: a killed `initdb` leaves no half of one."""
        started_s = time.monotonic()
        if self.data_dir.exists() and any(self.data_dir.iterdir()):
            raise GridwatchError("store.not_empty", path=self.data_dir)
        half = self.data_dir.with_name(self.data_dir.name + ".new")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(mode=0o700)
        maker = account.initdb_account()
        maker.own(half)
        password = secrets.token_urlsafe(32)
        self._write_passfile(password)
        folder_fd = os.open(half, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with tempfile.TemporaryDirectory(prefix="gridwatch-initdb-") as exchange:
            password_file = Path(exchange) / "password"
            password_file.touch(0o600)
            password_file.write_text(password)
            for path in (password_file, Path(exchange)):
                maker.own(path)
            command = [
                str(binaries / "bin" / "initdb"),
                f"--pgdata={self._as_seen_by(maker, half, folder_fd)}",
                f"--username={USER}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--locale=C.UTF-8",
                "--data-checksums",
                "--no-instructions",
            ]
            try:
                made = subprocess.run(
                    _shim(maker, signal.SIGKILL) + command,
                    cwd="/",
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    pass_fds=[folder_fd],
                )
            finally:
                os.close(folder_fd)
        if made.returncode != 0:
            raise GridwatchError("store.initdb_failed", path=self.data_dir, reason=made.stderr.strip()[-600:])
        account.own_tree(half)
        with contextlib.suppress(FileNotFoundError):
            self.data_dir.rmdir()
        half.rename(self.data_dir)
        log.info(
            "database created", extra={"path": str(self.data_dir), "took_s": round(time.monotonic() - started_s, 2)}
        )

    def _write_passfile(self, password: str) -> None:
        self.secrets_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self.passfile, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            os.fchmod(fd, 0o600)
            file.write(f"*:*:*:{USER}:{password}\n")
            file.flush()
            os.fsync(fd)

    @staticmethod
    def _as_seen_by(account: Account, folder: Path, folder_fd: int) -> str:
        """The folder's path, or the open descriptor's when a parent is closed to the account."""
        return str(folder) if account.can_enter(folder.parent) else f"/proc/self/fd/{folder_fd}"

    def _launch(self, account: Account, binaries: Path) -> None:
        assert self._socket_dir is not None
        if self._data_fd is None:
            self._data_fd = os.open(self.data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if self.log_path.exists() and self.log_path.stat().st_size > _LOG_BYTES:
            self.log_path.replace(self.log_path.with_name(self.log_path.name + ".1"))
        command = [str(binaries / "bin" / "postgres"), "-D", self._as_seen_by(account, self.data_dir, self._data_fd)]
        for name, value in {**self._settings, "unix_socket_directories": str(self._socket_dir)}.items():
            command += ["-c", f"{name}={value}"]
        self._stopping = False
        started = threading.Event()
        failure: list[OSError] = []
        data_fd = self._data_fd

        def hold() -> None:
            # The kernel's order to end the server fires when the *thread* that started it ends, so this one stays.
            try:
                with self.log_path.open("ab") as log_file:
                    process = subprocess.Popen(
                        _shim(account, signal.SIGINT) + command,
                        cwd="/",
                        env=_environment(),
                        stdin=subprocess.DEVNULL,
                        stdout=log_file,
                        stderr=log_file,
                        pass_fds=[data_fd],
                    )
            except OSError as error:
                failure.append(error)
                started.set()
                return
            self._process = process
            self._ended.clear()
            started.set()
            process.wait()
            self._ended.set()

        threading.Thread(target=hold, name="embedded-postgres", daemon=True).start()
        started.wait()
        if failure:
            raise failure[0]

    def _await_ready(self) -> None:
        assert self._socket_dir is not None
        deadline_s = time.monotonic() + self._start_timeout_s
        while True:
            try:
                with psycopg.connect(
                    _conninfo(self._socket_dir, "postgres", self.passfile), autocommit=True, connect_timeout=5
                ) as connection:
                    found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
                    if found is None:
                        connection.execute(f"CREATE DATABASE {DATABASE}")
                    return
            except psycopg.OperationalError as error:
                if self._ended.is_set() or time.monotonic() > deadline_s:
                    raise GridwatchError(
                        "store.start_failed", path=self.data_dir, log=self.log_path, reason=self._last_words(error)
                    ) from error
            self._ended.wait(0.02)

    def _last_words(self, error: Exception) -> str:
        with contextlib.suppress(OSError):
            lines = self.log_path.read_text(errors="replace").splitlines()
            if told := [line for line in lines[-20:] if "FATAL" in line or "PANIC" in line or "ERROR" in line]:
                return told[-1]
        return str(error)


def running_conninfo(home: Path) -> str | None:
    """The connection string of the embedded server that another process runs for this home, or None."""
    data_dir = home / "pg"
    try:
        lines = (data_dir / "postmaster.pid").read_text().splitlines()
        pid, socket_dir = int(lines[0]), lines[4]
    except (OSError, ValueError, IndexError):
        return None
    if pid not in {process.pid for process in _servers_over(data_dir)}:
        return None
    return _conninfo(Path(socket_dir), DATABASE, home / "secrets" / "postgres.pgpass")


def _conninfo(socket_dir: Path, database: str, passfile: Path) -> str:
    return psycopg.conninfo.make_conninfo(host=str(socket_dir), user=USER, dbname=database, passfile=str(passfile))


def _shim(account: Account, number: signal.Signals) -> list[str]:
    return [sys.executable, "-I", "-S", str(_SHIM), str(os.getpid()), str(int(number)), *account.words()]


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _servers_over(data_dir: Path) -> list[psutil.Process]:
    """Every PostgreSQL process whose working folder is `data_dir`: the postmaster and its children."""
    found = []
    real = data_dir.resolve()
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error, OSError):
            if process.info["name"] == "postgres" and Path(process.cwd()) == real:
                found.append(process)
    return found


def _end_strays(data_dir: Path) -> None:
    """End servers that a killed predecessor left over this folder (we hold its lock), then forget their pid file.

    A pid file whose number now belongs to somebody else would make PostgreSQL refuse to start.
    """
    for number, patience_s in ((signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        strays = _servers_over(data_dir)
        if not strays:
            break
        log.warning("ending a server left over from a killed run", extra={"pids": [stray.pid for stray in strays]})
        for stray in strays:
            # a child told to go by itself would make its living postmaster restart everybody
            if not any(parent.pid == stray.ppid() for parent in strays) or number is signal.SIGKILL:
                with contextlib.suppress(psutil.Error):
                    stray.send_signal(number)
        deadline_s = time.monotonic() + patience_s
        while _servers_over(data_dir) and time.monotonic() < deadline_s:  # wait() would wait for zombies too
            time.sleep(0.02)
    pid_file = data_dir / "postmaster.pid"
    with contextlib.suppress(OSError, IndexError):
        socket_dir = Path(pid_file.read_text().splitlines()[4])
        if socket_dir.name.startswith(_SOCKET_PREFIX):
            shutil.rmtree(socket_dir, ignore_errors=True)
    pid_file.unlink(missing_ok=True)

"""`gridwatch patrol PERSON`: a patroller's terminal over `command.dispatch.patrol.PatrolDevice`."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

import click

from command.cli import lang, say
from command.dispatch.accounts import Accounts
from command.dispatch.address import MqttAddress
from command.dispatch.patrol import PatrolDevice
from command.dispatch.states import task_is_open
from command.dispatch.topics import check_person_id
from command.dispatch.wire import Answer, AnswerStep, TaskMessage
from command.settings import Settings
from ingest.clock import SystemClock
from ingest.errors import GridwatchError, sentence
from ingest.logs import set_up_logs

STEPS: dict[str, AnswerStep] = {"accept": "accepted", "onsite": "on_site", "done": "done", "refuse": "refused"}
AUTO = ("accept", "report")


class Terminal:
    """What the person sees and types. Tasks get small numbers in the order in which this run met them."""

    def __init__(
        self, device: PatrolDevice, zone: ZoneInfo, auto: frozenset[str], say_line: Callable[[str], None]
    ) -> None:
        self._device = device
        self._zone = zone
        self._auto = auto
        self._say_line = say_line
        self._numbers: dict[UUID, int] = {}
        self.left = asyncio.Event()
        device.on_task = self._hear
        device.on_settled = self._settled
        device.on_connection = lambda up: say_line(say("patrol.online" if up else "patrol.offline"))
        for task in device.tasks.values():
            self._number(task)

    def _number(self, task: TaskMessage) -> int:
        assert task.task_id is not None
        return self._numbers.setdefault(task.task_id, len(self._numbers) + 1)

    def show(self, task: TaskMessage) -> None:
        """Print one task in one to three lines."""
        at = task.offered_at.astimezone(self._zone).strftime("%m-%d %H:%M:%S") if task.offered_at else ""
        title = task.title_en if lang() == "en" else task.title_zh
        self._say_line(
            say(
                "patrol.task",
                number=self._number(task),
                state=say(f"patrol.state.{task.task_state}"),
                title=title or task.code,
                case=task.case_number,
                camera=task.camera_name or task.camera_id or "-",
                grid=task.grid_id or "-",
                at=at,
            )
        )
        if task.task_state == "offered" and task.lon is not None and task.lat is not None:
            place = {"lon": f"{task.lon:.5f}", "lat": f"{task.lat:.5f}"}
            self._say_line(say("patrol.task_place", zone=task.zone_id or "-", **place))
        if task.note:
            self._say_line(say("patrol.task_note", note=_printable(task.note)))

    def _hear(self, task: TaskMessage) -> None:
        self.show(task)
        self.act(task)

    def act(self, task: TaskMessage) -> None:
        """What `--auto` does with a task; nothing when its steps are under way already."""
        if task.task_id is None or any(answer.task_id == task.task_id for answer in self._device.unsettled):
            return
        if self._auto and task.task_state in ("offered", "received"):
            self._device.answer(task.task_id, "accepted")
        if "report" in self._auto and task.task_state in ("offered", "received", "accepted", "on_site"):
            self._device.answer(task.task_id, "done", say("patrol.auto_note"))

    def _settled(self, answer: Answer, message: TaskMessage) -> None:
        facts = {"number": self._numbers.get(answer.task_id, "?"), "step": say(f"patrol.state.{answer.step}")}
        if message.answer_applied:
            self._say_line(say("patrol.applied", **facts))
        else:
            why = sentence(message.answer_why or "answer.invalid", lang())
            self._say_line(say("patrol.not_applied", why=why, **facts))

    def obey(self, line: str) -> None:
        """Do what the person typed."""
        verb, _, rest = line.strip().partition(" ")
        verb = verb.lower()
        if verb in ("quit", "exit"):
            self.left.set()
        elif verb == "help":
            self._say_line(say("patrol.commands"))
        elif verb == "list":
            self.list()
        elif verb in STEPS:
            number, _, note = rest.strip().partition(" ")
            self._step(STEPS[verb], number, note.strip() or None)
        elif verb:
            self._say_line(say("patrol.what", word=_printable(verb)))

    def list(self) -> None:
        """Print the open tasks, and how many steps wait."""
        shown = [task for task in self._device.tasks.values() if task_is_open(task.task_state or "offered")]
        for task in shown:
            self.show(task)
        if not shown:
            self._say_line(say("patrol.none"))
        if waiting := len(self._device.unsettled):
            self._say_line(say("patrol.unsettled", count=waiting))

    def _step(self, step: AnswerStep, number: str, note: str | None) -> None:
        task_id = next((one for one, place in self._numbers.items() if str(place) == number), None)
        if task_id is None or task_id not in self._device.tasks:
            self._say_line(say("patrol.which", number=_printable(number)))
            return
        try:
            self._device.answer(task_id, step, note[:2000] if note else None)
        except OSError as error:
            self._say_line(say("patrol.not_written", why=error))
            return
        self._say_line(say("patrol.kept", number=number, step=say(f"patrol.state.{step}")))


async def patrol(device: PatrolDevice, zone: ZoneInfo, auto: frozenset[str], read_lines: bool = True) -> None:
    """Run the terminal until the person leaves; with `--auto` end of input does not end it."""
    terminal = Terminal(device, zone, auto, lambda line: click.echo(line))
    click.echo(say("patrol.welcome", person=device.person_id, host=device.address.host, port=device.address.port))
    for task in list(device.tasks.values()):
        if task_is_open(task.task_state or "offered"):
            terminal.show(task)
            terminal.act(task)
    lines: asyncio.Queue[str | None] = asyncio.Queue(1000)
    if read_lines:
        _read_stdin(asyncio.get_running_loop(), lines)
    running = asyncio.create_task(device.run(), name="patrol-device")
    typing = asyncio.create_task(_obey(terminal, lines, ends=not auto), name="patrol-typing")
    leaving = asyncio.create_task(terminal.left.wait(), name="patrol-leaving")
    try:
        await asyncio.wait((running, typing, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for part in (running, typing, leaving):
            part.cancel()
        results = await asyncio.gather(running, typing, leaving, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _obey(terminal: Terminal, lines: asyncio.Queue[str | None], ends: bool) -> None:
    while (line := await lines.get()) is not None:
        terminal.obey(line)
    if ends:
        terminal.left.set()
    await asyncio.get_running_loop().create_future()


def _read_stdin(loop: asyncio.AbstractEventLoop, lines: asyncio.Queue[str | None]) -> None:
    """Read lines in a thread: works on terminals, pipes and files alike, and ends with the process."""

    def put(line: str | None) -> None:
        with contextlib.suppress(RuntimeError, asyncio.CancelledError):  # the loop has ended
            asyncio.run_coroutine_threadsafe(lines.put(line), loop).result()

    def read() -> None:
        for line in sys.stdin:
            put(line)
        put(None)

    threading.Thread(target=read, name="patrol-stdin", daemon=True).start()


def _printable(text: str) -> str:
    """Text from elsewhere without control characters, so that it cannot drive the terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the device's file for this process: two terminals of one person would overwrite each other's steps."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.with_name(path.name + ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GridwatchError("patrol.already", path=path) from None
        yield


@click.command("patrol", help=say("patrol.help"), short_help=say("patrol.help").partition("\n")[0])
@click.argument("person")
@click.option("--url", metavar="URL", help=say("patrol.help.url"))
@click.option("--password", envvar="GRIDWATCH_PATROL_PASSWORD", help=say("patrol.help.password"))
@click.option("--auto", metavar="accept,report", default="", help=say("patrol.help.auto"))
@click.option("--state", type=click.Path(path_type=Path, dir_okay=False), help=say("patrol.help.state"))
def command(person: str, url: str | None, password: str | None, auto: str, state: Path | None) -> None:
    """The click command; its help is `patrol.help`."""
    settings = Settings.from_environment(mqtt_url=url)
    chosen = frozenset(word.strip() for word in auto.split(",") if word.strip())
    if unknown := chosen - set(AUTO):
        raise GridwatchError("patrol.auto_unknown", word=sorted(unknown)[0])
    check_person_id(person)
    set_up_logs("patrol")
    address = MqttAddress.of_url(
        settings.mqtt_url or f"mqtt://127.0.0.1:{settings.mqtt_port}",
        person,
        password or Accounts(settings.secrets).password(person),
    )
    path = state or _state_folder(settings) / f"{person}.json"
    with _alone(path):
        device = PatrolDevice(address, person, SystemClock(), path)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(patrol(device, settings.zone, chosen))


def _state_folder(settings: Settings) -> Path:
    """Beside the data where this user may write it, else in the user's own data folder."""
    if os.access(settings.home, os.W_OK):
        return settings.home / "patrol"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "gridwatch/patrol"

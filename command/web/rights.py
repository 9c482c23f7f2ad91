"""Rights: every route, WebSocket and mount declares beside its code what it needs.

`dependencies=[right("cases.read")]` declares and enforces; `RightedFiles` does it for static files. `refuse_undeclared`
runs when the application is built and stops it when something declares nothing. Until accounts exist `check` allows
everybody, which is bearable only because `require_loopback` lets nobody in from outside this machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.routing import iter_route_contexts
from starlette.requests import HTTPConnection
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from ingest.errors import GridwatchError

RIGHTS: dict[str, tuple[str, str]] = {
    "page.open": ("打开指挥页面", "open the page"),
    "api.describe": ("查看接口说明", "read the description of the API"),
    "cameras.read": ("查看摄像头的清单和状态", "see the list and the state of cameras"),
    "cameras.watch": ("观看摄像头画面", "watch a camera's pictures"),
    "grids.read": ("查看网格", "see the grids"),
    "events.read": ("查看事件", "see events"),
    "evidence.read": ("查看事件的证据图片", "see the evidence of events"),
    "cases.read": ("查看案件", "see cases"),
    "cases.step": ("推进案件（核查、结案、作废、退回）", "move a case on (verify, close, dismiss, send back)"),
    "tasks.read": ("查看任务", "see tasks"),
    "town.read": ("查看全镇概况", "see the town at a glance"),
    "live.listen": ("接收实时变化", "listen to changes as they happen"),
    "health.read": ("查看运行状况", "see whether the parts run"),
    "metrics.read": ("读取监控指标", "read the metrics"),
}


class UndeclaredRouteError(Exception):
    """A route declares no right: a programming error, found before the first request."""


class Right:
    """One named right as a dependency of a route."""

    def __init__(self, name: str) -> None:
        if name not in RIGHTS:
            raise UndeclaredRouteError(f"the right {name!r} is not in RIGHTS")
        self.name = name

    async def __call__(self, connection: HTTPConnection) -> None:
        check(self.name, connection)


def right(name: str) -> Any:
    """The dependency that declares and enforces a right: `@router.get(…, dependencies=[right("cases.read")])`."""
    return Depends(Right(name))


def check(name: str, connection: HTTPConnection) -> None:
    """Whether this caller has the right. There are no accounts yet: everybody on this machine has every right."""
    assert name in RIGHTS, name


class RightedFiles(StaticFiles):
    """Static files behind a right, checked by the browser at each use so that a new version is seen at once."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(**options)
        self.right = Right(name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        check(self.right.name, HTTPConnection(scope))
        await super().__call__(scope, receive, send)

    def file_response(self, *args: Any, **options: Any) -> Any:
        response = super().file_response(*args, **options)
        response.headers["cache-control"] = "no-cache"
        return response


@dataclass(frozen=True)
class Declared:
    """One way into the application and what it needs."""

    path: str
    methods: tuple[str, ...]
    rights: tuple[str, ...]


def declared(app: FastAPI) -> Iterator[Declared]:
    """Every route, WebSocket and mount with its rights, in order of registration."""
    for route in iter_route_contexts(app.routes):
        kind = "MOUNT" if isinstance(route.original_route, Mount) else "WEBSOCKET"
        methods = tuple(sorted(route.methods or {kind}))
        mounted = getattr(getattr(route.original_route, "app", None), "right", None)
        names = [mounted.name] if isinstance(mounted, Right) else []
        dependant = getattr(route, "dependant", None)
        if dependant is not None:
            names += [found.call.name for found in dependant.dependencies if isinstance(found.call, Right)]
        yield Declared(route.path or "?", methods, tuple(names))


def refuse_undeclared(app: FastAPI) -> None:
    """Stop a start with a hole in it.

    Raises:
        UndeclaredRouteError: names each path that declares no right.
    """
    holes = [f"{'/'.join(entry.methods)} {entry.path}" for entry in declared(app) if not entry.rights]
    if holes:
        raise UndeclaredRouteError("no right is declared by: " + ", ".join(holes))


def is_loopback(host: str) -> bool:
    """Whether a bare host name or address can only mean this machine. Names other than localhost are not resolved."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def require_loopback(host: str) -> None:
    """Refuse to listen anywhere but on this machine while nobody has to sign in.

    Raises:
        GridwatchError: `web.not_loopback`.
    """
    if not is_loopback(host):
        raise GridwatchError("web.not_loopback", host=host)

"""A maker's dialogue: the plain camera with some of its answers replaced by what the maker's firmware says.

All dialogues are reconstructed from public descriptions (the source stands beside each test), with pictures of our own
in place of the cameras'. Addresses in what a camera says are as published: clients must not depend on them.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from ingest.access_unit import AccessUnit
from tests.ingest.rtsp.encoded import Clip, decode, encode
from tests.ingest.rtsp.scripted_camera import Asked, Dialogue, ScriptedCamera, Watched, opened

Says = str | Callable[[Dialogue, Asked], None]


def sprop(clip: Clip) -> str:
    """The clip's SPS and PPS as H.264's `sprop-parameter-sets` wants them."""
    return ",".join(base64.b64encode(nal).decode() for nal in clip.sets)


def maker(says: dict[str, Says], *, clip: Clip | None = None, login: str | None = None) -> ScriptedCamera:
    """A camera that answers a method with `says[method]`: bytes as text, or a function. `login` asks for it first.

    In a text `{cseq}`, `{uri}`, `{port}`, `{transport}`, `{sprop}` and `{space}` are filled in, lines are
    joined by CR LF, and the body's length is put where `{length}` stands.
    """
    chosen = clip or encode()

    def script(dialogue: Dialogue, asked: Asked) -> bool:
        if login is not None and "authorization" not in asked.headers and asked.method != "OPTIONS":
            dialogue.writer.write(fill(login, dialogue, asked))
            return True
        said = says.get(asked.method)
        if said is None:
            return False
        if isinstance(said, str):
            dialogue.writer.write(fill(said, dialogue, asked))
            if asked.method == "PLAY":
                dialogue.play()
        else:
            said(dialogue, asked)
        return True

    def fill(text: str, dialogue: Dialogue, asked: Asked) -> bytes:
        facts = {
            "cseq": asked.headers.get("cseq", ""),
            "uri": asked.uri,
            "port": str(camera.port),
            "transport": asked.headers.get("transport", ""),
            "space": " ",  # at the end of a line, where an editor would take it away
            "sprop": sprop(chosen) if chosen.codec == "h264" else "",
        }
        for name, value in facts.items():
            text = text.replace("{" + name + "}", value)
        head, _, body = text.lstrip("\n").replace("\n", "\r\n").partition("\r\n\r\n")
        return (head.replace("{length}", str(len(body.encode()))) + "\r\n\r\n" + body).encode()

    camera = ScriptedCamera(script, chosen)
    return camera


def sends(stream: Sequence[bytes]) -> Callable[[Dialogue, Asked], None]:
    """PLAY is answered and followed by these bytes."""

    def play(dialogue: Dialogue, asked: Asked) -> None:
        dialogue.answer(asked, "200 OK", "Session: 77")
        for piece in stream:
            dialogue.writer.write(piece)

    return play


@asynccontextmanager
async def watching(stream: Sequence[bytes], clip: Clip | None = None, *, sets: bool = True) -> AsyncIterator[Watched]:
    camera = maker({"PLAY": sends(stream)}, clip=clip)
    if not sets:
        camera.sdp = camera.clip.sdp(sets=False)
    async with camera.running(), opened(camera) as watched:
        yield watched


async def all_of(stream: Sequence[bytes], clip: Clip | None = None, *, sets: bool = True) -> list[AccessUnit]:
    """The twenty units of a clip, complete, in order, none invented."""
    async with watching(stream, clip, sets=sets) as watched:
        units = list(await watched.wait_for(20))
        assert watched.session.lost_packets == 0, watched.session.why_no_unit
    assert decode(units) == [(320, 180)] * 20
    assert all(a.dts_90k < b.dts_90k for a, b in itertools.pairwise(units))
    return units

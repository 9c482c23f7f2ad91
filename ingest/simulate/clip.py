"""A clip in memory: access units packetised once on loading, then looped by any number of cameras."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import av

from ingest.access_unit import Codec
from ingest.simulate.bitstream import PARAMETER_SETS, is_encoder_noise, nal_type, split_annex_b
from ingest.simulate.packetiser import PAYLOAD_TYPE, PacketisedUnit, packetise

ParameterSetPlace = Literal["both", "sdp", "inband"]


@dataclass(frozen=True)
class Clip:
    """`units` stand in decoding order; `duration_90k` is what one turn of the loop adds to every timestamp."""

    scene: str
    profile: str
    codec: Codec
    width: int
    height: int
    duration_90k: int
    units: tuple[PacketisedUnit, ...]
    parameter_sets: tuple[bytes, ...]  # (VPS,) SPS, PPS of the first keyframe, raw NAL units
    facts: dict[str, Any]  # the JSON beside the clip: recipe and ground truth

    @property
    def duration_s(self) -> float:
        """Length of one turn."""
        return self.duration_90k / 90000

    @cached_property
    def keyframes(self) -> tuple[int, ...]:
        """Indices of the units that a viewer can start at; the first unit is one."""
        return tuple(index for index, unit in enumerate(self.units) if unit.is_keyframe)

    def sdp(self, session: int, place: ParameterSetPlace = "both") -> str:
        """A session description (RFC 4566) with the parameter sets in it unless they come in band only."""
        encoded = [base64.b64encode(nal).decode() for nal in self.parameter_sets]
        fmtp: list[str] = []
        if self.codec == "hevc":
            name = "H265"
            if place != "inband":
                names = ("sprop-vps", "sprop-sps", "sprop-pps")
                fmtp = [f"{key}={value}" for key, value in zip(names, encoded, strict=True)]
        else:
            name = "H264"
            fmtp = ["packetization-mode=1", f"profile-level-id={self.parameter_sets[0][1:4].hex()}"]
            if place != "inband":
                fmtp.append("sprop-parameter-sets=" + ",".join(encoded))
        lines = [
            "v=0",
            f"o=- {session} 1 IN IP4 127.0.0.1",
            "s=Gridwatch simulated camera",
            "c=IN IP4 0.0.0.0",
            "t=0 0",
            "a=control:*",
            "a=range:npt=now-",
            f"m=video 0 RTP/AVP {PAYLOAD_TYPE}",
            f"a=rtpmap:{PAYLOAD_TYPE} {name}/90000",
            *([f"a=fmtp:{PAYLOAD_TYPE} " + "; ".join(fmtp)] if fmtp else []),
            "a=control:track1",
        ]
        return "\r\n".join(lines) + "\r\n"


def load_clip(path: Path) -> Clip:
    """Read an encoded clip and the JSON beside it (`<name>.json`).

    Raises:
        OSError, ValueError: the file is missing or is no clip of ours; `ClipLibrary` makes a sentence of it.
    """
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    units: list[PacketisedUnit] = []
    sets: dict[int, bytes] = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec: Codec = "hevc" if stream.codec_context.name == "hevc" else "h264"
        annex_b = av.BitStreamFilterContext(f"{'hevc' if codec == 'hevc' else 'h264'}_mp4toannexb", stream)
        if stream.time_base is None:
            raise ValueError(f"{path.name} has no time base")
        to_90k = 90000 * stream.time_base
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            for filtered in annex_b.filter(packet):
                nals = [nal for nal in split_annex_b(bytes(filtered)) if not is_encoder_noise(nal, codec)]
                for nal in nals:
                    if nal_type(nal, codec) in PARAMETER_SETS[codec]:
                        sets.setdefault(nal_type(nal, codec), nal)
                if filtered.pts is None or filtered.dts is None:
                    raise ValueError(f"{path.name} has a frame without time")
                pts_90k, dts_90k = round(filtered.pts * to_90k), round(filtered.dts * to_90k)
                units.append(packetise(nals, codec, pts_90k, dts_90k, bool(filtered.is_keyframe)))
        width, height = stream.codec_context.width, stream.codec_context.height
    if not units or not units[0].is_keyframe or set(sets) != set(PARAMETER_SETS[codec]):
        raise ValueError(f"{path.name} does not start with a keyframe and its parameter sets")
    return Clip(
        scene=facts["scene"],
        profile=facts["profile"],
        codec=codec,
        width=width,
        height=height,
        duration_90k=facts["duration_90k"],
        units=tuple(units),
        parameter_sets=tuple(sets[kind] for kind in PARAMETER_SETS[codec]),
        facts=facts,
    )

"""The parameter sets of one stream: learnt from SDP and in-band, put in front of every keyframe. No I/O.

One VPS and SPS, and up to `MAX_PPS` PPS by id, are kept; a new SPS forgets the PPS of the old one. A set that cannot
be read is not learnt, so the last good one stays in force.
"""

from __future__ import annotations

from dataclasses import replace

from ingest.access_unit import Codec, StreamFormat
from ingest.rtsp.bits import BitReader, BitsError
from ingest.rtsp.sps import parse_h264_sps, parse_h265_sps

MAX_PPS = 8
MAX_SET_BYTES = 4096
START_CODE = b"\0\0\0\1"

_H264_SPS, _H264_PPS = 7, 8
_H265_VPS, _H265_SPS, _H265_PPS = 32, 33, 34


class ParameterSets:
    """`format` is None until an SPS and a PPS (and for H.265 a VPS) are known; a new object whenever they change."""

    def __init__(self, codec: Codec) -> None:
        self.codec: Codec = codec
        self.format: StreamFormat | None = None
        self.prefix = b""  # all sets as Annex B
        self.prefix_offsets: tuple[int, ...] = ()
        self.reorder_said: int | None = None  # None: the SPS does not say
        self.last_problem: str | None = None
        self._vps: bytes | None = None
        self._sps: bytes | None = None
        self._pps: dict[int, bytes] = {}

    def learn(self, nals: list[bytes]) -> bool:
        """Take in the parameter sets among `nals`; True when `format` has become another one."""
        changed = False
        for nal in sorted(nals, key=self._rank):
            changed |= self._learn(nal)
        if changed:
            self._rebuild()
        return changed

    def observe_reorder(self, depth: int) -> None:
        """The stream reorders deeper than its SPS says (or it says nothing): a new format with the depth seen."""
        if self.format is not None:
            self.format = replace(self.format, reorder_depth=depth)

    def _rank(self, nal: bytes) -> int:
        kind = self._kind(nal)
        return {_H265_VPS: 0, _H264_SPS: 1, _H265_SPS: 1}.get(kind, 2)

    def _kind(self, nal: bytes) -> int:
        if not nal:
            return -1
        return nal[0] & 0x1F if self.codec == "h264" else (nal[0] >> 1) & 0x3F

    def _learn(self, nal: bytes) -> bool:
        kind = self._kind(nal)
        if len(nal) > MAX_SET_BYTES or len(nal) < 3:
            return False
        if kind == (_H264_PPS if self.codec == "h264" else _H265_PPS):
            return self._learn_pps(nal)
        if kind == (_H264_SPS if self.codec == "h264" else _H265_SPS):
            if nal == self._sps:
                return False
            try:
                parse_h264_sps(nal) if self.codec == "h264" else parse_h265_sps(nal)
            except BitsError as error:
                self.last_problem = str(error)
                return False
            self._sps, self._pps = nal, {}
            return True
        if self.codec == "hevc" and kind == _H265_VPS and nal != self._vps:
            self._vps = nal
            return True
        return False

    def _learn_pps(self, nal: bytes) -> bool:
        try:
            number = BitReader(nal[1:24] if self.codec == "h264" else nal[2:24]).ue()
        except BitsError as error:
            self.last_problem = str(error)
            return False
        if self._pps.get(number) == nal or (number not in self._pps and len(self._pps) >= MAX_PPS):
            return False
        self._pps[number] = nal
        return True

    def _rebuild(self) -> None:
        if self._sps is None or not self._pps or (self.codec == "hevc" and self._vps is None):
            self.format, self.prefix, self.prefix_offsets = None, b"", ()
            return
        sps = self._sps
        facts = parse_h264_sps(sps) if self.codec == "h264" else parse_h265_sps(sps)
        self.reorder_said = facts.reorder_depth
        self.format = StreamFormat(
            codec=self.codec,
            sps=sps,
            pps=self._pps[min(self._pps)],
            vps=self._vps,
            width=facts.width,
            height=facts.height,
            profile_level_id=sps[1:4].hex() if self.codec == "h264" else "",
            reorder_depth=facts.reorder_depth or 0,
            fps=facts.fps,
        )
        offsets, prefix = [], bytearray()
        for nal in (*([self._vps] if self._vps else []), sps, *(self._pps[n] for n in sorted(self._pps))):
            offsets.append(len(prefix))
            prefix += START_CODE + nal
        self.prefix, self.prefix_offsets = bytes(prefix), tuple(offsets)


def split_annex_b(stream: bytes) -> list[bytes]:
    """The NAL units between start codes of three or four bytes; bytes before the first one are left out."""
    nals: list[bytes] = []
    start = stream.find(b"\0\0\1")
    while start >= 0:
        following = stream.find(b"\0\0\1", start + 3)
        nal = stream[start + 3 : following if following >= 0 else len(stream)]
        if following >= 0:
            nal = nal.rstrip(b"\0")
        if nal:
            nals.append(nal)
        start = following
    return nals

"""The offer/answer part of a WHEP session: which H.264 profile is answered, and where ICE listens.

aiortc 1.16 is used as it is, with three narrow additions, all here: it knows H.264 Baseline only, so Main and High are
registered (same payload format, nothing is encoded); its gatherer leaves loopback out and offers every other address,
so a connection gathers on exactly the addresses that were configured; its transceiver gets the pass-through sender.
"""

from __future__ import annotations

from collections.abc import Callable

import aiortc
from aioice import Connection
from aiortc import sdp
from aiortc.codecs import CODECS
from aiortc.exceptions import OperationError
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import ParametersDict, RTCRtcpFeedback, RTCRtpCodecParameters

from command.wall.rtp_sender import PassThroughSender
from ingest.errors import GridwatchError

_CONSTRAINED_BASELINE, _BASELINE, _MAIN, _HIGH = "42e01f", "42001f", "4d001f", "64001f"
_OWN_PAYLOAD_TYPES = {_MAIN: 111, _HIGH: 113}  # placeholders: an answer carries the offer's numbers
_FALLBACK = (_CONSTRAINED_BASELINE, _BASELINE, _MAIN, _HIGH)


def _register_profiles() -> None:
    """Teach aiortc's codec table the two profiles that cameras send most. Idempotent."""
    known = {codec.parameters.get("profile-level-id") for codec in CODECS["video"]}
    for profile, payload_type in _OWN_PAYLOAD_TYPES.items():
        if profile in known:
            continue
        parameters: ParametersDict = {
            "level-asymmetry-allowed": "1",
            "packetization-mode": "1",
            "profile-level-id": profile,
        }
        feedback = [RTCRtcpFeedback(type="nack"), RTCRtcpFeedback(type="nack", parameter="pli")]
        CODECS["video"] += [
            RTCRtpCodecParameters(
                mimeType="video/H264",
                clockRate=90000,
                payloadType=payload_type,
                rtcpFeedback=feedback,
                parameters=parameters,
            ),
            RTCRtpCodecParameters(
                mimeType="video/rtx", clockRate=90000, payloadType=payload_type + 1, parameters={"apt": payload_type}
            ),
        ]


def preferred_profiles(profile_level_id: str) -> list[str]:
    """Profiles to answer with, best first, for a stream of `profile_level_id` (6 hex digits).

    The stream's own profile comes first. A viewer that offers only smaller ones gets one of those: browsers decode what
    the parameter sets say, whatever was negotiated, and refusing would show nothing at all.
    """
    try:
        profile, _ = sdp.parse_h264_profile_level_id(profile_level_id[:4] + "1f")
    except ValueError:
        return list(_FALLBACK)
    own = {
        sdp.H264Profile.PROFILE_CONSTRAINED_BASELINE: _CONSTRAINED_BASELINE,
        sdp.H264Profile.PROFILE_BASELINE: _BASELINE,
        sdp.H264Profile.PROFILE_MAIN: _MAIN,
        sdp.H264Profile.PROFILE_HIGH: _HIGH,
        sdp.H264Profile.PROFILE_CONSTRAINED_HIGH: _HIGH,
    }.get(profile)
    return ([own] if own else []) + [other for other in _FALLBACK if other != own]


def read_offer(offer_sdp: str, camera: str) -> str:
    """Check an offer and return it without its candidates.

    The server sends nothing to an address that an offer names (it could be anybody's, or an mDNS name that takes a
    second to look up): it learns the viewer's address from the viewer's own authenticated connectivity checks
    (peer-reflexive, RFC 8445 7.3.1.3).

    Raises:
        GridwatchError: `wall.bad_offer`, or `wall.offer_without_video` when it asks for no video or for more.
    """
    lines = [line for line in offer_sdp.splitlines() if not line.startswith(("a=candidate:", "a=end-of-candidates"))]
    bare = "\r\n".join(lines) + "\r\n"
    try:
        media = sdp.SessionDescription.parse(bare).media
    except (ValueError, IndexError, KeyError, AssertionError, TypeError, AttributeError) as error:
        raise GridwatchError("wall.bad_offer", camera=camera, why=type(error).__name__) from error
    kinds = [section.kind for section in media]
    wants = [section.direction in ("recvonly", "sendrecv") for section in media if section.kind == "video"]
    if wants != [True] or kinds.count("audio") > 1 or not set(kinds) <= {"video", "audio"}:
        raise GridwatchError("wall.offer_without_video", camera=camera)
    return bare


def add_video(
    peer: aiortc.RTCPeerConnection, profile_level_id: str, make_sender: Callable[[RTCDtlsTransport], PassThroughSender]
) -> PassThroughSender:
    """Give a fresh peer its one outgoing video; codec preferences count only before the offer is set."""
    transceiver = peer.addTransceiver("video", direction="sendonly")
    sender = make_sender(transceiver.receiver.transport)
    # There is no public way to choose the sender's class; the check finds a release that keeps it elsewhere.
    vars(transceiver)["_RTCRtpTransceiver__sender"] = sender
    if vars(transceiver.sender) is not vars(sender):
        raise RuntimeError("aiortc keeps a transceiver's sender elsewhere in this version")
    transceiver.receiver._set_rtcp_ssrc(sender._ssrc)
    known = aiortc.RTCRtpSender.getCapabilities("video").codecs
    wanted = [
        codec
        for profile in preferred_profiles(profile_level_id)
        for codec in known
        if codec.parameters.get("profile-level-id") == profile
    ]
    transceiver.setCodecPreferences(wanted + [codec for codec in known if codec.mimeType == "video/rtx"])
    return sender


async def answer_offer(peer: aiortc.RTCPeerConnection, offer_sdp: str, camera: str, addresses: tuple[str, ...]) -> str:
    """Set `offer_sdp` (as `read_offer` returned it) and return the answer with all candidates in it.

    Raises:
        GridwatchError: `wall.offer_without_h264`, `wall.bad_offer`, or `wall.no_address` when no address can be bound.
    """
    try:
        await peer.setRemoteDescription(aiortc.RTCSessionDescription(sdp=offer_sdp, type="offer"))
    except OperationError as error:
        raise GridwatchError("wall.offer_without_h264", camera=camera) from error
    except (ValueError, AssertionError) as error:
        raise GridwatchError("wall.bad_offer", camera=camera, why=type(error).__name__) from error
    for ice in {transceiver.receiver.transport.transport for transceiver in peer.getTransceivers()}:
        await _gather_on(ice.iceGatherer._connection, addresses)
        if not ice.iceGatherer.getLocalCandidates():
            raise GridwatchError("wall.no_address", addresses=", ".join(addresses))
    await peer.setLocalDescription(await peer.createAnswer())
    local: str = peer.localDescription.sdp
    return local


async def _gather_on(connection: Connection, addresses: tuple[str, ...]) -> None:
    """Gather host candidates on `addresses` alone; the gatherer's own `gather_candidates` then finds nothing to do."""
    if connection._local_candidates_start:
        return
    connection._local_candidates_start = True
    connection._local_candidates += await connection.get_component_candidates(1, list(addresses))
    connection._local_candidates_end = True


_register_profiles()

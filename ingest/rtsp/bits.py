"""A bit reader for parameter sets: fixed fields and Exp-Golomb codes (H.264 9.1), emulation prevention removed."""

from __future__ import annotations

import re

_EMULATION = re.compile(rb"\x00\x00\x03")


class BitsError(ValueError):
    """The bits ended early, or a code is longer than the standard allows."""


class BitReader:
    """Reads from the most significant bit on; every read past the end raises `BitsError`."""

    __slots__ = ("_length", "_position", "_value")

    def __init__(self, nal: bytes) -> None:
        payload = _EMULATION.sub(b"\0\0", nal)
        self._value = int.from_bytes(payload, "big")
        self._length = len(payload) * 8
        self._position = 0

    def u(self, bits: int) -> int:
        """An unsigned field of `bits` bits."""
        end = self._position + bits
        if end > self._length:
            raise BitsError("parameter set ends early")
        self._position = end
        return (self._value >> (self._length - end)) & ((1 << bits) - 1)

    def flag(self) -> bool:
        """One bit."""
        return self.u(1) == 1

    def skip(self, bits: int) -> None:
        """Pass over `bits` bits."""
        self.u(bits)

    def ue(self) -> int:
        """Unsigned Exp-Golomb code, at most 32 bits of value."""
        zeros = 0
        while not self.u(1):
            zeros += 1
            if zeros > 32:
                raise BitsError("Exp-Golomb code longer than 32 bits")
        return (1 << zeros) - 1 + (self.u(zeros) if zeros else 0)

    def se(self) -> int:
        """Signed Exp-Golomb code."""
        code = self.ue()
        return (code + 1) // 2 if code & 1 else -(code // 2)

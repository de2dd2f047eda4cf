"""Randomness, the only way in: ids, jitter and choices, so that a simulation can be repeated from a seed."""

from __future__ import annotations

import os
import random
import secrets
import time
from typing import Protocol
from uuid import UUID

_UUID7_VERSION = 0x7 << 76
_UUID7_VARIANT = 0b10 << 62
_RANDOM_A_MASK = 0xFFF << 64
_RANDOM_B_MASK = (1 << 62) - 1


class Randomness(Protocol):
    """What a component needs of chance."""

    def uniform(self, low: float, high: float) -> float:
        """A number between the two."""
        ...

    def uuid7(self) -> UUID:
        """A new id that sorts by the millisecond of its making (RFC 9562)."""
        ...


class SystemRandomness:
    """The operating system's randomness."""

    def uniform(self, low: float, high: float) -> float:
        return random.uniform(low, high)  # noqa: S311 - jitter, not a secret

    def uuid7(self) -> UUID:
        return uuid7()


SYSTEM_RANDOMNESS = SystemRandomness()


class SeededRandomness:
    """The same numbers and ids for the same seed: a simulation's randomness."""

    def __init__(self, seed: int = 1) -> None:
        """Begin the sequence of this seed."""
        self._random, self._count = random.Random(seed), 0  # noqa: S311 - jitter, not a secret

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def uuid7(self) -> UUID:
        """A version 7 id whose time part counts the ids given, so that they sort in the order of their making."""
        self._count += 1
        return _assemble_uuid7(self._count, self._random.getrandbits(80))


def uuid7() -> UUID:
    """A new version 7 UUID: 48 bits of Unix milliseconds, then 74 random bits (RFC 9562)."""
    return _assemble_uuid7(time.time_ns() // 1_000_000, int.from_bytes(os.urandom(10), "big"))


def _assemble_uuid7(milliseconds: int, noise: int) -> UUID:
    return UUID(int=(milliseconds << 80) | _UUID7_VERSION | (noise & _RANDOM_A_MASK) | _UUID7_VARIANT | (noise & _RANDOM_B_MASK))


def token_hex(byte_count: int) -> str:
    """That many bytes no one can guess, in hexadecimal."""
    return secrets.token_hex(byte_count)


def token_bytes(byte_count: int) -> bytes:
    """That many bytes no one can guess."""
    return secrets.token_bytes(byte_count)

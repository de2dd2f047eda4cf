"""Randomness, the only way in: ids, jitter and choices, so that a simulation can be repeated from a seed."""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Iterator
from typing import Protocol
from uuid import UUID, SafeUUID

_UUID7_FIXED_BITS = 0x7 << 76 | 0b10 << 62
"""Version and variant."""
_UUID7_FREE_BITS = ((1 << 128) - 1) ^ (0xF << 76 | 0b11 << 62)
_NOISE_BYTES = 10
_IDS_PER_FETCH = 256


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
    return _assemble_uuid7(time.time_ns() // 1_000_000, int.from_bytes(_noise.draw(), "big"))


class _Noise:
    """The operating system's randomness, fetched for many ids at once; a forked process fetches its own."""

    def __init__(self) -> None:
        self._pieces: Iterator[bytes] = iter(())
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def draw(self) -> bytes:
        """Ten bytes. `next` is one step even among threads, so no two get the same."""
        return next(self._pieces, None) or self._fetch()

    def _fetch(self) -> bytes:
        block = os.urandom(_NOISE_BYTES * _IDS_PER_FETCH)
        self._pieces = iter([block[at : at + _NOISE_BYTES] for at in range(0, len(block), _NOISE_BYTES)])
        return os.urandom(_NOISE_BYTES)

    def _forget(self) -> None:
        self._pieces = iter(())


_noise = _Noise()


def _assemble_uuid7(milliseconds: int, noise: int) -> UUID:
    # Without UUID's own reading of its many kinds of arguments, which takes longer than all the rest.
    made = object.__new__(UUID)
    object.__setattr__(made, "int", (milliseconds << 80 | noise) & _UUID7_FREE_BITS | _UUID7_FIXED_BITS)
    object.__setattr__(made, "is_safe", SafeUUID.unknown)
    return made


def token_hex(byte_count: int) -> str:
    """That many bytes no one can guess, in hexadecimal."""
    return secrets.token_hex(byte_count)


def token_bytes(byte_count: int) -> bytes:
    """That many bytes no one can guess."""
    return secrets.token_bytes(byte_count)

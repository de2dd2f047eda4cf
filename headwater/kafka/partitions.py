"""Which partition a key belongs to, as every Kafka client computes it by default."""

# aiokafka ships no types; its values get ours here.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from aiokafka.partitioner import murmur2

_CACHED_KEYS_MAX: Final = 65_536
"""Streams get several events, and the hash in Python costs more than all the rest of routing."""
_POSITIVE: Final = 0x7FFFFFFF


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.number}"


def partition_of(key: bytes, partition_count: int) -> int:
    """The partition of a key: murmur2, without its sign, modulo the number of partitions."""
    return _hash(key) % partition_count


@lru_cache(maxsize=_CACHED_KEYS_MAX)
def _hash(key: bytes) -> int:
    return int(murmur2(key)) & _POSITIVE

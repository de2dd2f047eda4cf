"""How the partitions of all topics are divided among relays: into a fixed number of shards, each moved by one relay at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from zlib import crc32

from headwater.eventstore import LogIdentity
from headwater.kafka import Partition
from headwater.messages import LogPosition
from headwater.outbox.ports import Division

SHARD_COUNT: Final = 6
"""As many as a topic has partitions unless told otherwise, so that every shard has work from every topic; divides evenly among 1, 2, 3 and 6 relays.
All relays of a log must agree on it for ever: another number needs a migration that hands every shard to its heirs (decision 0017)."""
SHARDS: Final = tuple(str(number) for number in range(1, SHARD_COUNT + 1))
DEALING_ORDER: Final = tuple(shard for first in range(3) for shard in SHARDS[first::3])
"""In which order relays take them: neighbours go to different relays, so that a topic of three partitions is not all one relay's work."""
RELAY_GROUP: Final = "relay"
"""What relays share their shards under; see `headwater.coordination`."""


def shard_of(partition: Partition) -> str:
    """Whose work a partition is. Neighbours in a topic go to different shards, and topics begin at different ones."""
    return SHARDS[(crc32(partition.topic.encode()) + partition.number) % SHARD_COUNT]


def count_at(position: LogPosition, divisions: Sequence[Division], partition_count: int) -> int:
    """Among how many partitions the event at this position is divided."""
    return next((before.partition_count for before in divisions if position <= before.through), partition_count)


def transactional_id(identity: LogIdentity, shard: str) -> str:
    """The id under which Kafka fences the relays of a shard of this log."""
    return f"headwater-relay-{identity.log_id}-{shard}"

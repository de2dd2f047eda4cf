"""What a consumer tells of its partitions."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import datetime

from headwater.bus.dead_letters import message_of
from headwater.bus.partition_work import PartitionWork
from headwater.bus.ports import MessageSource
from headwater.bus.values import PartitionLag
from headwater.kafka import Partition


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """What a consumer does with one partition."""

    partition: Partition
    state: str
    """`working`, `waiting` (a message failed), `stopped` (a gap), `lost` or `claiming`."""
    next_offset: int | None
    epoch: int | None
    attempts: int = 0
    reason: str | None = None
    parked_keys: int = 0
    parked_messages: int = 0


def status_of(partition: Partition, work: PartitionWork | None, lost: Container[Partition]) -> PartitionStatus:
    """What is done with a partition that is assigned to us: with the work on it, or without while it is not claimed."""
    if work is None:
        return PartitionStatus(partition, "lost" if partition in lost else "claiming", None, None)
    attempts = work.failing.attempts if work.failing is not None else 0
    error = next((message_of(f.error) for f in work.failing.failures.values()), None) if work.failing is not None else None
    return PartitionStatus(
        partition,
        work.state.value,
        work.position.next_offset,
        work.position.epoch,
        attempts,
        reason=work.stop_reason or error,
        parked_keys=len(work.parked),
        parked_messages=work.parked.message_count,
    )


async def lags_of(works: Mapping[Partition, PartitionWork], source: MessageSource, now: datetime) -> tuple[PartitionLag, ...]:
    """How far each partition is behind its end, by what its source says.

    Raises:
        BrokerUnavailable: nobody answers.
    """
    unread: Mapping[Partition, int] = await source.unread(list(works)) if works else {}
    return tuple(work.lag(unread.get(partition, 0), now) for partition, work in sorted(works.items()))

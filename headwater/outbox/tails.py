"""How far each partition got, as Kafka itself tells (rule 16)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from headwater.eventstore import Checkpoint
from headwater.kafka import OffsetRange, Partition, Scan
from headwater.messages import LOG_START, LogPosition
from headwater.outbox.ports import PartitionPosition, TailReader
from headwater.telemetry import logger

_log = logger("outbox")


@dataclass(frozen=True, slots=True)
class Tail:
    """The last record of our log in a partition."""

    position: LogPosition = LOG_START
    offset: int = -1
    event_id: UUID | None = None
    is_rewound: bool = False
    """Kafka lost records that it had acknowledged; everything after this tail is sent again."""

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.position.epoch, self.position.global_position, self.event_id)


async def find_tails(
    reader: TailReader, log_id: UUID, saved: Mapping[Partition, PartitionPosition], partitions: Sequence[Partition]
) -> dict[Partition, Tail]:
    """Read each partition from its last saved offset to its end, or from its beginning when it no longer has that record.

    Read it after the fence: what the predecessor got in is then all there, and nothing more comes. The last records may be control markers or
    another log's, so the highest position counts.
    """
    bounds = await reader.bounds(partitions)
    known = {partition: kept for partition, kept in saved.items() if kept.offset >= 0 and partition in bounds}
    starts = {
        partition: OffsetRange(max(held.first, known[partition].offset), held.end) if _may_hold(known.get(partition), held) else held
        for partition, held in bounds.items()
    }
    scans = dict(await reader.scan(starts, log_id))
    lost = {partition: bounds[partition] for partition, kept in known.items() if _has_lost(kept, bounds[partition], scans[partition])}
    again = {partition: held for partition, held in lost.items() if starts[partition] != held}
    if again:
        scans.update(await reader.scan(again, log_id))
    return {partition: _tail(scans[partition], known.get(partition), partition if partition in lost else None) for partition in bounds}


def _may_hold(kept: PartitionPosition | None, held: OffsetRange) -> bool:
    return kept is not None and kept.offset < held.end


def _has_lost(kept: PartitionPosition, held: OffsetRange, scan: Scan) -> bool:
    """Whether the record that was acknowledged at that offset is not there; one that retention removed from the front is not lost."""
    if kept.offset >= held.end:
        return True
    return kept.offset >= held.first and (scan.at_start is None or scan.at_start.position != kept.position)


def _tail(scan: Scan, kept: PartitionPosition | None, lost_from: Partition | None) -> Tail:
    found = Tail(scan.last.position, scan.last_offset, scan.last.event_id) if scan.last is not None else Tail()
    if kept is None or found.position >= kept.position:
        return found
    if lost_from is None:
        return Tail(kept.position, kept.offset)
    _log.warning(
        "partition_rewound",
        topic=lost_from.topic,
        partition=lost_from.number,
        acknowledged=str(kept.position),
        found=str(found.position),
        meaning="Kafka lost records that it had acknowledged (or the topic was made anew); they are sent again from the log",
    )
    return Tail(found.position, found.offset, found.event_id, is_rewound=True)

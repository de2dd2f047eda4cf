"""Waiting at the place where a topic was given more partitions (decision 0026).

A group that was there when it happened had handled everything before. One that begins later finds a stream's earlier events in one partition and its
later ones in another; what comes after the division waits until the group has handled, in every partition, what came before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from headwater.clock import Clock
from headwater.messages import LOG_START, LogPosition
from headwater.telemetry import logger

if TYPE_CHECKING:
    from headwater.bus.partition_work import PartitionWork
    from headwater.bus.ports import EffectStore

LOOK_SECONDS: Final = 1.0
"""How long it may go unseen that the other partitions have come so far; nothing is asked while nothing waits."""
Marks = Mapping[UUID, LogPosition]
_log = logger("bus")


@dataclass(frozen=True, slots=True)
class TopicDivision:
    """Up to here a topic had fewer partitions."""

    log_id: UUID
    through: LogPosition
    tails: Mapping[int, LogPosition]
    """The last position in each partition that had any."""

    def is_passed(self, marks: Mapping[int, Marks]) -> bool:
        """Whether a group with these marks, by partition, has handled everything before."""
        return all(marks.get(number, {}).get(self.log_id, LOG_START) >= tail for number, tail in self.tails.items())

    def is_behind(self, log_id: UUID, position: LogPosition) -> bool:
        """Whether this event came after the division."""
        return log_id == self.log_id and position > self.through


class DivisionWaits:
    """Lets partitions go on when it is their turn."""

    def __init__(self, effects: EffectStore, group: str, clock: Clock) -> None:
        self._effects, self._group, self._clock = effects, group, clock
        self._look_at = clock.monotonic()

    async def load(self, work: PartitionWork) -> None:
        """Tell a partition that was claimed where it has to wait."""
        divisions = await self._effects.topic_divisions(work.partition.topic)
        marks = work.position.marks
        work.divisions.extend(each for each in divisions if marks.get(each.log_id, LOG_START) <= each.through)

    async def look(self, works: Iterable[PartitionWork]) -> Sequence[PartitionWork]:
        """Those that waited and may go on now."""
        waiting = [work for work in works if work.held_from is not None]
        if not waiting or self._clock.monotonic() < self._look_at:
            return ()
        self._look_at = self._clock.monotonic() + LOOK_SECONDS
        marks = {topic: await self._effects.group_marks(self._group, topic) for topic in {work.partition.topic for work in waiting}}
        lifted = [work for work in waiting if work.divisions[0].is_passed(marks[work.partition.topic])]
        for work in waiting:
            facts = {"group": self._group, "topic": work.partition.topic, "partition": work.partition.number, "offset": work.held_from}
            if work in lifted:
                work.lift()
                _log.info("division_passed", **facts)
            elif not work.has_told_wait:
                work.has_told_wait = True
                _log.info("waits_at_division", **facts, meaning="what came before partitions were added is handled first, in all of them")
        return lifted

"""What a consumer knows of the parked keys of its partitions: loaded when they are claimed, and told what people decide."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from headwater.bus.parked import ParkedKeys
from headwater.bus.partition_work import PartitionWork
from headwater.bus.ports import EffectStore
from headwater.bus.values import ConsumerLimits
from headwater.clock import Clock
from headwater.telemetry import logger

_log = logger("bus")


class ParkedWatch:
    """Keeps what is in memory of parked keys true to their rows."""

    def __init__(self, effects: EffectStore, group: str, handler_names: Collection[str], limits: ConsumerLimits, clock: Clock) -> None:
        self._effects, self._group, self._handler_names, self._limits, self._clock = effects, group, handler_names, limits, clock
        self._requests_asked_at = 0.0

    async def load(self, work: PartitionWork) -> None:
        """Read what is parked of a partition that was claimed, or whose last commit is in doubt.

        Raises:
            StorageUnavailable, TransactionConflict: try again.
        """
        work.parked = ParkedKeys(await self._effects.parked_keys(self._group, work.position, self._clock.monotonic()))
        orphans = [parked for parked in work.parked if parked.handler_name not in self._handler_names]
        for parked in orphans:
            parked.is_orphan = True
        if work.parked:
            _log.info(
                "parked_keys_loaded",
                group=self._group,
                topic=work.partition.topic,
                partition=work.partition.number,
                parked_keys=len(work.parked),
                parked_messages=work.parked.message_count,
                without_handler=sorted({parked.handler_name for parked in orphans}),
            )

    async def hear_requests(self, works: Sequence[PartitionWork]) -> None:
        """What people decided about parked keys makes them due now; asked for now and then.

        Raises:
            StorageUnavailable, TransactionConflict: try again.
        """
        moment = self._clock.monotonic()
        if moment - self._requests_asked_at < self._limits.parked_poll_seconds:
            return
        self._requests_asked_at = moment
        by_partition = {work.partition: work for work in works}
        for request in await self._effects.parked_requests(self._group, list(by_partition)):
            parked = by_partition[request.partition].parked.find(request.parked_key_id)
            if parked is not None:
                parked.hear(request, moment)

"""When parked keys get their turn beside new messages, and who is told of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Final

from headwater.bus.context import HandlerSurroundings
from headwater.bus.lanes import Lanes
from headwater.bus.parked import ParkedKey, ParkedKeys
from headwater.bus.parking import Parking
from headwater.bus.partition_work import PartitionWork
from headwater.bus.ports import EffectStore
from headwater.bus.subscriptions import Subscriptions
from headwater.bus.values import ConsumerLimits
from headwater.telemetry import logger

PARKED_PER_ROUND: Final = 8
"""Parked keys of one partition that are tried before new messages get their turn."""

_log = logger("bus")

Guard = Callable[[PartitionWork, Callable[[], Awaitable[None]]], Awaitable[None]]
"""Runs an attempt, unless the partition is being given up."""


class ParkedTurns:
    """Looks at what is parked of a consumer's partitions; free while nothing is."""

    def __init__(
        self,
        effects: EffectStore,
        surroundings: HandlerSurroundings,
        subscriptions: Subscriptions,
        parking: Parking,
        lanes: Lanes,
        limits: ConsumerLimits,
        guard: Guard,
    ) -> None:
        self._effects, self._surroundings, self._limits = effects, surroundings, limits
        self._handlers = {handler.name: handler for handler in subscriptions}
        self._parking, self._lanes, self._guard = parking, lanes, guard
        self._asked_at = 0.0

    async def load(self, work: PartitionWork) -> None:
        """Read what is parked of a partition that was claimed."""
        group, clock = self._surroundings.group, self._surroundings.clock
        work.parked = ParkedKeys(await self._effects.parked_keys(group, work.position, clock.monotonic()))
        orphans = [parked for parked in work.parked if parked.handler_name not in self._handlers]
        for parked in orphans:
            parked.is_orphan = True
        if work.parked:
            _log.info(
                "parked_keys_loaded",
                group=group,
                topic=work.partition.topic,
                partition=work.partition.number,
                parked_keys=len(work.parked),
                parked_messages=work.parked.message_count,
                without_handler=sorted({parked.handler_name for parked in orphans}),
            )

    async def take(self, works: Iterable[PartitionWork]) -> bool:
        """Try the parked keys that are due, a few of each partition; whether any were tried here, and not in a lane."""
        parking = [work for work in works if work.parked and not work.is_revoked]
        if not parking:
            return False
        await self._hear_requests(parking)
        was_busy = False
        for work in parking:
            for parked in work.parked.due(self._surroundings.clock.monotonic())[:PARKED_PER_ROUND]:
                was_busy |= await self._try(work, parked)
        return was_busy

    async def _try(self, work: PartitionWork, parked: ParkedKey) -> bool:
        handler = self._handlers.get(parked.handler_name)
        if handler is not None and handler.lanes:
            self._lanes.take_parked(work, parked, handler)
            return False
        await self._guard(work, lambda: self._parking.try_next(work, parked))
        return True

    async def _hear_requests(self, parking: Collection[PartitionWork]) -> None:
        """What people decided about parked keys makes them due now."""
        moment = self._surroundings.clock.monotonic()
        if moment - self._asked_at < self._limits.parked_poll_seconds:
            return
        self._asked_at = moment
        works = {work.partition: work for work in parking}
        for request in await self._effects.parked_requests(self._surroundings.group, list(works)):
            if (parked := works[request.partition].parked.find(request.parked_key_id)) is not None:
                parked.hear(request, moment)

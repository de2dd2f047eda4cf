"""Key lanes: many keys of a partition at once, for handlers that wait for the outside world.

A lane takes its messages one after the other, each in its own transaction, which also writes how far the lane got: after a crash a message at or
below its lane's mark is not handled again. The partition's position follows as far as everything before it was handled. A key belongs to one lane, so
its order is kept; what is parked of it is worked off in its lane, too. Another owner's claim raises the epoch in the rows of all lanes, so that a lane
of an owner that was replaced cannot commit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from headwater.bus.committing import ClaimsLost
from headwater.bus.context import HandlerSurroundings
from headwater.bus.failing import FailingMessage, HandlerFault
from headwater.bus.handling import MessageHandling, followers_of
from headwater.bus.judging import ROOM_SECONDS, Judging
from headwater.bus.lane_marks import Lane, lane_of
from headwater.bus.parked import ParkedKey
from headwater.bus.parking import Parking
from headwater.bus.partition_work import Message, PartitionWork
from headwater.bus.ports import EffectsRefused, EffectStore, EffectTransaction
from headwater.bus.retries import CONFLICTS_MAX
from headwater.bus.routes import Handler
from headwater.bus.settling import Settlement, Settling
from headwater.bus.values import ConsumerLimits
from headwater.errors import WrongExpectedVersion
from headwater.metrics import MESSAGES_HANDLED

Handling = Callable[[], Awaitable[bool]]
"""Handles a message; False where it was not done, and the lane goes no further."""
Attempt = Callable[[], Awaitable[None]]
"""Tries what is parked."""


@dataclass(slots=True, eq=False)
class _LaneQueue:
    """What one lane has yet to do."""

    lane: Lane
    work: PartitionWork
    messages: deque[Handling] = field(default_factory=deque[Handling])
    parked: deque[Attempt] = field(default_factory=deque[Attempt])
    """These come first: a message may have to wait until one of them has made room."""
    task: asyncio.Task[None] | None = None
    is_waiting: bool = False
    """Between two attempts: it may be interrupted."""


class Lanes:
    """The lanes of a consumer, over all its partitions."""

    def __init__(
        self,
        effects: EffectStore,
        surroundings: HandlerSurroundings,
        judging: Judging,
        settling: Settling,
        parking: Parking,
        limits: ConsumerLimits,
    ) -> None:
        self._effects, self._surroundings, self._judging = effects, surroundings, judging
        self._settling, self._parking = settling, parking
        self._handling: Final = MessageHandling(surroundings, limits)
        self._turns: Final = asyncio.Semaphore(limits.lane_transactions_max)
        self._queues: dict[PartitionWork, dict[Lane, _LaneQueue]] = {}
        self.troubles: dict[PartitionWork, BaseException] = {}
        """What ended the work of a partition's lanes; nothing more is begun on it."""
        self._halted: set[PartitionWork] = set()
        """An error's policy said so; nothing more is begun before the partition is claimed anew."""
        self._running: set[_LaneQueue] = set()
        self._is_stopping = False

    @property
    def is_busy(self) -> bool:
        """Whether any lane is at work."""
        return bool(self._running)

    def start(self) -> None:
        """Begin anew, after `close`."""
        self._is_stopping = False

    # -- what there is to do -------------------------------------------------------------------------------------------

    def take(self, work: PartitionWork) -> None:
        """Give the messages that were received to their lanes."""
        messages, work.for_lanes = work.for_lanes, []
        for message in messages:
            for handler in message.lane_handlers:
                queue = self._queue(work, handler, message.key)
                queue.messages.append(self._handling_of(message, handler))
                self._begin(queue)

    def take_parked(self, work: PartitionWork, parked: ParkedKey, handler: Handler) -> None:
        """Let the lane of a parked key try it."""
        parked.is_in_lane = True

        async def attempt() -> None:
            try:
                async with self._turns:
                    await self._parking.try_next(work, parked)
            finally:
                parked.is_in_lane = False

        queue = self._queue(work, handler, parked.key)
        queue.parked.append(attempt)
        self._begin(queue)

    def _queue(self, work: PartitionWork, handler: Handler, key: str) -> _LaneQueue:
        lane = Lane(handler.name, handler.lanes, lane_of(key, handler.lanes))
        queues = self._queues.setdefault(work, {})
        if (queue := queues.get(lane)) is None:
            queue = queues[lane] = _LaneQueue(lane, work)
        return queue

    def _begin(self, queue: _LaneQueue) -> None:
        if queue.task is None and self._may_begin(queue.work):
            name = f"headwater lane {queue.lane.number} of {queue.lane.handler_name}"
            queue.task = asyncio.create_task(self._work_through(queue), name=name)
            self._running.add(queue)

    def _may_begin(self, work: PartitionWork) -> bool:
        return not (self._is_stopping or work.is_revoked or work in self._halted or work in self.troubles)

    async def _work_through(self, queue: _LaneQueue) -> None:
        try:
            while (queue.parked or queue.messages) and self._may_begin(queue.work):
                if queue.parked:
                    await queue.parked.popleft()()
                elif await queue.messages[0]():
                    queue.messages.popleft()
                else:
                    return
        except Exception as error:  # noqa: BLE001 - the consumer's loop raises it again; no lane of this partition begins anything meanwhile
            self.troubles.setdefault(queue.work, error)
        finally:
            queue.task = None
            self._running.discard(queue)

    # -- ending --------------------------------------------------------------------------------------------------------

    async def end(self, work: PartitionWork) -> None:
        """Begin nothing more for a partition that was given up, and return once nothing is under way."""
        work.is_revoked = True
        await self._finish(list(self._queues.get(work, {}).values()))
        self._queues.pop(work, None)
        self.troubles.pop(work, None)
        self._halted.discard(work)

    async def close(self) -> None:
        """Begin nothing more, and return once nothing is under way; cancelled, cut off what is."""
        self._is_stopping = True
        queues = [queue for queues in self._queues.values() for queue in queues.values()]
        try:
            await self._finish(queues)
        finally:
            tasks = [queue.task for queue in queues if queue.task is not None]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            self._queues.clear()
            self.troubles.clear()
            self._halted.clear()

    async def _finish(self, queues: list[_LaneQueue]) -> None:
        for queue in queues:
            if queue.task is not None and queue.is_waiting:
                queue.task.cancel()
        if tasks := [queue.task for queue in queues if queue.task is not None]:
            await asyncio.wait(tasks)

    # -- one message ---------------------------------------------------------------------------------------------------

    def _handling_of(self, message: Message, handler: Handler) -> Handling:
        async def handle() -> bool:
            return await self._handle(message, handler)

        return handle

    async def _handle(self, message: Message, handler: Handler) -> bool:
        """Handle the message, park it, or whatever its policy says; False where the partition was given up or stopped first."""
        work = message.work
        queue = self._queue(work, handler, message.key)
        failing = FailingMessage(message.offset, due_at=0.0)
        while self._may_begin(work):
            if queue.parked:
                await queue.parked.popleft()()
                continue
            parked = work.parked.of(message.key).get(handler.name)
            if parked is not None and not self._judging.has_room(work):
                await self._wait(queue, ROOM_SECONDS)
                continue
            try:
                await self._try(message, handler, queue.lane, failing, parked)
            except HandlerFault as fault:
                self._note(message, failing, fault, handler)
            except EffectsRefused as error:
                self._note(message, failing, HandlerFault(0, handler.name, error), handler)
            else:
                message.lanes_left -= 1
                self._handling.times.tell()
                self._surroundings.metrics.add(MESSAGES_HANDLED, 1, self._surroundings.group)
                return True
            if failing.is_stopped:
                self._halted.add(work)
                return False
            await self._wait(queue, max(0.0, failing.due_at - self._surroundings.clock.monotonic()))
        return False

    def _note(self, message: Message, failing: FailingMessage, fault: HandlerFault, handler: Handler) -> None:
        fault.handler_name = handler.name
        fault.counts = fault.counts or (isinstance(fault.error, WrongExpectedVersion) and failing.waits >= CONFLICTS_MAX)
        self._judging.note(message, failing, [fault])

    async def _wait(self, queue: _LaneQueue, seconds: float) -> None:
        queue.is_waiting = True
        try:
            await self._surroundings.clock.sleep(seconds)
        finally:
            queue.is_waiting = False

    async def _try(self, message: Message, handler: Handler, lane: Lane, failing: FailingMessage, parked: ParkedKey | None) -> None:
        must_handle = parked is None and handler.name not in failing.settled
        settlement = Settlement()
        if must_handle and not handler.takes_context:
            # It cannot touch the transaction, so no connection is held while it waits for the outside world.
            await self._handling.handle_alone(None, message, handler)
        async with self._turns, self._effects.transaction() as transaction:
            if parked is not None:
                settlement.behind = followers_of(message, [parked])
            elif not must_handle:
                settlement = self._settling.settle(message, failing, {})
            elif handler.takes_context:
                await self._handling.handle_alone(transaction, message, handler)
            await self._settling.keep(transaction, message, settlement)
            await self._mark(transaction, message, lane)
        self._settling.remember(message, settlement)

    async def _mark(self, transaction: EffectTransaction, message: Message, lane: Lane) -> None:
        position = message.work.position
        if not await transaction.mark_lane(self._surroundings.group, position, lane, message.offset):
            raise ClaimsLost(frozenset({message.work.partition}))

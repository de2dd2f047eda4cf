"""Subscriptions: the log from any place on, first what is there, then what comes, over one interface.

Who is authoritative: the log, and the checkpoint that the consumer keeps. A subscription stores nothing.

States: reading (pages as fast as the consumer takes them, one page ahead at most) → waiting at the log's end (woken by the doorbell, or by a poll)
→ reading …, until stopped. A server that is away is waited out, from the checkpoint on. `LogDiverged` ends it: the log lost what was read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Generic, Self, TypeVar, cast

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import HeadwaterError, UsageError
from headwater.eventstore.doorbell import Doorbell
from headwater.eventstore.paging import PageSize
from headwater.eventstore.selection import EVERYTHING, EventSelection
from headwater.eventstore.store import READ_BATCH_SIZE, Checkpoint, EventStore, LogIdentity
from headwater.eventstore.tail import LogTail, TailRead
from headwater.messages import Event, EventRegistry, RecordedEvent
from headwater.telemetry import logger

BATCH_SIZE_MAX: Final = 10_000
"""The largest batch that can be asked for."""
PROGRESS_POSITIONS: Final = 10_000
"""After so many positions without an event of the selection comes an empty batch, so that its checkpoint can be kept."""
RETRY_PAUSE_SECONDS_MIN: Final = 0.05
RETRY_PAUSE_SECONDS_MAX: Final = 2.0

EventT_co = TypeVar("EventT_co", bound=Event, covariant=True)
_log = logger("eventstore")


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Consecutive events of a selection. Keep the checkpoint, in the transaction of what the events do, to go on behind them."""

    events: tuple[RecordedEvent, ...]
    """In order of the log; none where nothing of the selection came for a long stretch."""
    checkpoint: Checkpoint
    """Of the last event read, which may be one that the selection does not want."""
    horizon: int
    """How far the log could be read then."""
    identity: LogIdentity
    """Which log it was read from."""

    def checkpoint_at(self, event: RecordedEvent) -> Checkpoint:
        """The checkpoint of a reader that stops at this event of the batch."""
        if self.events and event is self.events[-1]:
            return self.checkpoint
        return Checkpoint(self.identity.locate(event.global_position).epoch, event.global_position, event.event_id)


class Subscription:
    """Batches of the log's events, each event once and in order: `async for batch in Subscription(store, …, after=checkpoint)`.

    Cancelling a wait for the next batch loses nothing: the next wait gives that batch. While the consumer works, at most one page is read ahead.
    One task at a time may iterate.

    Args:
        after: where to begin: a checkpoint, which is verified, or the position of an event, which cannot be. By default at the first event.
        batch_size_max: 1 to 10,000; large events come in smaller batches.
        tail: share it among the subscriptions of a process, so that one poll and one doorbell serve them all.
    Raises:
        UsageError: `after` or `batch_size_max` is none.
        LogDiverged: when iterating: the log lost the event that the checkpoint rests on; rebuild what was made from it.
    Source: docs/decisions/0011-subscriptions-and-the-doorbell.md
    """

    def __init__(
        self,
        store: EventStore,
        selection: EventSelection = EVERYTHING,
        *,
        after: Checkpoint | int = 0,
        batch_size_max: int = READ_BATCH_SIZE,
        tail: LogTail | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not 1 <= batch_size_max <= BATCH_SIZE_MAX:
            raise UsageError(f"batch_size_max={batch_size_max}: give 1 to {BATCH_SIZE_MAX:,}")
        self._store, self._selection, self._clock = store, selection, clock
        self._tail, self._owns_tail = (LogTail(store, clock=clock), True) if tail is None else (tail, False)
        self._page = PageSize(batch_size_max)
        self._checkpoint = self._reached = _beginning(after)
        self._identity: LogIdentity | None = None
        self._ahead: asyncio.Future[TailRead] | None = None
        self._stop_bell = Doorbell(clock)
        self._is_stopped = self._is_iterating = self._is_away = False
        self._pause = RETRY_PAUSE_SECONDS_MIN

    @property
    def checkpoint(self) -> Checkpoint:
        """Of the batch handed out last; at first where it began."""
        return self._checkpoint

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> EventBatch:
        with self._alone():
            while not self._is_stopped:
                try:
                    batch = await self._advance()
                except HeadwaterError as error:
                    if not error.retryable:
                        raise
                    await self._wait_out(error)
                else:
                    self._back_again()
                    if batch is not None:
                        return batch
            raise StopAsyncIteration

    def stop(self) -> None:
        """End the iteration; at most the batch that is being read now still comes. Safe twice, and from another task."""
        self._is_stopped = True
        self._stop_bell.ring()
        self._tail.recheck()

    async def close(self) -> None:
        """Stop, and end what is being read ahead. Safe twice."""
        self.stop()
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.cancel()
            await asyncio.wait([ahead])
        if self._owns_tail:
            await self._tail.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.close()

    # -- going on -----------------------------------------------------------------------------------------------------

    async def _advance(self) -> EventBatch | None:
        """The next batch; None after a wait, or where there is no reason for one yet."""
        read = await self._read()
        if read is None:
            return None
        if read.identity != self._identity:
            await self._verify(read.identity)
        if read.checkpoint is None:
            await self._tail.wait(read, unless=lambda: self._is_stopped)
            return None
        self._page.learn(read.events)
        if not read.is_whole and not self._tail.is_near(read.checkpoint.global_position):
            await self._read_ahead(read, read.checkpoint)
        self._reached = read.checkpoint
        if not read.events and self._reached.global_position - self._checkpoint.global_position < PROGRESS_POSITIONS:
            return None
        self._checkpoint = self._reached
        return EventBatch(read.events, read.checkpoint, read.horizon, read.identity)

    async def _read(self) -> TailRead | None:
        ahead = self._ahead
        if ahead is None:
            return await self._page_behind(self._reached.global_position)
        # Waiting for it instead of awaiting it: who cancels this call does not cancel the page.
        await asyncio.wait([ahead])
        self._ahead = None
        return None if ahead.cancelled() else ahead.result()

    async def _read_ahead(self, read: TailRead, checkpoint: Checkpoint) -> None:
        page = asyncio.create_task(self._page_behind(checkpoint.global_position), name="headwater subscription: next page")
        # Whoever drops the subscription need not hear how its last page failed.
        page.add_done_callback(lambda page: page.cancelled() or page.exception())
        self._ahead = page
        try:
            # So that it is on its way to the server while the consumer works.
            await self._clock.sleep(0)
        except asyncio.CancelledError:
            page.cancel()
            self._ahead = asyncio.get_running_loop().create_future()
            self._ahead.set_result(read)
            raise

    async def _page_behind(self, position: int) -> TailRead:
        return await self._tail.read(position, selection=self._selection, limit=self._page.event_count)

    async def _verify(self, identity: LogIdentity) -> None:
        """The log is another than at the last look, or this is the first: does it hold what was read last?"""
        if self._reached.event_id is not None:
            await self._store.verify_checkpoint(self._reached)
        self._identity = identity

    async def _wait_out(self, error: HeadwaterError) -> None:
        if not self._is_away:
            _log.warning("subscription_waiting", error=str(error), position=self._reached.global_position)
        # The server may come back as another one.
        self._is_away, self._identity = True, None
        await self._stop_bell.wait(self._pause)
        self._pause = min(self._pause * 2, RETRY_PAUSE_SECONDS_MAX)

    def _back_again(self) -> None:
        if self._is_away:
            _log.info("subscription_resumed", position=self._reached.global_position)
        self._is_away, self._pause = False, RETRY_PAUSE_SECONDS_MIN

    @contextmanager
    def _alone(self) -> Generator[None]:
        if self._is_iterating:
            raise UsageError("another task iterates this subscription; give each task a subscription of its own")
        self._is_iterating = True
        try:
            yield
        finally:
            self._is_iterating = False


class EventSubscription(Generic[EventT_co]):
    """The events of a subscription one by one, as their classes: `async for event in service.subscribe(OrderPlaced)`.

    An event that does not fit its class raises, and is given again by the next step: nothing is passed over.
    """

    def __init__(self, subscription: Subscription, registry: EventRegistry) -> None:
        """Read from this subscription, which nobody else iterates."""
        self.batches = subscription
        """The same as batches of recorded events; iterate this or the events, not both."""
        self._registry = registry
        self._batch: EventBatch | None = None
        self._checkpoint = subscription.checkpoint
        self._left: deque[RecordedEvent] = deque()
        self._recorded: RecordedEvent | None = None

    @property
    def recorded(self) -> RecordedEvent:
        """The event handed out last, as it is recorded: its stream, version, position and metadata.

        Raises:
            UsageError: there was none yet.
        """
        if self._recorded is None:
            raise UsageError("the subscription has given no event yet")
        return self._recorded

    @property
    def checkpoint(self) -> Checkpoint:
        """Give this as `after` to go on behind the event handed out last."""
        return self._checkpoint

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> EventT_co:
        """The next event.

        Raises:
            UnknownEventType: no class of its name is known here.
            InvalidEvent: what is stored does not fit its class.
            LogDiverged: the log lost what was read.
        """
        while not self._left:
            self._batch = await anext(self.batches)
            self._left.extend(self._batch.events)
            if not self._left:
                self._checkpoint = self._batch.checkpoint
        assert self._batch is not None, "what is left is of a batch"
        event = self._registry.decode(self._left[0])
        self._recorded = self._left.popleft()
        self._checkpoint = self._batch.checkpoint_at(self._recorded)
        return cast("EventT_co", event)

    def stop(self) -> None:
        """End the iteration after the events already read. Safe twice, and from another task."""
        self.batches.stop()

    async def close(self) -> None:
        """Stop at once. Safe twice."""
        self._left.clear()
        await self.batches.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.close()


def _beginning(after: Checkpoint | int) -> Checkpoint:
    if isinstance(after, Checkpoint):
        return after
    given: object = after  # callers without a type checker give anything
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 2**63:  # pyright: ignore[reportUnnecessaryIsInstance] - see above
        return Checkpoint(1, given, None)
    raise UsageError(f"after={after!r}: give a Checkpoint, or the position of an event (0 for the first one)")

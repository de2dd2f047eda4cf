"""Reading the log once for all shards that a process relays, and giving each event to its partition's lane.

A pump that comes later, or starts over, is taken in where it stands: the feed reads on from the earliest of its pumps, and whoever is further
passes over what it had already. One that stands far behind gets a feed of its own, so that nobody waits for it; feeds that come near become one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Self

from headwater.eventstore import Checkpoint, LogIdentity, LogSlice
from headwater.kafka import Partition, partition_of, topic_of
from headwater.messages import LogPosition, RecordedEvent, category_of
from headwater.outbox.lanes import Lane
from headwater.outbox.options import (
    GATHER_SECONDS,
    POLL_SECONDS_MIN,
    ROUTED_AT_ONCE,
    SLICE_BYTES_TARGET,
    SLICE_EVENTS_FIRST,
    UNACKNOWLEDGED_BYTES_MAX,
)
from headwater.outbox.ports import Division, RelaySource
from headwater.outbox.pump import Pump, RelayParts
from headwater.outbox.shards import count_at

NEAR_EVENTS: Final = 25_000
"""Positions that a feed goes back for a pump: a fraction of a second of reading. A pump further behind gets a feed of its own."""
_STREAMS_CACHED_MAX: Final = 65_536


class LogReader:
    """Reads the log slice by slice, each as large as the last one's bytes allow."""

    def __init__(self, source: RelaySource, identity: LogIdentity, after: int, events_max: int) -> None:
        self._source, self._identity = source, identity
        self._after, self._limit, self._limit_max = after, min(SLICE_EVENTS_FIRST, events_max), events_max
        self._horizon: int | None = None

    async def read(self) -> LogSlice | None:
        """The next slice; None when the log's server changed meanwhile, so that nothing of it may be trusted."""
        found = await self._source.read_log(after=self._after, limit=self._limit, horizon=self._horizon)
        if not found.events:
            self._horizon = None
            return found
        # What is below a horizon stays there: only a reader that has caught up asks for a new one.
        self._horizon = found.horizon if found.events[-1].global_position < found.horizon else None
        # Asked after the read: if the log is the same now, it was the same then.
        if await self._source.identity() != self._identity:
            return None
        self._after = found.events[-1].global_position
        byte_count = sum(len(event.data) for event in found.events)
        if byte_count > SLICE_BYTES_TARGET:
            self._limit = max(1, self._limit * SLICE_BYTES_TARGET // byte_count)
        elif len(found.events) == self._limit:
            self._limit = min(self._limit * 2, self._limit_max)
        return found


class ReadAhead:
    """Reads slices before they are asked for: the server works on the next one, and another waits, while one is routed."""

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        self._slices: asyncio.Queue[LogSlice | None] = asyncio.Queue(maxsize=1)
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def next(self) -> LogSlice | None:
        """The next slice; an empty one at the log's end, None when the log's server changed.

        Raises:
            StorageUnavailable: also of what was read ahead, once everything before it is given.
        """
        if not self._slices.empty():
            return self._slices.get_nowait()
        reading = self._reading
        if reading is None or (reading.done() and reading.exception() is None):
            reading = self._reading = asyncio.create_task(self._read_on())
        taking = asyncio.ensure_future(self._slices.get())
        try:
            await asyncio.wait((reading, taking), return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                # It ends without a slice only by an error.
                await reading
            return await taking
        finally:
            taking.cancel()

    async def _read_on(self) -> None:
        """Up to the end of the log as it is known; whoever asks again then wants what is new."""
        while True:
            found = await self._reader.read()
            await self._slices.put(found)
            if found is None or not found.events or found.events[-1].global_position >= found.horizon:
                return


class LogFeed:
    """Reads the log for some pumps."""

    def __init__(self, parts: RelayParts, pool: FeedPool, identity: LogIdentity, position: int) -> None:
        self._parts, self._pool, self.identity, self.position = parts, pool, identity, position
        self.pumps: list[Pump] = []
        self._partition_counts: dict[str, int] = {}
        self._divisions: dict[str, Sequence[Division]] = {}
        self._divided_through = 0
        """Up to here, some topic's events are divided as they were before it was given more partitions."""
        self._lanes: dict[Partition, Lane] = {}
        self._lane_of_stream: dict[str, Lane | None] = {}
        self._loaded: dict[Partition, Lane] = {}
        """With something to send that was routed since lanes were last set going."""
        self._must_go_back = False
        self._progress = asyncio.Event()
        self.horizon = position
        """How far the log could be read when it was last looked at."""
        self.head = position
        """The last position that an event may have: the horizon, or, when nothing was left to read, the last event's."""

    def attach(self, pump: Pump) -> None:
        """Feed it from where it stands."""
        self.pumps.append(pump)
        pump.feed_progress = self._progress
        self._must_go_back |= pump.routed_through.global_position < self.position
        self._look_at_pumps()
        self._parts.doorbell.ring()

    def detach(self, pump: Pump) -> None:
        """Feed it no more."""
        self._set_going()
        self.pumps.remove(pump)
        pump.feed_progress = None
        self._look_at_pumps()
        self._progress.set()

    def _look_at_pumps(self) -> None:
        self._partition_counts, self._lanes, self._divisions = {}, {}, {}
        for pump in self.pumps:
            self._partition_counts.update(pump.partition_counts)
            self._divisions.update(pump.divisions)
            self._lanes.update(pump.lanes)
        self._lane_of_stream.clear()
        self._divided_through = max((each.through.global_position for found in self._divisions.values() for each in found), default=0)

    async def run(self) -> None:
        """Read for as long as there are pumps; what fails here fails them all."""
        try:
            while self.pumps:
                self._must_go_back = False
                self.position = min(pump.routed_through.global_position for pump in self.pumps)
                await self._follow(LogReader(self._parts.source, self.identity, self.position, self._parts.options.slice_events_max))
        except Exception as error:  # noqa: BLE001 - told to everybody who is fed; each deals with it as with its own
            for pump in list(self.pumps):
                self.detach(pump)
                pump.fail(error)

    async def _follow(self, reader: LogReader) -> None:
        """Read on until nobody is left, or until it must go back."""
        pause = POLL_SECONDS_MIN
        async with ReadAhead(reader) as slices:
            while True:
                began_at = self._parts.clock.monotonic()
                found = await slices.next()
                if found is None:
                    self._end(self.pumps)
                    return
                self.horizon = found.horizon
                self.head = found.horizon if found.events else self.position
                if found.events:
                    pause = POLL_SECONDS_MIN
                    if not await self._route_all(found):
                        return
                    await self._wait_until(UNACKNOWLEDGED_BYTES_MAX)
                    if found.events[-1].global_position >= found.horizon:
                        await self._gather(began_at)
                else:
                    was_rung = await self._parts.doorbell.wait(pause)
                    pause = POLL_SECONDS_MIN if was_rung else min(pause * 2, self._parts.options.poll_seconds_max)
                if self._is_over():
                    return

    async def _gather(self, last_read_at: float) -> None:
        """At the log's end, let events come together: reading and sending each by itself would cost every process on the way more than the wait."""
        left = last_read_at + GATHER_SECONDS - self._parts.clock.monotonic()
        if left > 0:
            await self._parts.clock.sleep(left)

    def _is_over(self) -> bool:
        """Whether what was read next may not be routed: to pumps that are not there any more, or that need what came before."""
        return self._must_go_back or not self.pumps or self._pool.join_next(self)

    async def _route_all(self, found: LogSlice) -> bool:
        """Route a slice piece by piece, once everything is ready for it; False when the rest may not be routed, see `_is_over`."""
        # Topics first: only who has them needs the values' schemas.
        self._end_for_new_topics(found.events)
        if self._is_over():
            return False
        await self._parts.values.prepare({event.type for event in found.events})
        try:
            for start in range(0, len(found.events), ROUTED_AT_ONCE):
                if start:
                    # PostgreSQL and Kafka go on meanwhile only if somebody empties and fills their sockets.
                    await self._parts.clock.sleep(0)
                events = found.events[start : start + ROUTED_AT_ONCE]
                # Pumps may have come and gone meanwhile.
                self._end_for_new_topics(events)
                if self._is_over():
                    return False
                self._route(events)
            return True
        finally:
            # Not before: few large requests cost Kafka and this process less than many small ones.
            self._set_going()

    def _set_going(self) -> None:
        """Have what was routed sent."""
        lanes, self._loaded = self._loaded, {}
        for lane in lanes.values():
            lane.pump.set_going(lane)

    def _end_for_new_topics(self, events: Sequence[RecordedEvent]) -> None:
        """Let go of pumps that were fenced before one of these events' topics was known."""
        # A stream that was routed before, to the pumps of today, has its topic.
        known = self._lane_of_stream
        names = {event.stream_name for event in events if event.stream_name not in known}
        topics = {topic_of(category_of(name), self._parts.options.topic_prefix) for name in names}
        without = [pump for pump in self.pumps if topics - pump.partition_counts.keys()]
        for pump in without:
            pump.new_topics = topics - pump.partition_counts.keys()
        self._end(without)

    def _end(self, pumps: list[Pump]) -> None:
        for pump in list(pumps):
            self.detach(pump)
            pump.end()

    def _route(self, events: Sequence[RecordedEvent]) -> None:
        """Give every event to its partition's lane."""
        last = events[-1]
        end = Checkpoint(self.identity.locate(last.global_position).epoch, last.global_position, last.event_id)
        for pump in self.pumps:
            pump.open_slice(end)
        loaded, locate = self._loaded, self._locator(events)
        is_old = events[0].global_position <= self._divided_through
        for event in events:
            lane = self._lane_before(event) if is_old else self._lane(event.stream_name)
            if lane is not None:
                position = locate(event.global_position)
                if position > lane.tail:
                    loaded[lane.partition] = lane
                    lane.pump.add(lane, event, position)
        for pump in self.pumps:
            pump.close_slice()
        self.position = last.global_position

    def _locator(self, events: Sequence[RecordedEvent]) -> Callable[[int], LogPosition]:
        """Positions of consecutive events; all of one life of the log, nearly always."""
        first, last = (self.identity.locate(event.global_position).epoch for event in (events[0], events[-1]))
        return partial(LogPosition, first) if first == last else self.identity.locate

    def _lane(self, stream_name: str) -> Lane | None:
        """Where the events of a stream go; None when that is not this feed's."""
        try:
            return self._lane_of_stream[stream_name]
        except KeyError:
            topic = topic_of(category_of(stream_name), self._parts.options.topic_prefix)
            lane = self._lanes.get(Partition(topic, partition_of(stream_name.encode(), self._partition_counts[topic])))
            if len(self._lane_of_stream) >= _STREAMS_CACHED_MAX:
                self._lane_of_stream.clear()
            self._lane_of_stream[stream_name] = lane
            return lane

    def _lane_before(self, event: RecordedEvent) -> Lane | None:
        """Where an event goes, or went, while its topic had fewer partitions; read again only where Kafka lost some."""
        topic = topic_of(category_of(event.stream_name), self._parts.options.topic_prefix)
        position = self.identity.locate(event.global_position)
        count = count_at(position, self._divisions.get(topic, ()), self._partition_counts[topic])
        return self._lanes.get(Partition(topic, partition_of(event.stream_name.encode(), count)))

    async def _wait_until(self, unacknowledged_bytes_max: int) -> None:
        while sum(pump.unacknowledged_bytes for pump in self.pumps) > unacknowledged_bytes_max:
            self._progress.clear()
            await self._progress.wait()


class FeedPool:
    """The feeds of one process: one, unless some pump is far behind the others."""

    def __init__(self, parts: RelayParts) -> None:
        self._parts = parts
        self._feeds: dict[LogFeed, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def attach(self, pump: Pump) -> None:
        """Feed it from where it stands, together with others that are near."""
        position = pump.routed_through.global_position
        for feed in self._feeds:
            if feed.pumps and feed.identity == pump.identity and abs(feed.position - position) <= NEAR_EVENTS:
                feed.attach(pump)
                return
        feed = LogFeed(self._parts, self, pump.identity, position)
        feed.attach(pump)
        task = self._feeds[feed] = asyncio.create_task(feed.run(), name="headwater-relay-feed")
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._feeds.pop(feed, None))
        task.add_done_callback(self._tasks.discard)

    def detach(self, pump: Pump) -> None:
        """Feed it no more; a feed with nobody left ends."""
        for feed, task in list(self._feeds.items()):
            if pump in feed.pumps:
                feed.detach(pump)
                if not feed.pumps:
                    del self._feeds[feed]
                    task.cancel()

    def join_next(self, feed: LogFeed) -> bool:
        """Hand its pumps to a feed that is near and not behind, if there is one."""
        for other in self._feeds:
            if other is not feed and other.pumps and other.identity == feed.identity and 0 <= other.position - feed.position <= NEAR_EVENTS:
                for pump in list(feed.pumps):
                    feed.detach(pump)
                    other.attach(pump)
                return True
        return False

    @property
    def positions(self) -> list[int]:
        """How far each feed has read."""
        return sorted(feed.position for feed in self._feeds)

    @property
    def horizon(self) -> int | None:
        """How far the log could be read when it was last looked at; None when nobody looks."""
        return max((feed.horizon for feed in self._feeds), default=None)

    def lag(self, pump: Pump) -> int | None:
        """Positions that may hold events which Kafka has not acknowledged to this pump; None before it is fed."""
        behind = pump.relayed_through.global_position
        return next((max(0, feed.head - behind) for feed in self._feeds if pump in feed.pumps), None)

    async def close(self) -> None:
        """Wait until all have ended; nobody is fed any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

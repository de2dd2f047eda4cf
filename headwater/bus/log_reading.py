"""The log read once for many partitions, each of which may be elsewhere in it.

Partitions at the same place are a strand: one read serves them all. A strand that lags reads up to the next one's place and joins it there, so after
a while there is one strand, at the log's end. A partition that is paused leaves its strand, and goes on from its own place later.

Nothing is kept of what was read but the next page, and that is given to a partition only if it is still where it was when the page was asked for: so
whatever pauses, goes or comes meanwhile, no partition misses an event or gets it twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

from headwater.bus.log_records import FIRST_OFFSET, LogRecord, log_topic, mark_record
from headwater.bus.ports import OffsetOutOfRange
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.eventstore import Doorbell, EventSelection, LogIdentity, LogTail, TailRead
from headwater.kafka import Envelope, Partition, partition_of
from headwater.messages import LOG_START, RecordedEvent, category_of

MARK_POSITIONS: Final = 10_000
"""After so many positions without an event of its own, a partition is told how far the log was read, so that it need not be read again."""
STRAND_EVENTS_MIN: Final = 100
"""What a strand reads at least, however many there are."""
JOIN_POSITIONS: Final = 10_000
"""Far from the log's end a strand waits for one that is no farther behind, so that the way there is read once; near it only for one within a page."""
_STREAMS_CACHED_MAX: Final = 65_536


class LogChanged(Exception):
    """The log is another one than at the last read, or lives a new life: whatever was read may be gone."""


@dataclass(slots=True, eq=False)
class _Place:
    """Where a partition is in the log."""

    partition: Partition
    after: int
    """Everything up to here was given."""
    told: int
    """The offset of the last record given."""
    to_show: int | None
    """The event that must be shown first, to be recognised."""
    is_paused: bool = False


@dataclass(frozen=True, slots=True)
class _Strand:
    """Partitions at one place, and what was read behind it."""

    after: int
    places: tuple[_Place, ...]
    until: int | None
    """Where the next strand is."""
    read: TailRead

    def present(self, places: Mapping[Partition, _Place]) -> dict[Partition, _Place]:
        """Those that neither went nor paused meanwhile; a place moves only with a page that it was asked for."""
        return {place.partition: place for place in self.places if places.get(place.partition) is place and not place.is_paused}


@dataclass(frozen=True, slots=True)
class _Page:
    """What one round of reading found."""

    shown: tuple[tuple[_Place, TailRead], ...]
    strands: tuple[_Strand, ...]

    @property
    def is_whole(self) -> bool:
        """Whether there is nothing more to read now."""
        return all(read.is_whole for read in self.reads)

    @property
    def reads(self) -> list[TailRead]:
        return [*(strand.read for strand in self.strands), *(read for _, read in self.shown)]


class LogReading:
    """Hands the log's events to partitions by the hash of their streams. One task at a time may receive."""

    def __init__(self, categories: Iterable[str], partition_count: int, tail: LogTail, *, clock: Clock = SYSTEM_CLOCK) -> None:
        """Read these categories of the log behind `tail`, which somebody else closes."""
        self._tail, self._clock, self._partition_count = tail, clock, partition_count
        self._category_of_topic = {log_topic(category): category for category in categories}
        self._places: dict[Partition, _Place] = {}
        self._gone: list[OffsetOutOfRange] = []
        self._identity: LogIdentity | None = None
        self._ahead: asyncio.Task[_Page] | None = None
        self._bell = Doorbell(clock)
        self._partition_of_stream: dict[str, Partition] = {}

    def partitions(self, numbers: Iterable[int]) -> list[Partition]:
        """The partitions of these numbers, one for each category."""
        return [Partition(topic, number) for number in numbers for topic in self._category_of_topic]

    def interrupt(self) -> None:
        """Let who waits for records look around: partitions came."""
        self._bell.ring()

    # -- which partitions ---------------------------------------------------------------------------------------------

    def start_at(self, partition: Partition, offset: int) -> None:
        """Give this partition the events from an offset on; all but the first offset must be there."""
        is_first = offset <= FIRST_OFFSET
        self._places[partition] = _Place(partition, after=offset - 1, told=offset - 1, to_show=None if is_first else offset)

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Give these nothing more."""
        for partition in partitions:
            self._places.pop(partition, None)

    def pause(self, partition: Partition) -> None:
        if (place := self._places.get(partition)) is not None:
            place.is_paused = True

    def resume(self, partition: Partition) -> None:
        if (place := self._places.get(partition)) is not None:
            place.is_paused = False

    def read_through(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Up to which position the log was read for each of these that has started."""
        return {partition: place.after for partition in partitions if (place := self._places.get(partition)) is not None}

    # -- reading ------------------------------------------------------------------------------------------------------

    async def receive(self, *, limit: int, timeout_seconds: float) -> dict[Partition, Sequence[LogRecord]]:
        """The next records of each partition; see `MessageSource.receive`.

        Cancelling it loses nothing.

        Raises:
            OffsetOutOfRange: the event that a partition rests on is gone.
            LogChanged: start every partition anew.
            StorageUnavailable: the server is away; receive again later.
        """
        deadline = self._clock.monotonic() + timeout_seconds
        while not self._gone:
            page, is_fresh = await self._next_page(limit)
            received, has_moved = self._take(page)
            if received:
                self._read_ahead(page, limit)
                return received
            # What others read before is had without waiting, and no call may keep them from their turn.
            await self._clock.sleep(0)
            remaining = deadline - self._clock.monotonic()
            is_end = is_fresh and page.is_whole and not has_moved
            if not self._gone and (remaining <= 0 or (is_end and await self._wait(page, remaining))):
                return {}
        raise self._gone.pop()

    async def close(self) -> None:
        """Forget everything; safe twice."""
        self._places.clear()
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.cancel()
            await asyncio.wait([ahead])

    async def _next_page(self, limit: int) -> tuple[_Page, bool]:
        """A page, and whether it was asked for just now: one that was read ahead does not know of partitions that came since."""
        ahead = self._ahead
        if ahead is None:
            page = await self._read_page(limit)
        else:
            # Waiting for it instead of awaiting it: who cancels this call does not cancel the page.
            await asyncio.wait([ahead])
            self._ahead = None
            page = ahead.result()
        for read in page.reads:
            if self._identity is None:
                self._identity = read.identity
            if read.identity != self._identity:
                self._identity = read.identity
                raise LogChanged
        return page, ahead is None

    def _read_ahead(self, page: _Page, limit: int) -> None:
        """Fetch the next page while the consumer works, if there is one already."""
        if page.is_whole:
            return
        self._ahead = asyncio.create_task(self._read_page(limit), name="headwater log reading: next page")
        # Who closes need not hear how the last page failed.
        self._ahead.add_done_callback(lambda ahead: ahead.cancelled() or ahead.exception())

    async def _read_page(self, limit: int) -> _Page:
        active = [place for place in self._places.values() if not place.is_paused]
        groups: dict[int, list[_Place]] = {}
        for place in active:
            if place.to_show is None:
                groups.setdefault(place.after, []).append(place)
        shown = [(place, await self._tail.read(place.to_show - 1, limit=1)) for place in active if place.to_show is not None]
        return _Page(tuple(shown), await self._read_strands(groups, limit))

    async def _read_strands(self, groups: Mapping[int, Sequence[_Place]], limit: int) -> tuple[_Strand, ...]:
        strands: list[_Strand] = []
        afters = sorted(groups)
        limit = max(limit // max(len(afters), 1), STRAND_EVENTS_MIN)
        next_after, before = dict(pairwise(afters)), float("-inf")
        for after in afters:
            distance, before = after - before, after
            if distance <= (limit if self._tail.is_near(after) else JOIN_POSITIONS):
                # The one behind it will be here in a moment; from then on they go together.
                continue
            places = tuple(groups[after])
            categories = frozenset(self._category_of_topic[place.partition.topic] for place in places)
            read = await self._tail.read(after, selection=_selection_of(categories), limit=limit)
            strands.append(_Strand(after, places, next_after.get(after), read))
        return tuple(strands)

    async def _wait(self, page: _Page, seconds: float) -> bool:
        """Wait until there may be more; whether the time is up or somebody interrupted."""
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._bell.wait(seconds))]
        if reads := page.reads:
            waits.append(asyncio.ensure_future(self._tail.wait(reads[0])))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return waits[0].done()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    # -- handing out: nothing here waits, so that all of a page is taken or nothing ------------------------------------

    def _take(self, page: _Page) -> tuple[dict[Partition, Sequence[LogRecord]], bool]:
        """What a page has for each partition, and whether any of them got farther, with or without an event of its own."""
        received: dict[Partition, list[LogRecord]] = {}
        for place, read in page.shown:
            if self._places.get(place.partition) is place and place.to_show is not None:
                self._show(place, read, received)
        has_moved = False
        for strand in page.strands:
            has_moved |= self._hand_out(strand, received)
        return dict(received.items()), has_moved

    def _show(self, place: _Place, read: TailRead, received: dict[Partition, list[LogRecord]]) -> None:
        if not read.events:
            # Below the horizon for a moment: an append in flight began before that event, and will be above it.
            return
        event, offset = read.events[0], place.to_show
        assert offset is not None, "it is to be shown"
        if event.global_position != offset:
            place.is_paused = True
            self._gone.append(_gone(place.partition, offset))
            return
        is_wanted = self._partition_of(event.stream_name) == place.partition
        received[place.partition] = [LogRecord(place.partition, _envelope(event, read.identity), is_wanted=is_wanted)]
        place.after, place.told, place.to_show = offset, offset, None

    def _hand_out(self, strand: _Strand, received: dict[Partition, list[LogRecord]]) -> bool:
        places, read = strand.present(self._places), strand.read
        end = read.checkpoint
        if not places or end is None:
            return False
        reached = end.global_position if strand.until is None else min(end.global_position, strand.until)
        for event in read.events:
            if event.global_position > reached:
                break
            place = places.get(self._partition_of(event.stream_name))
            if place is not None:
                record = LogRecord(place.partition, _envelope(event, read.identity))
                received.setdefault(place.partition, []).append(record)
                place.told = record.offset
        for place in places.values():
            place.after = reached
            if reached == end.global_position and reached - place.told >= MARK_POSITIONS and end.event_id is not None:
                position = read.identity.locate(reached)
                received.setdefault(place.partition, []).append(mark_record(place.partition, read.identity.log_id, position, end.event_id))
                place.told = reached
        return True

    def _partition_of(self, stream_name: str) -> Partition:
        known = self._partition_of_stream.get(stream_name)
        if known is None:
            number = partition_of(stream_name.encode(), self._partition_count)
            known = Partition(log_topic(category_of(stream_name)), number)
            if len(self._partition_of_stream) >= _STREAMS_CACHED_MAX:
                self._partition_of_stream.clear()
            self._partition_of_stream[stream_name] = known
        return known


@lru_cache(maxsize=64)
def _selection_of(categories: frozenset[str]) -> EventSelection:
    return EventSelection(categories=tuple(sorted(categories)))


def _envelope(event: RecordedEvent, identity: LogIdentity) -> Envelope:
    # The log is read itself, up to its horizon: nothing can be missing before an event, and no predecessor is named.
    return Envelope(event, identity.log_id, identity.locate(event.global_position), LOG_START)


def _gone(partition: Partition, offset: int) -> OffsetOutOfRange:
    return OffsetOutOfRange(
        partition,
        offset,
        f"{partition}: there is no event at position {offset} any more, the last one that was applied: the log lost its tail. Restore it, or rebuild "
        "what the handlers made and remove the group's rows to start over",
    )

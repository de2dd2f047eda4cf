"""One reading of the log for many partitions, which come, go, pause and lag as they like."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from headwater.bus import LogRecord, OffsetOutOfRange, log_reading, log_topic
from headwater.bus.log_reading import LogChanged, LogReading
from headwater.eventstore import LogEpoch, LogIdentity, LogTail, tail
from headwater.kafka import Partition, partition_of
from headwater.messages import ANY, EVENTS_PER_APPEND_MAX, NewEvent, RecordedEvent
from headwater.testing import MemoryEventStore
from tests.subscribing import TroubledStore
from tests.support import SeededRuns

CATEGORIES = ("order", "stock")
COUNT = 3
LIMIT = 20


class Bed:
    """A log, the reading of it, and what every partition was given."""

    def __init__(self, seed: int = 0, *, store: Any = None) -> None:
        self.store = MemoryEventStore()
        self.tail = LogTail(store or self.store)
        self.store.on_append(self.tail.wake)
        self.reading = LogReading(CATEGORIES, COUNT, self.tail)
        self.chance = random.Random(seed)
        self.given: dict[Partition, list[LogRecord]] = {}

    @property
    def partitions(self) -> list[Partition]:
        return self.reading.partitions(range(COUNT))

    async def append(self, count: int, category: str | None = None) -> None:
        for start in range(0, count, EVENTS_PER_APPEND_MAX):
            events = [NewEvent("Happened", "{}") for _ in range(min(count - start, EVENTS_PER_APPEND_MAX))]
            name = category or self.chance.choice([*CATEGORIES, "other"])
            await self.store.append(f"{name}-{self.chance.randrange(9)}", events, expected_version=ANY)

    def start(self, partition: Partition, offset: int = 1) -> None:
        self.given[partition] = []
        self.reading.start_at(partition, offset)

    async def receive(self, timeout: float = 0.0) -> dict[Partition, Sequence[LogRecord]]:
        received = await self.reading.receive(limit=LIMIT, timeout_seconds=timeout)
        for partition, records in received.items():
            self.given[partition] += records
        return received

    async def receive_all(self) -> None:
        """Until every partition is at the log's end."""
        async with asyncio.timeout(60):
            while any(place.after < len(self.store.events) for place in self.reading._places.values() if not place.is_paused):
                await self.receive()

    def own(self, partition: Partition, from_offset: int = 1) -> list[RecordedEvent]:
        """The events that belong to a partition."""
        return [
            event
            for event in self.store.events
            if event.global_position >= from_offset
            and Partition(log_topic(event.category), partition_of(event.stream_name.encode(), COUNT)) == partition
        ]

    def events(self, partition: Partition) -> list[RecordedEvent]:
        return [record.envelope.event for record in self.given[partition] if record.is_wanted]

    async def close(self) -> None:
        await self.reading.close()
        await self.tail.close()


async def test_every_partition_gets_its_own_events_in_order() -> None:
    bed = Bed()
    for _ in range(60):
        await bed.append(3)
    for partition in bed.partitions:
        bed.start(partition)
    await bed.receive_all()
    for partition in bed.partitions:
        assert bed.events(partition) == bed.own(partition)
    await bed.close()


async def test_whatever_comes_goes_pauses_and_lags_nothing_is_missing_and_nothing_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    # So that small logs, too, have partitions that are far behind, and select on the server.
    monkeypatch.setattr(tail, "NEAR_POSITIONS", 40)
    for seed in (runs := SeededRuns("log_reading", default=25, full=5_000)):
        runs.record(seed, await run_at_random(seed))


async def run_at_random(seed: int) -> dict[str, int]:
    """Partitions start anywhere, pause, resume, go and come back, calls are cancelled; each goes on where it was."""
    bed = Bed(seed)
    chance = bed.chance
    begun: dict[Partition, int] = {}
    cancelled = 0
    for _ in range(chance.randrange(40, 120)):
        partition = chance.choice(bed.partitions)
        match chance.randrange(9):
            case 0 | 1:
                await bed.append(chance.choice([1, 1, 5, 60, 200]))
            case 2 if partition not in begun:
                own = bed.own(partition)
                begun[partition] = chance.choice(own).global_position if own and chance.random() < 0.5 else 1
                bed.start(partition, begun[partition])
            case 3:
                bed.reading.pause(partition)
            case 4:
                bed.reading.resume(partition)
            case 5 if partition in begun and bed.given[partition]:
                # Given back, and claimed anew: the last record is shown again first.
                bed.reading.forget([partition])
                last = bed.given[partition].pop()
                bed.reading.start_at(partition, last.offset)
            case 6:
                cancelled += await receive_and_cancel(bed)
            case _:
                await bed.receive()
    for partition in begun:
        bed.reading.resume(partition)
    await bed.receive_all()
    for partition, offset in begun.items():
        assert bed.events(partition) == bed.own(partition, offset), f"seed {seed}, {partition}"
    await bed.close()
    return {"events": len(bed.store.events), "partitions": len(begun), "cancelled": cancelled}


async def receive_and_cancel(bed: Bed) -> bool:
    """A call that is cancelled somewhere; one that ended before gave what it had."""
    task = asyncio.create_task(bed.receive(timeout=0.001))
    for _ in range(bed.chance.randrange(12)):
        await asyncio.sleep(0)
    was_cancelled = task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return was_cancelled


async def test_a_partition_that_lags_holds_up_no_other_and_joins_them() -> None:
    bed = Bed()
    await bed.append(5_000, "order")
    last = bed.store.events[-1]
    lagging, leading = Partition(log_topic("order"), 0), Partition(log_topic("stock"), 1)
    bed.start(leading, last.global_position)
    bed.start(lagging)
    await bed.append(1, "stock")
    while bed.own(leading) == []:
        await bed.append(1, "stock")
    for _ in range(4):
        await bed.receive()
    assert bed.events(leading) == bed.own(leading, last.global_position)
    assert len(bed.given[lagging]) <= 4 * log_reading.STRAND_EVENTS_MIN
    await bed.receive_all()
    assert bed.events(lagging) == bed.own(lagging)
    assert bed.events(leading) == bed.own(leading)
    assert len({place.after for place in bed.reading._places.values()}) == 1
    await bed.close()


async def test_partitions_close_to_each_other_are_soon_read_together() -> None:
    bed = Bed()
    for _ in range(250):
        await bed.append(20, "order")
    partitions = [partition for partition in bed.partitions if partition.topic == log_topic("order")]
    for number, partition in enumerate(partitions):
        bed.start(partition, 1 + number * 600)
    for _ in range(16):
        await bed.receive()
    places = {place.after for place in bed.reading._places.values()}
    assert len(places) == 1
    assert places.pop() < 5_000 - tail.NEAR_POSITIONS
    await bed.receive_all()
    for number, partition in enumerate(partitions):
        assert bed.events(partition) == bed.own(partition, 1 + number * 600)
    await bed.close()


async def test_what_was_read_ahead_for_others_is_not_taken_for_the_end_of_the_log() -> None:
    bed = Bed()
    for _ in range(log_reading.STRAND_EVENTS_MIN + 5):
        await bed.append(1, "order")
    gone, came, *_ = (p for p in bed.partitions if bed.own(p))
    bed.start(gone)
    await bed.receive()
    await asyncio.sleep(0.01)
    bed.reading.forget([gone])
    bed.start(came)
    assert await asyncio.wait_for(bed.receive(timeout=60), 5)
    await bed.close()


async def test_a_partition_without_events_is_told_how_far_the_log_was_read() -> None:
    bed = Bed()
    partition = Partition(log_topic("stock"), 0)
    bed.start(partition)
    await bed.append(3 * log_reading.MARK_POSITIONS + 17, "order")
    await bed.receive_all()
    marks = bed.given[partition]
    assert 1 <= len(marks) <= 3
    assert not any(mark.is_wanted for mark in marks)
    assert len(bed.store.events) - marks[-1].offset < 2 * log_reading.MARK_POSITIONS
    event = bed.store.events[marks[-1].offset - 1]
    assert marks[-1].envelope.event.event_id == event.event_id
    await bed.close()


async def test_what_a_partition_rests_on_is_shown_first_whoever_it_belongs_to() -> None:
    bed = Bed()
    await bed.append(30, "order")
    await bed.append(5, "stock")
    partition = Partition(log_topic("stock"), partition_of(bed.store.events[-1].stream_name.encode(), COUNT))
    bed.start(partition, 20)
    await bed.receive_all()
    shown, *own = bed.given[partition]
    assert (shown.offset, shown.is_wanted, shown.envelope.event) == (20, False, bed.store.events[19])
    assert [record.envelope.event for record in own] == bed.own(partition)
    await bed.close()


async def test_an_event_that_is_gone_is_told_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    bed = Bed()
    await bed.append(200, "order")
    gone, other = bed.partitions[0], bed.partitions[2]
    bed.start(gone, 50)
    bed.start(other)
    del bed.store._log[49]
    read = bed.store.read_log

    async def without_the_event(**options: Any) -> Any:
        found = await read(**options)
        return replace(found, events=tuple(event for event in found.events if event.global_position != 50))

    monkeypatch.setattr(bed.store, "read_log", without_the_event)
    refused: list[OffsetOutOfRange] = []
    for _ in range(50):
        try:
            await bed.receive()
        except OffsetOutOfRange as error:
            refused.append(error)
    assert [(error.partition, error.offset) for error in refused] == [(gone, 50)]
    assert "lost its tail" in str(refused[0])
    assert bed.given[gone] == []
    assert bed.events(other) == bed.own(other)
    await bed.close()


async def test_an_event_above_the_horizon_is_waited_for() -> None:
    """An append that began before the event and has drawn no position yet holds the horizon below what was read already."""
    bed = Bed()
    await bed.append(10, "order")
    partition = Partition(log_topic("order"), partition_of(bed.store.events[-1].stream_name.encode(), COUNT))
    hidden = bed.store._log.pop()
    bed.start(partition, hidden.global_position)
    assert await bed.receive() == {}
    bed.store._log.append(hidden)
    bed.tail.wake()
    await bed.receive_all()
    assert [record.envelope.event for record in bed.given[partition]] == [hidden]
    await bed.close()


async def test_a_horizon_between_two_partitions_is_waited_for_without_reading_on_and_on() -> None:
    bed = Bed()
    troubled = TroubledStore(bed.store)
    bed.tail._store = troubled  # type: ignore[assignment]
    await bed.append(10, "order")
    behind, ahead, *_ = bed.partitions
    bed.start(behind, 3)
    bed.start(ahead, 10)
    await bed.receive()
    bed.reading.pause(behind)
    await bed.receive()
    hidden = [bed.store._log.pop() for _ in range(4)]
    bed.reading._places[behind].after = 6
    bed.reading.resume(behind)
    bed.tail.wake()
    await bed.receive()
    troubled.calls.clear()
    assert await bed.receive(timeout=0.2) == {}
    assert len(troubled.calls) < 30
    bed.store._log += reversed(hidden)
    bed.tail.wake()
    await bed.receive_all()
    await bed.close()


async def test_a_log_that_is_another_one_is_told_before_anything_of_it_is_given() -> None:
    bed = Bed()
    await bed.append(10, "order")
    for partition in bed.partitions:
        bed.start(partition)
    await bed.receive_all()
    bed.store._identity = LogIdentity(bed.store._identity.log_id, (LogEpoch(1, 0), LogEpoch(2, 8)))
    bed.store._log[9] = replace(bed.store._log[9], event_id=uuid4())
    await bed.append(10, "order")
    before = {partition: len(records) for partition, records in bed.given.items()}
    with pytest.raises(LogChanged):
        await bed.receive()
    assert {partition: len(records) for partition, records in bed.given.items()} == before
    assert await bed.receive()
    await bed.close()


async def test_a_server_that_is_away_costs_nothing() -> None:
    from headwater.errors import StorageUnavailable

    bed = Bed()
    troubled = TroubledStore(bed.store)
    bed.tail._store = troubled  # type: ignore[assignment]
    await bed.append(2_000, "order")
    for partition in bed.partitions:
        bed.start(partition)
    for turn in range(300):
        troubled.is_away = turn % 3 == 0
        with suppress(StorageUnavailable):
            await bed.receive()
    troubled.is_away = False
    await bed.receive_all()
    for partition in bed.partitions:
        assert bed.events(partition) == bed.own(partition)
    await bed.close()


async def test_waiting_ends_with_an_append_and_when_interrupted() -> None:
    bed = Bed()
    for partition in bed.partitions:
        bed.start(partition)
    waiting = asyncio.create_task(bed.receive(timeout=60))
    await asyncio.sleep(0.01)
    await bed.append(1, "order")
    assert await asyncio.wait_for(waiting, 5)
    waiting = asyncio.create_task(bed.receive(timeout=60))
    await asyncio.sleep(0.01)
    bed.reading.interrupt()
    assert await asyncio.wait_for(waiting, 5) == {}
    await bed.close()

"""What every `EventStore` promises to callers who come at once, repeat, are refused or go away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest

from headwater.clock import SYSTEM_CLOCK
from headwater.errors import DuplicateEvent, InvalidEvent, WrongExpectedVersion
from headwater.eventstore import READ_BATCH_SIZE, EventStore
from headwater.messages import ANY, EVENTS_PER_APPEND_MAX, NO_STREAM, STREAM_EXISTS, NewEvent, RecordedEvent

STREAM = "conformance-1"


class CallersConformance:
    """Part of `EventStoreConformance`."""

    async def test_repetition_is_recognised_before_the_version_is_compared(self, store: EventStore) -> None:
        events = _counted(1)
        first = await store.append(STREAM, events, expected_version=0)
        for expected in (0, 1, 7, ANY, NO_STREAM, STREAM_EXISTS):
            assert await store.append(STREAM, events, expected_version=expected) == first
        assert await _numbers(store) == [1]

    async def test_refused_append_takes_no_version_and_its_ids_stay_free(self, store: EventStore) -> None:
        await store.append(STREAM, _counted(1), expected_version=0)
        events = _counted(2)
        with pytest.raises(WrongExpectedVersion):
            await store.append(STREAM, events, expected_version=0)
        assert (await store.append(STREAM, events, expected_version=1)).version == 2

    async def test_same_append_by_many_at_once_is_stored_once(self, store: EventStore) -> None:
        events = _counted(1, 2)
        results = await asyncio.gather(*(store.append(STREAM, events, expected_version=0) for _ in range(8)))
        assert set(results) == {results[0]}
        assert await _numbers(store) == [1, 2]

    async def test_one_callers_failure_is_that_callers_alone(self, store: EventStore) -> None:
        """Whatever befalls one of many callers who may be written together: the others get their own results."""
        taken = _counted(0)
        await store.append("conformance-taken", taken, expected_version=0)
        good = [store.append(f"conformance-{number}", _counted(number, number), expected_version=0) for number in range(8)]
        bad = [
            store.append("conformance-taken", _counted(1), expected_version=0),
            store.append("conformance-other", taken, expected_version=ANY),
            store.append("conformance-bad", [NewEvent("Counted", '{"number": 1e200000}')], expected_version=ANY),
        ]
        outcomes = await asyncio.gather(*good, *bad, return_exceptions=True)
        assert [getattr(outcome, "version", outcome) for outcome in outcomes[:8]] == [2] * 8
        assert [type(outcome) for outcome in outcomes[8:]] == [WrongExpectedVersion, DuplicateEvent, InvalidEvent]
        assert len((await store.read_log(after=0)).events) == 17

    async def test_cancelled_append_is_whole_or_absent_and_can_be_repeated(self, store: EventStore) -> None:
        for turns in range(8):
            stream_name, events = f"conformance-{turns}", _counted(1, 2, 3)
            beside = asyncio.create_task(store.append(f"conformance-b{turns}", _counted(1), expected_version=0))
            task = asyncio.create_task(store.append(stream_name, events, expected_version=0))
            for _ in range(turns):
                await SYSTEM_CLOCK.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            assert (await beside).version == 1
            stored = [event.event_id for event in await _stream(store, stream_name)]
            assert stored in ([], [event.event_id for event in events])
            assert (await store.append(stream_name, events, expected_version=0)).version == 3
            assert await _numbers(store, stream_name) == [1, 2, 3]

    async def test_largest_append_keeps_its_order(self, store: EventStore) -> None:
        await store.append(STREAM, _counted(*range(EVENTS_PER_APPEND_MAX)), expected_version=0)
        assert await _numbers(store) == list(range(EVENTS_PER_APPEND_MAX))

    @pytest.mark.parametrize("limit", [1, 2, 3, 10, READ_BATCH_SIZE])
    async def test_pages_of_any_size_make_the_same_log(self, store: EventStore, limit: int) -> None:
        for number in range(1, 6):
            await store.append(f"conformance-{number % 2}", _counted(*[number] * number), expected_version=ANY)
        read: list[RecordedEvent] = []
        while (log := await store.read_log(after=read[-1].global_position if read else 0, limit=limit)).events:
            assert len(log.events) <= limit
            read += log.events
        assert read == list((await store.read_log(after=0)).events)
        assert len(read) == len({event.event_id for event in read}) == 15

    async def test_nothing_comes_after_the_end_of_the_log(self, store: EventStore) -> None:
        result = await store.append(STREAM, _counted(1), expected_version=0)
        for after in (result.global_position, result.global_position + 1000):
            log = await store.read_log(after=after)
            assert (log.events, log.horizon >= result.global_position) == ((), True)


def _counted(*numbers: int) -> Sequence[NewEvent]:
    return [NewEvent("Counted", f'{{"number": {number}}}') for number in numbers]


async def _stream(store: EventStore, stream_name: str = STREAM) -> list[RecordedEvent]:
    return [event async for event in store.read_stream(stream_name)]


async def _numbers(store: EventStore, stream_name: str = STREAM) -> list[int]:
    return [json.loads(event.data)["number"] for event in await _stream(store, stream_name)]

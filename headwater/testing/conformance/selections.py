"""What every `EventStore` promises of reading selected events."""

from __future__ import annotations

import pytest

from headwater.eventstore import EVERYTHING, SCAN_POSITIONS_MAX, Checkpoint, EventSelection, EventStore
from headwater.messages import ANY, EVENTS_PER_APPEND_MAX, NewEvent, RecordedEvent

SELECTIONS = [
    EVERYTHING,
    EventSelection(categories=("apple",)),
    EventSelection(categories=("apple", "pear", "none")),
    EventSelection(types=("Grown", "Eaten")),
    EventSelection(stream_prefixes=("apple-1", "pear")),
    EventSelection(stream_prefixes=("apple-100%", "apple-_", "Apple")),
    EventSelection(categories=("apple",), types=("Grown",), stream_prefixes=("apple-1",)),
    EventSelection(types=("Never",)),
]


class SelectionConformance:
    """Part of `EventStoreConformance`."""

    pytestmark = pytest.mark.asyncio

    @pytest.mark.parametrize("selection", SELECTIONS, ids=str)
    @pytest.mark.parametrize("limit", [1, 2, 7, 1000])
    async def test_selected_events_come_in_order_once(self, store: EventStore, selection: EventSelection, limit: int) -> None:
        for number, stream_name in enumerate(["apple-1", "apple-12", "pear-1", "apple-100%", "apple", "plum-1", "apple-_x", "pear-1"] * 3):
            events = [NewEvent(event_type, f'{{"number": {number}}}') for event_type in ("Grown", "Picked", "Eaten")[: number % 4]]
            if events:
                await store.append(stream_name, events, expected_version=ANY)
        log = (await store.read_log(after=0)).events
        found: list[RecordedEvent] = []
        after = 0
        while (read := await store.read_selected(selection, after=after, limit=limit)).last_read is not None:
            assert len(read.events) <= limit
            assert after < read.last_read[0] <= read.horizon
            assert all(after < event.global_position <= read.last_read[0] for event in read.events)
            assert read.last_read in [(event.global_position, event.event_id) for event in log]
            if read.is_whole:
                assert read.last_read[0] == log[-1].global_position
            found += read.events
            after = read.last_read[0]
        assert after == log[-1].global_position
        assert (read.events, read.is_whole) == ((), True)
        assert found == [event for event in log if selection.matches(event)]

    async def test_rare_event_is_looked_for_a_stretch_at_a_time(self, store: EventStore) -> None:
        page = [NewEvent("Common", "{}") for _ in range(EVENTS_PER_APPEND_MAX)]
        for _ in range(SCAN_POSITIONS_MAX // EVENTS_PER_APPEND_MAX + 1):
            await store.append("apple-1", [NewEvent(event.type, event.data) for event in page], expected_version=ANY)
        await store.append("apple-1", [NewEvent("Rare", "{}")], expected_version=ANY)
        first = await store.read_selected(EventSelection(types=("Rare",)), after=0)
        assert first.last_read is not None
        assert (first.events, first.is_whole) == ((), False)
        second = await store.read_selected(EventSelection(types=("Rare",)), after=first.last_read[0])
        assert ([event.type for event in second.events], second.is_whole) == (["Rare"], True)

    async def test_last_checkpoint_is_of_the_last_event(self, store: EventStore) -> None:
        assert await store.last_checkpoint() == Checkpoint()
        result = await store.append("apple-1", [NewEvent("Grown", "{}"), NewEvent("Eaten", "{}")], expected_version=0)
        (*_, last) = (await store.read_log(after=0)).events
        assert await store.last_checkpoint() == Checkpoint(1, result.global_position, last.event_id)
        await store.verify_checkpoint(await store.last_checkpoint())

    async def test_empty_log_has_nothing_to_select(self, store: EventStore) -> None:
        read = await store.read_selected(EventSelection(types=("Grown",)), after=0)
        assert (read.events, read.last_read, read.horizon, read.is_whole) == ((), None, 0, True)

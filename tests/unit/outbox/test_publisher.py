"""Publishing what is no domain event."""

from __future__ import annotations

import pytest

from headwater.errors import InvalidEvent, InvalidStreamName, UnknownEventType, UsageError
from headwater.messages import Event, EventRegistry
from headwater.outbox import Publisher
from headwater.testing.memory_store import MemoryEventStore


class InvoiceRequested(Event, category="billing"):
    """What the tests publish."""

    number: int


@pytest.fixture
def store() -> MemoryEventStore:
    return MemoryEventStore()


@pytest.fixture
def publisher(store: MemoryEventStore) -> Publisher:
    return Publisher(store, EventRegistry([InvoiceRequested]))


async def test_a_message_by_name_is_checked_and_stored_in_its_category(store: MemoryEventStore, publisher: Publisher) -> None:
    await publisher.publish("InvoiceRequested", {"number": 7}, key="A/7")
    assert [(event.stream_name, event.type, event.data) for event in store.events] == [
        ("billing-outbox:A/7", "InvoiceRequested", '{"number": 7}')
    ]


async def test_messages_with_one_key_keep_their_order(publisher: Publisher) -> None:
    results = [await publisher.publish(InvoiceRequested(number=number), key="k") for number in range(3)]
    assert [result.version for result in results] == [1, 2, 3]


async def test_messages_without_a_key_are_spread_over_streams(store: MemoryEventStore, publisher: Publisher) -> None:
    for number in range(400):
        await publisher.publish(InvoiceRequested(number=number))
    assert {event.stream_name for event in store.events} == {f"billing-outbox:{bucket:02d}" for bucket in range(16)}


async def test_bad_messages_say_what_is_wrong_and_store_nothing(store: MemoryEventStore, publisher: Publisher) -> None:
    with pytest.raises(UnknownEventType, match="NobodyDefinedThis"):
        await publisher.publish("NobodyDefinedThis", {})
    with pytest.raises(InvalidEvent, match="number"):
        await publisher.publish("InvoiceRequested", {"number": "seven"})
    with pytest.raises(InvalidEvent, match="number"):
        await publisher.publish("InvoiceRequested")
    with pytest.raises(UsageError, match="twice"):
        await publisher.publish(InvoiceRequested(number=1), {"number": 1})
    with pytest.raises(InvalidStreamName):
        await publisher.publish(InvoiceRequested(number=1), key="x" * 600)
    assert store.events == ()

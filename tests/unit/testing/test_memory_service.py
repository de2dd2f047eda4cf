"""A service in memory: opened, settled, closed."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest

from headwater.bus import Context
from headwater.errors import HandlerFailed, SchemaError, StoreNotOpen, UsageError
from headwater.kafka import AVRO_CONTENT, JSON_CONTENT, kind_of
from headwater.messages import ANY, Event
from headwater.service import Service, Values
from headwater.testing import memory_service


class CoinDropped(Event, category="coin"):
    left: int


def falling(fail_at: int | None = None) -> Service:
    """Every coin drops another, until none is left."""
    service = Service("coins")

    @service.on(CoinDropped)
    async def drop(event: CoinDropped, context: Context) -> None:
        if event.left == fail_at:
            raise ZeroDivisionError
        if event.left:
            await context.append(f"coin-{event.left - 1}", CoinDropped(left=event.left - 1))

    return service


async def test_settling_waits_for_what_handlers_append() -> None:
    service = falling()
    async with memory_service(service) as memory:
        await service.store.append("coin-10", [CoinDropped(left=10)], expected_version=0)
        await memory.settle()
        assert [event.left for event in memory.events if isinstance(event, CoinDropped)] == list(range(10, -1, -1))
        assert len({recorded.correlation_id for recorded in memory.recorded}) == 1
        await memory.settle()


async def test_handler_that_gave_up_is_told_once() -> None:
    service = falling(fail_at=3)
    async with memory_service(service) as memory:
        await service.store.append("coin-5", [CoinDropped(left=5)], expected_version=ANY)
        with pytest.raises(HandlerFailed, match="ZeroDivisionError") as caught:
            await memory.settle()
        assert any("Traceback" in note for note in caught.value.__notes__)
        await memory.settle()
        assert (len(memory.recorded), len(memory.dead_letters)) == (3, 1)


async def test_service_is_closed_after_the_block_and_begins_empty_again() -> None:
    service = falling()
    for _ in range(2):
        async with memory_service(service) as memory:
            assert memory.recorded == ()
            await memory.store.append("coin-0", [CoinDropped(left=0)], expected_version=0)
            with pytest.raises(UsageError, match="open already"):
                async with memory_service(service):
                    pass
            with pytest.raises(UsageError, match="no database"):
                _ = service.database
    with pytest.raises(StoreNotOpen):
        _ = service.store


async def test_service_without_handlers_settles_at_once() -> None:
    service = Service("silent")
    async with memory_service(service) as memory:
        await service.store.append("coin-1", [CoinDropped(left=1)], expected_version=0)
        await memory.settle()


class CoinMelted(Event, category="coin"):
    weight: Decimal


@pytest.mark.parametrize(("values", "content_type"), [("avro", AVRO_CONTENT), ("json", JSON_CONTENT)])
async def test_events_travel_as_the_service_says(values: Values, content_type: bytes) -> None:
    service, seen = Service("coins", values=values), list[CoinMelted]()

    @service.on(CoinMelted)
    async def melt(event: CoinMelted, context: Context) -> None:
        seen.append(event)

    async with memory_service(service) as memory:
        await memory.store.append("coin-1", [CoinMelted(weight=Decimal("1.50"))], expected_version=0)
        await memory.settle()
        topics = memory._parts.topics
        records = [record for partition in topics.partitions(["coin"]) for record in topics.records(partition, 0, 10)]
    assert [kind_of(record.headers)[1] for record in records] == [content_type]
    assert [str(event.weight) for event in seen] == ["1.50"]


async def test_class_without_a_schema_is_refused_in_memory_too() -> None:
    class CoinCalled(Event, category="coin"):
        call: Callable[[], int]

    service = Service("coins")
    service.events.register(CoinCalled)
    with pytest.raises(SchemaError, match=r"CoinCalled\.call"):
        async with memory_service(service):
            pass
    with pytest.raises(UsageError, match="neither 'avro' nor 'json'"):
        Service("coins", values="xml")  # type: ignore[arg-type]

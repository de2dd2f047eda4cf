"""Avro at the consumer: read like JSON, and what cannot be read is that message's fault alone."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from headwater.errors import BrokerUnavailable
from headwater.kafka import JSON_ENCODER, Partition
from headwater.messages import EventRegistry
from headwater.schemas import AvroDecoder, AvroEncoder, frame
from headwater.testing.memory_bus import MemoryTopics
from headwater.testing.memory_schemas import MemorySchemaBoard, MemorySchemas
from tests.unit.bus.world import OrderCancelled, OrderPlaced, World


class AvroWorld(World):
    """A group that reads one partition, which a relay fills with Avro."""

    def __init__(self) -> None:
        self.board = MemorySchemaBoard()
        self.decoder = AvroDecoder(MemorySchemaBoard(self.board.topic))
        super().__init__(partition_count=1, values=self.decoder)
        encoder = AvroEncoder(EventRegistry([OrderPlaced, OrderCancelled]), MemorySchemas(), self.board)
        self.topics = MemoryTopics(self.store, partition_count=1, values=encoder)

        @self.subscriptions.on(OrderPlaced)
        async def first(event: OrderPlaced) -> None:
            self.handled.append(event.sku)

        @self.subscriptions.on(OrderPlaced)
        async def second(event: OrderPlaced) -> None:
            self.handled.append(event.sku.upper())

    async def damage(self, offset: int, value: bytes | None) -> None:
        await self.topics.relay()
        records: Any = self.topics.records(Partition("order", 0), 0, 100)
        held = self.topics._hold(Partition("order", 0)).records
        held[offset] = replace(records[offset], value=value)

    @asynccontextmanager
    async def done(self) -> AsyncIterator[None]:
        async with self.running() as consumer:
            await self.caught_up()
            yield
            assert [status.state for status in consumer.status()] == ["working"]


async def test_avro_and_json_on_one_topic_arrive_alike() -> None:
    world = AvroWorld()
    await world.place("a", "b")
    await world.topics.relay()
    world.topics._values = JSON_ENCODER
    await world.place("c")
    async with world.done():
        assert world.handled == ["a", "A", "b", "B", "c", "C"]
    assert [record.value[:1] for record in world.topics.records(Partition("order", 0), 0, 9) if record.value] == [b"\0", b"\0", b"{"]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (frame(99) + b"\x02", "UnknownSchema"),
        (b"", "SchemaMismatch"),
        (None, "SchemaMismatch"),
        (b"{}", "SchemaMismatch"),
        (b"\0\0\0", "SchemaMismatch"),
        ("cut", "SchemaMismatch"),
        ("longer", "SchemaMismatch"),
    ],
)
async def test_damaged_value_becomes_a_dead_letter_and_its_partition_goes_on(value: Any, error: str) -> None:
    world = AvroWorld()
    await world.place("a", "b", "c", stream="order-1")
    await world.topics.relay()
    came = world.topics.records(Partition("order", 0), 1, 1)[0].value or b""
    value = {"cut": came[:-1], "longer": came + b"x"}.get(value, value)
    await world.damage(1, value)
    async with world.done():
        # What came before it in its batch was rolled back with it, and handled again.
        assert list(dict.fromkeys(world.handled)) == ["a", "A", "c", "C"]
    letters = world.effects.letters
    assert [str(letter.handler_name).rpartition(".")[2] for letter in letters] == ["first", "second"]
    for letter in letters:
        assert letter.error_type == f"headwater.errors.{error}"
        assert (letter.stream_name, letter.version, letter.event_type, letter.data) == ("order-1", 2, "OrderPlaced", None)
        assert letter.event_id == world.store.events[1].event_id
        assert letter.raw is not None
        assert letter.raw["value"] == (None if value is None else base64.b64encode(value).decode())


async def test_damaged_value_of_a_type_that_nobody_here_handles_is_passed_over() -> None:
    world = AvroWorld()
    await world.store.append("order-1", [OrderCancelled(sku="x"), OrderPlaced(sku="a")], expected_version=0)
    await world.damage(0, b"\0rubbish")
    async with world.done():
        assert world.handled == ["a", "A"]
    assert world.effects.letters == []


async def test_records_that_came_while_their_schemas_could_not_be_looked_up_come_again() -> None:
    world = AvroWorld()
    await world.place("a", "b")
    failures = 3
    refresh = world.decoder._board.refresh

    async def fail_at_first() -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise BrokerUnavailable("while reading schemas")
        await refresh()

    world.decoder._board.refresh = fail_at_first  # type: ignore[method-assign]
    async with world.done():
        assert world.handled == ["a", "A", "b", "B"]
    assert failures == 0
    await asyncio.sleep(0)

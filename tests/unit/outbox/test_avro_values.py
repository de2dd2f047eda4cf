"""The relay with Avro: no record before its schema, whatever happens in between, and nothing that Avro could hold up or lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headwater import Event
from headwater.errors import BrokerUnavailable, SchemaError
from headwater.eventstore import Checkpoint
from headwater.kafka import AVRO_CONTENT, JSON_CONTENT, Partition, Record, kind_of
from headwater.messages import ANY, EventRegistry, NewEvent
from headwater.outbox import SHARDS, Relay
from headwater.schemas import AvroDecoder, AvroEncoder, schema_id_of
from headwater.testing.memory_relay import MemoryRelayBroker, MemoryRelayPositions
from headwater.testing.memory_schemas import MemorySchemaBoard, MemorySchemas
from headwater.testing.memory_store import MemoryEventStore
from headwater.testing.waiting import eventually
from tests.outbox_support import faults_of, running
from tests.unit.outbox.test_relay import QUICK


class CupFilled(Event):
    number: int


class CupEmptied(Event):
    number: int


class FailingBoard(MemorySchemaBoard):
    """Says at first that it did not get there: what a crash between registering and publishing leaves behind."""

    failures_left = 0

    async def publish(self, schema_texts: Mapping[int, str]) -> Mapping[int, SchemaError]:
        if self.failures_left:
            self.failures_left -= 1
            raise BrokerUnavailable("between registering and publishing")
        return await super().publish(schema_texts)


class World:
    """A log, a broker that looks at every record it is given, and what outlives a relay's process."""

    def __init__(self) -> None:
        self.store, self.broker, self.positions = MemoryEventStore(), MemoryRelayBroker(), MemoryRelayPositions()
        self.schemas, self.board = MemorySchemas(), FailingBoard()
        self.too_early: list[int] = []
        self.content_types: list[bytes | None] = []
        self.broker.before_write = self._look

    async def _look(self, _partition: Partition, records: Sequence[Record]) -> None:
        for _, value, headers, _ in records:
            content_type = kind_of(headers)[1]
            self.content_types.append(content_type)
            if content_type == AVRO_CONTENT and schema_id_of(value) not in dict(self.board.topic):
                self.too_early.append(schema_id_of(value))

    def relay(self) -> Relay:
        """One of a new process: it knows nothing but what is in the database and on the topics."""
        board = FailingBoard(self.board.topic)
        board.failures_left, self.board.failures_left = self.board.failures_left, 0
        values = AvroEncoder(EventRegistry([CupFilled, CupEmptied]), self.schemas, board)
        return Relay(self.store, self.broker, self.positions, event_source="/services/test", values=values, options=QUICK)

    async def append(self, *events: Event | NewEvent) -> None:
        for event in events:
            await self.store.append("cup-1", [event], expected_version=ANY)

    async def all_relayed(self) -> None:
        await eventually(
            lambda: all(
                self.positions.relayed_through.get(shard, Checkpoint()).global_position == len(self.store.events) for shard in SHARDS
            )
        )

    async def faults(self) -> list[str]:
        decoder = AvroDecoder(MemorySchemaBoard(self.board.topic))
        for held in self.broker.topics["cup"]:
            await decoder.prepare(record[1] for record in held.records if record is not None)
        return faults_of(self.store.events, self.broker.envelopes("cup", decoder), {"cup": 3})


async def test_schemas_are_there_before_the_first_record_that_needs_them() -> None:
    world = World()
    await world.append(CupFilled(number=1), CupFilled(number=2))
    async with running(world.relay()):
        await world.all_relayed()
        await world.append(CupEmptied(number=3))
        await world.all_relayed()
    assert (world.too_early, world.content_types) == ([], [AVRO_CONTENT] * 3)
    assert len(world.board.topic) == 2
    assert await world.faults() == []


async def test_crash_between_registering_and_publishing_leaves_no_record_without_a_schema() -> None:
    world = World()
    world.board.failures_left = 3
    await world.append(*[CupFilled(number=number) for number in range(20)])
    async with running(world.relay()):
        await world.all_relayed()
    assert (world.too_early, len(world.board.topic)) == ([], 1)
    assert await world.faults() == []


async def test_restarted_relay_gives_the_same_ids_and_publishes_nothing_twice() -> None:
    world = World()
    for number in range(3):
        await world.append(CupFilled(number=number))
        async with running(world.relay()):
            await world.all_relayed()
    assert len(world.board.topic) == 1
    assert await world.faults() == []


async def test_what_avro_cannot_carry_goes_as_json_between_the_others_and_in_order() -> None:
    world = World()
    newer = NewEvent("CupFilled", '{"number": 3, "colour": "of a newer version"}')
    await world.append(
        CupFilled(number=1), NewEvent("CupDropped", '{"by": "nobody we know"}'), newer, CupFilled(number=2**70), CupFilled(number=5)
    )
    async with running(world.relay()):
        await world.all_relayed()
    assert world.content_types == [AVRO_CONTENT, JSON_CONTENT, JSON_CONTENT, JSON_CONTENT, AVRO_CONTENT]
    assert await world.faults() == []

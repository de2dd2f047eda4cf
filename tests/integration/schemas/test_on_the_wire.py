"""Avro from one service's log over a real broker to another service's handler, and what may go wrong on the way."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaProducer
from pydantic import BaseModel

from headwater import Context, Event, Service
from headwater.bus import DeadLetterDesk, KeptLetter, LetterFilter
from headwater.config import Settings
from headwater.errors import SchemaError
from headwater.eventstore import PostgresEventStore
from headwater.kafka import AVRO_CONTENT, JSON_CONTENT, JSON_ENCODER, KafkaSettings, kind_of
from headwater.messages import ANY, EventRegistry, NewEvent
from headwater.postgres import Database
from headwater.schemas import AvroCodec, AvroDecoder, AvroEncoder, KafkaSchemaBoard, PostgresSchemas, frame, schema_id_of
from headwater.testing import MigratedDatabases, eventually
from tests.integration.bus.feeding import Feeder
from tests.outbox_support import read_records, read_topics

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[2]
COUNT_SCHEMAS = "SELECT schema_id, schema_text FROM headwater.schemas"


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    weight: Decimal
    colour: Colour | None = None


class Everything(BaseModel):
    """What is easily lost."""

    thing_id: UUID
    made_at: datetime
    price: Decimal
    parts: list[Part]
    mark: int | str
    note: str | None = None


EVERYTHING: dict[str, Any] = {
    "thing_id": UUID(int=7),
    "made_at": datetime(2026, 3, 1, 12, 30, 15, 123457, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    "price": Decimal("1.500"),
    "parts": [Part(weight=Decimal("0.10"), colour=Colour.BLUE), Part(weight=Decimal("1E+3"))],
    "mark": "7",
}


@pytest.fixture
def category() -> str:
    return f"thing{uuid4().hex[:12]}"


@pytest.fixture
def made(category: str) -> type[Any]:
    """An event class whose topic is the test's own."""

    class ThingMade(Event, category=category):
        thing: Everything

    return ThingMade


@pytest.fixture
def settings(postgres_dsn: str, kafka_bootstrap: str) -> Settings:
    return Settings(postgres=postgres_dsn, kafka=kafka_bootstrap, topic_partitions=3)


def noting(service: Service, event_class: type[Any]) -> list[Any]:
    """What the service's handler got."""
    seen: list[Any] = []

    @service.on(event_class)
    async def note(event: Any, _context: Context) -> None:
        seen.append(event)

    return seen


async def test_another_service_gets_the_same_event_and_avro_is_on_the_wire(
    settings: Settings, headwater_databases: MigratedDatabases, made: type[Any], category: str, kafka_bootstrap: str
) -> None:
    writer = Service("writer", settings=settings)
    writer.events.register(made)
    event = made(thing=Everything(**EVERYTHING))
    with headwater_databases.fresh() as other_dsn:
        # It says JSON, so that it publishes no schema itself: what it reads by can only have come from the writer.
        reader = Service(f"reader-{category}", values="json", settings=settings.model_copy(update={"postgres": other_dsn}))
        seen = noting(reader, made)
        async with writer, reader:
            await writer.store.append(f"{category}-1", [event], expected_version=0)
            await eventually(lambda: seen, timeout=30)
            async with writer.database.connection() as connection:
                ids = {row["schema_text"]: row["schema_id"] for row in await connection.fetch(COUNT_SCHEMAS)}
            async with reader.database.connection() as connection:
                assert await connection.fetch(COUNT_SCHEMAS) == []
    assert seen == [event]
    assert seen[0].model_dump_json() == event.model_dump_json()  # its scales and its offset from UTC, too
    (record,) = [record for records in (await read_records(kafka_bootstrap, {category: 3})).values() for record in records]
    codec = AvroCodec(made)
    assert ids == {codec.schema_text: schema_id_of(record.value)}
    assert record.value[:5] == frame(ids[codec.schema_text])
    assert kind_of(record.headers) == ("ThingMade", AVRO_CONTENT)
    assert codec.decode(record.value[5:]) == event


async def test_service_that_says_json_writes_json_and_reads_both(
    settings: Settings, made: type[Any], category: str, kafka_bootstrap: str
) -> None:
    event = made(thing=Everything(**EVERYTHING))
    content_types: list[bytes | None] = []
    for number, values in enumerate(["avro", "json"]):
        service = Service(f"s{number}-{category}", values=values, settings=settings)  # type: ignore[arg-type]
        seen = noting(service, made)
        async with service:
            await service.store.append(f"{category}-1", [event], expected_version=number)
            await eventually(lambda seen=seen, count=number + 1: len(seen) == count, timeout=30)
        assert seen == [event] * (number + 1)
    for records in (await read_records(kafka_bootstrap, {category: 3})).values():
        content_types += [kind_of(record.headers)[1] for record in records]
    assert content_types == [AVRO_CONTENT, JSON_CONTENT]


async def test_service_does_not_start_with_a_class_that_has_no_schema(settings: Settings) -> None:
    class ThingBroken(Event):
        call: Callable[[], int]

    service = Service("things", settings=settings)
    service.events.register(ThingBroken)
    with pytest.raises(SchemaError, match=r"ThingBroken\.call.*values='json'"):
        async with service:
            raise AssertionError("it must not open")
    lenient = Service("things", values="json", settings=settings)
    lenient.events.register(ThingBroken)
    async with lenient:
        pass


async def test_reader_process_started_fresh_decodes_what_was_written_before(
    database: Database, made: type[Any], category: str, kafka_bootstrap: str
) -> None:
    encoder = AvroEncoder(EventRegistry([made]), PostgresSchemas(database), KafkaSchemaBoard(KafkaSettings.parse(kafka_bootstrap)))
    events = [made(thing=Everything(**{**EVERYTHING, "mark": number})) for number in range(20)]
    async with Feeder(kafka_bootstrap, [category]) as feeder:
        await feeder.feed(*[(f"{category}-{number % 4}", event) for number, event in enumerate(events)], values=encoder)
        await feeder.feed((f"{category}-1", events[0]), values=JSON_ENCODER)
    command = [sys.executable, str(FOLDER / "reader_process.py"), kafka_bootstrap, category]
    printed = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60
    )
    found = {line["position"]: line["data"] for line in map(json.loads, printed.stdout.splitlines())}
    assert found == {number: json.loads(event.model_dump_json()) for number, event in enumerate([*events, events[0]], start=1)}


async def test_damaged_and_unknown_values_become_dead_letters_and_their_partition_goes_on(
    settings: Settings, database: Database, made: type[Any], category: str, kafka_bootstrap: str
) -> None:
    service = Service(f"reader-{category}", settings=settings)
    seen = noting(service, made)
    board = KafkaSchemaBoard(KafkaSettings.parse(kafka_bootstrap))
    encoder = AvroEncoder(EventRegistry([made]), PostgresSchemas(database), board)
    things = [made(thing=Everything(**{**EVERYTHING, "mark": number})) for number in range(5)]
    schema_id = uuid4().int & 0x3FFFFFFF
    codec = AvroCodec(made)
    async with Feeder(kafka_bootstrap, [category]) as feeder:
        stream = f"{category}-1"
        await feeder.feed((stream, things[0]), values=encoder)
        await feeder.feed((stream, things[1]), values=encoder, damage=lambda value: value[:-3])
        await feeder.feed((stream, things[2]), values=encoder)
        await feeder.feed((stream, things[3]), values=encoder, damage=lambda value: frame(schema_id) + value[5:])
        await feeder.feed((stream, things[4]))
    desk = DeadLetterDesk(database)
    async with service:
        await eventually(lambda: seen and seen[-1] == things[4], timeout=30)
        damaged, unknown = await desk.list(LetterFilter(group=service.name))
        assert [letter.letter.error_type.rpartition(".")[2] for letter in (damaged, unknown)] == ["SchemaMismatch", "UnknownSchema"]
        assert str(schema_id) in unknown.letter.error_message
        assert [kept.letter.event_id for kept in (damaged, unknown)] == [feeder.sent[1].event_id, feeder.sent[3].event_id]
        assert damaged.letter.raw is not None
        assert damaged.letter.data is None
        await _publish_by_hand(kafka_bootstrap, schema_id, codec.schema_text)
        assert await desk.retry([damaged.dead_letter_id, unknown.dead_letter_id]) == {damaged.dead_letter_id, unknown.dead_letter_id}
        statuses = await eventually(lambda: _settled(desk, damaged, unknown), timeout=30)
    assert statuses == ["waiting", "handled"]
    assert seen[-1] == things[3]
    assert things[1] not in seen


async def _publish_by_hand(bootstrap: str, schema_id: int, schema_text: str) -> None:
    """What an operator does who has the schema from a backup."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait("_headwater_schemas", schema_text.encode(), key=str(schema_id).encode())


async def _settled(desk: DeadLetterDesk, *letters: KeptLetter) -> list[str] | None:
    kept = [await desk.get(letter.dead_letter_id) for letter in letters]
    return None if any(one.status == "retrying" for one in kept) else [one.status for one in kept]


async def test_relay_killed_between_registering_and_publishing_leaves_no_record_that_cannot_be_read(
    postgres_dsn: str, database: Database, store: PostgresEventStore, category: str, kafka_bootstrap: str
) -> None:
    topic = f"_schemas_{uuid4().hex[:10]}"
    await store.append(f"{category}-1", [NewEvent("CupFilled", f'{{"number": {number}}}') for number in range(5)], expected_version=ANY)
    killed = await _relay(postgres_dsn, kafka_bootstrap, topic, "die")
    assert await killed.wait() == -9
    async with database.connection() as connection:
        ((schema_id, schema_text),) = await connection.fetch(COUNT_SCHEMAS)
    board = KafkaSchemaBoard(KafkaSettings.parse(kafka_bootstrap), topic=topic)
    await board.refresh()
    assert board.find(schema_id) is None
    assert not any((await read_records(kafka_bootstrap, {category: 3})).values())
    for number in range(2):
        relay = await _relay(postgres_dsn, kafka_bootstrap, topic, "run")
        try:
            await eventually(lambda count=5 + number: _is_read(kafka_bootstrap, category, topic, count), timeout=30)
        finally:
            relay.kill()
            await relay.wait()
        await store.append(f"{category}-1", [NewEvent("CupFilled", '{"number": 5}')], expected_version=ANY)
    await board.refresh()
    assert board.find(schema_id) == schema_text
    records = [record for found in (await read_records(kafka_bootstrap, {category: 3})).values() for record in found]
    assert {schema_id_of(record.value) for record in records} == {schema_id}


async def _relay(dsn: str, bootstrap: str, topic: str, what: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, str(FOLDER / "relay_process.py"), dsn, bootstrap, topic, what, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


async def _is_read(bootstrap: str, category: str, topic: str, count: int) -> bool:
    values = AvroDecoder(KafkaSchemaBoard(KafkaSettings.parse(bootstrap), topic=topic))
    found = [e for envelopes in (await read_topics(bootstrap, {category: 3}, values)).values() for e in envelopes]
    return [json.loads(envelope.event.data)["number"] for envelope in found] == list(range(count))

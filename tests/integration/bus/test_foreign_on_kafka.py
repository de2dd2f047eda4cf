"""Foreign topics on a real broker: what others write is handled once, what cannot be read is kept with its cause, and nothing stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from headwater import Context, Event, Service
from headwater.bus import DeadLetterDesk, LetterFilter
from headwater.config import Settings
from headwater.postgres import Database
from headwater.schemas import frame
from headwater.testing import eventually
from tests.unit.bus.test_foreign import BAD, LegacyAvroOrder, LegacyOrder, Registry, avro

HUGE = b'{"sku": "' + b"x" * (3 * 1024 * 1024) + b'"}'
"""Larger than any record that Headwater itself would write."""
OWN = f"ours{uuid4().hex[:8]}"


class Parcel(Event, category=OWN):
    """An event of a topic of Headwater's, into which others write as well."""

    sku: str


class Taken(Event, category="taken"):
    sku: str


@asynccontextmanager
async def producer(bootstrap: str) -> AsyncIterator[AIOKafkaProducer]:
    found = AIOKafkaProducer(bootstrap_servers=bootstrap, max_request_size=8 * 1024 * 1024)
    await found.start()
    try:
        yield found
    finally:
        await found.stop()


async def make_topic(bootstrap: str, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 1, 1, topic_configs={"max.message.bytes": str(8 * 1024 * 1024)})])
    finally:
        await admin.close()


class Depot:
    """A service that takes from foreign topics, and what it took."""

    def __init__(self, dsn: str, kafka: str, registry: Registry) -> None:
        self.suffix = uuid4().hex[:8]
        self.json_topic, self.avro_topic = f"legacy-orders-{self.suffix}", f"legacy.avro.{self.suffix}"
        self.service = Service("depot", settings=Settings(postgres=dsn, kafka=kafka, topic_replication_factor=1))

        @self.service.on_topic(self.json_topic, LegacyOrder)
        async def take_json(event: LegacyOrder, context: Context) -> None:
            await context.append(f"taken-{context.stream_name}", Taken(sku=event.sku))

        @self.service.on_topic(self.avro_topic, LegacyAvroOrder, format="avro", schemas=registry)
        async def take_avro(event: LegacyAvroOrder, context: Context) -> None:
            await context.append(f"taken-{context.stream_name}", Taken(sku=event.sku))

        @self.service.on(Parcel)
        async def take_parcel(event: Parcel, context: Context) -> None:
            await context.append("taken-parcels", Taken(sku=event.sku))

    async def taken(self, stream_name: str) -> list[str]:
        return [orjson.loads(event.data)["sku"] async for event in self.service.store.read_stream(f"taken-{stream_name}")]


@pytest.fixture
async def registry() -> Registry:
    return Registry()


async def test_bad_input_of_every_kind_ends_as_a_dead_letter_and_what_follows_is_handled(
    postgres_dsn: str, kafka_bootstrap: str, database: Database, registry: Registry
) -> None:
    depot = Depot(postgres_dsn, kafka_bootstrap, registry)
    for topic in (depot.json_topic, depot.avro_topic):
        await make_topic(kafka_bootstrap, topic)
    json_cases = {**BAD, "huge": (HUGE, "at most")}
    avro_cases: dict[str, tuple[bytes | None, str]] = {
        "tombstone": (None, "tombstone"),
        "empty": (b"", "wire format"),
        "not Avro": (b'{"sku": "tea"}', "wire format"),
        "unknown schema id": (avro(99), "schema 99, which its registry does not know"),
        "cut off": (avro()[:-3], "damaged"),
        "huge": (frame(17) + HUGE, "at most"),
    }
    own_cases: dict[str, tuple[bytes | None, Sequence[tuple[str, bytes]], str]] = {
        "no headers": (b'{"sku": "x"}', (), "lacks the header"),
        "tombstone": (None, (), "lacks the header"),
        "wrong headers": (
            b"{}",
            [("ce_type", b"\xff"), ("headwater-position", b"nonsense"), ("headwater-previous", b"1:0")],
            "cannot be read",
        ),
    }
    async with producer(kafka_bootstrap) as kafka, depot.service:
        for name, (value, _) in json_cases.items():
            await kafka.send_and_wait(depot.json_topic, value, key=b"k", headers=[("x", b"\xff\xfe"), ("note", name.encode())])
            await kafka.send_and_wait(depot.json_topic, orjson.dumps({"sku": f"after {name}"}), key=b"k")
        for name, (value, _) in avro_cases.items():
            await kafka.send_and_wait(depot.avro_topic, value, key=b"k")
            await kafka.send_and_wait(depot.avro_topic, avro(sku=f"after {name}"), key=b"k")
        for value, headers, _ in own_cases.values():
            await kafka.send_and_wait(OWN, value, key=b"k", headers=list(headers))
        await depot.service.store.append(f"{OWN}-1", [Parcel(sku="after all")], expected_version=0)
        expected = {
            f"{depot.json_topic.replace('-', '_')}-k": [f"after {name}" for name in json_cases],
            f"{depot.avro_topic}-k": [f"after {name}" for name in avro_cases],
            "parcels": ["after all"],
        }

        async def all_taken() -> bool:
            counts = [len(await depot.taken(name)) for name in expected]
            return all(count >= len(skus) for count, skus in zip(counts, expected.values(), strict=True))

        await eventually(all_taken, 60)
        assert {name: await depot.taken(name) for name in expected} == expected
        letters = [kept.letter for kept in await DeadLetterDesk(database).list(LetterFilter(), limit=100)]
        by_topic: dict[str, list[str]] = {}
        for letter in letters:
            by_topic.setdefault(letter.partition.topic, []).append(letter.error_message)
        says = {
            depot.json_topic: [text for _, text in json_cases.values()],
            depot.avro_topic: [text for _, text in avro_cases.values()],
            OWN: [text for *_, text in own_cases.values()],
        }
        for topic, wanted in says.items():
            assert len(by_topic[topic]) == len(wanted)
            for found, text in zip(by_topic[topic], wanted, strict=True):
                assert text in found, f"{topic}: {found[:300]}"


async def test_a_restarted_service_goes_on_where_it_was_and_a_retried_letter_finds_its_schema(
    postgres_dsn: str, kafka_bootstrap: str, database: Database, registry: Registry
) -> None:
    depot = Depot(postgres_dsn, kafka_bootstrap, registry)
    await make_topic(kafka_bootstrap, depot.avro_topic)
    stream = f"{depot.avro_topic}-k"

    async def takes(count: int) -> None:
        async def enough() -> bool:
            return len(await depot.taken(stream)) >= count

        await eventually(enough, 30)

    async with producer(kafka_bootstrap) as kafka:
        async with depot.service:
            await kafka.send_and_wait(depot.avro_topic, avro(sku="one"), key=b"k")
            await kafka.send_and_wait(depot.avro_topic, avro(41, sku="later"), key=b"k")
            await kafka.send_and_wait(depot.avro_topic, avro(sku="two"), key=b"k")
            await takes(2)
        await kafka.send_and_wait(depot.avro_topic, avro(sku="three"), key=b"k")
        async with depot.service:
            await takes(3)
            registry.texts[41] = registry.texts[17]
            desk = DeadLetterDesk(database)
            (letter,) = await desk.list(LetterFilter(event_type=f"LegacyAvroOrder@{depot.avro_topic}"))
            assert await desk.retry([letter.dead_letter_id])
            await takes(4)
            assert await depot.taken(stream) == ["one", "two", "three", "later"]


async def test_other_consumers_find_plain_json_where_the_service_says_so(postgres_dsn: str, kafka_bootstrap: str) -> None:
    category = f"invoices.{uuid4().hex[:8]}"

    class InvoiceDue(Event, category=category):
        number: int

    service = Service("billing", settings=Settings(postgres=postgres_dsn, kafka=kafka_bootstrap, topic_replication_factor=1))
    service.events.register(InvoiceDue)
    service.write_as("json", category)
    async with service:
        await service.events.publish(InvoiceDue(number=7), key="A")
        await make_topic(kafka_bootstrap, category)
        consumer = AIOKafkaConsumer(category, bootstrap_servers=kafka_bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
        await consumer.start()
        try:
            record: Any = await asyncio.wait_for(consumer.getone(), 30)
        finally:
            await consumer.stop()
    assert (record.key.decode(), orjson.loads(record.value)) == (f"{category}-outbox:A", {"number": 7})
    headers = dict(record.headers)
    assert (headers["ce_type"], headers["content-type"]) == (b"InvoiceDue", b"application/json")

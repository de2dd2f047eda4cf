"""Ids in PostgreSQL, and schemas on a topic that another service reads."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from aiokafka import AIOKafkaProducer

from headwater.kafka import KafkaSettings
from headwater.postgres import Database
from headwater.schemas import KafkaSchemaBoard, PostgresSchemas, candidate_ids, fingerprint_of
from tests.unit.schemas.test_values import check_registry


async def test_registering_is_idempotent_and_counts_versions(database: Database) -> None:
    await check_registry(PostgresSchemas(database))


async def test_services_starting_at_once_agree(database: Database) -> None:
    registry = PostgresSchemas(database)
    texts = [f'"schema {number}"' for number in range(4)]
    registered = await asyncio.gather(*(registry.register("s", text) for text in texts * 4))
    assert {one.version for one in registered} == {1, 2, 3, 4}
    assert len({(one.schema_id, one.version, one.schema_text) for one in registered}) == 4


async def test_id_taken_by_another_schema_gives_way_to_the_next(database: Database) -> None:
    first, second, *_ = candidate_ids(fingerprint_of('"long"'))
    async with database.connection() as connection:
        await connection.execute("INSERT INTO headwater.schemas VALUES ($1, $2, 'other')", first, bytes(32))
    assert (await PostgresSchemas(database).register("s", '"long"')).schema_id == second


async def test_other_services_see_what_was_published(kafka_bootstrap: str) -> None:
    settings, topic = KafkaSettings.parse(kafka_bootstrap), f"_schemas_{uuid4().hex[:10]}"
    writer, reader = KafkaSchemaBoard(settings, topic=topic), KafkaSchemaBoard(settings, topic=topic)
    await reader.refresh()
    assert reader.find(7) is None
    assert await writer.publish({7: '"long"'}) == {}
    assert await writer.publish({7: '"long"', 8: '"string"'}) == {}
    await reader.refresh()
    assert (reader.find(7), reader.find(8)) == ('"long"', '"string"')
    clashes = await reader.publish({8: '"bytes"'})
    assert "another schema" in str(clashes[8])
    late = KafkaSchemaBoard(settings, topic=topic)
    await late.refresh()
    assert late.find(8) == '"string"'


async def test_what_is_no_schema_on_the_topic_is_passed_over(kafka_bootstrap: str) -> None:
    settings, topic = KafkaSettings.parse(kafka_bootstrap), f"_schemas_{uuid4().hex[:10]}"
    board = KafkaSchemaBoard(settings, topic=topic)
    await board.publish({7: '"long"'})
    async with AIOKafkaProducer(bootstrap_servers=kafka_bootstrap) as producer:
        for key, value in ((b"8", b"\xff"), (b"9" * 5_000, b"x"), (None, b"x"), (b"8", None), (b"-8", b"x")):
            await producer.send_and_wait(topic, value, key=key)
    await board.publish({9: '"bytes"'})
    late = KafkaSchemaBoard(settings, topic=topic)
    await late.refresh()
    assert (late.find(7), late.find(9)) == ('"long"', '"bytes"')

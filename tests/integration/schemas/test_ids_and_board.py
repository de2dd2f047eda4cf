"""Ids in PostgreSQL, and schemas on a topic that another service reads."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from headwater.errors import SchemaError
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
    await writer.publish(7, '"long"')
    await writer.publish(7, '"long"')
    await writer.publish(8, '"string"')
    await reader.refresh()
    assert (reader.find(7), reader.find(8)) == ('"long"', '"string"')
    with pytest.raises(SchemaError, match="another schema"):
        await reader.publish(8, '"bytes"')
    late = KafkaSchemaBoard(settings, topic=topic)
    await late.refresh()
    assert late.find(8) == '"string"'

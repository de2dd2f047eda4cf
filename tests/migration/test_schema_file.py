"""The schema that people read is the one the migrations make."""

from __future__ import annotations

import asyncpg

from tools.dump_schema import SCHEMA_FILE, dump_schema


async def test_schema_file_is_what_the_migrations_give(postgres_dsn: str) -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == dump_schema(postgres_dsn), "run python tools/dump_schema.py"


async def test_schema_file_applied_by_hand_gives_the_same(empty_postgres_dsn: str) -> None:
    text = SCHEMA_FILE.read_text(encoding="utf-8")
    connection = await asyncpg.connect(empty_postgres_dsn)
    # As psql would be told to: functions name tables that come further down.
    await connection.execute("SET check_function_bodies = off")
    await connection.execute(text)
    await connection.close()
    assert dump_schema(empty_postgres_dsn) == text

"""Appends in the transactions of SQLAlchemy, and of drivers that only know the SQL function."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from headwater.errors import UsageError, WrongExpectedVersion
from headwater.eventstore import PostgresEventStore
from tests.integration.eventstore.logs import OrderPlaced, append, read_positions, versions

APPEND = "SELECT version, global_position FROM headwater.append_events(%s, %s, %s, %s, %s, %s)"


@pytest.fixture
async def engine(postgres_dsn: str) -> AsyncIterator[AsyncEngine]:
    created = create_async_engine(postgres_dsn.replace("postgresql://", "postgresql+asyncpg://"))
    async with created.begin() as connection:
        await connection.execute(text("CREATE TABLE orders (id text PRIMARY KEY)"))
    yield created
    await created.dispose()


async def test_append_joins_an_async_session(store: PostgresEventStore, engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        await store.append("order-1", [OrderPlaced()], expected_version=0, connection=session)
        await session.execute(text("INSERT INTO orders VALUES ('1')"))
        assert await store.stream_version("order-1", connection=session) == 1
        assert await store.stream_version("order-1") == 0
        await session.commit()
        await store.append("order-1", [OrderPlaced()], expected_version=1, connection=session)
        await session.rollback()
        assert (await session.execute(text("SELECT count(*) FROM orders"))).scalar_one() == 1
    assert await versions(store, "order-1") == [1]


async def test_append_joins_an_async_connection(store: PostgresEventStore, engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await store.append("order-1", [OrderPlaced()], expected_version=0, connection=connection)
        with pytest.raises(WrongExpectedVersion):
            async with connection.begin_nested():
                await store.append("order-1", [OrderPlaced()], expected_version=5, connection=connection)
        await store.append("order-1", [OrderPlaced()], expected_version=1, connection=connection)
    with pytest.raises(RuntimeError):
        async with engine.begin() as connection:
            await store.append("order-1", [OrderPlaced()], expected_version=2, connection=connection)
            raise RuntimeError
    assert await versions(store, "order-1") == [1, 2]


async def test_autocommitting_connection_is_refused(store: PostgresEventStore, engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(UsageError, match="transaction"):
            await store.append("order-1", [OrderPlaced()], expected_version=0, connection=autocommit)
    assert await versions(store, "order-1") == []


@pytest.mark.parametrize("connection", ["a text", psycopg, 7], ids=str)
async def test_what_is_no_connection_is_refused(store: PostgresEventStore, connection: Any) -> None:
    with pytest.raises(UsageError, match="give an asyncpg connection, or SQLAlchemy's"):
        await store.append("order-1", [OrderPlaced()], expected_version=0, connection=connection)


async def test_psycopg_appends_in_its_own_transaction(store: PostgresEventStore, postgres_dsn: str) -> None:
    event_id = uuid.uuid4()
    arguments = ("order-1", 0, ["OrderPlaced"], [Jsonb({"sku": "chai"})], [Jsonb({"correlation_id": "story"})], [event_id])

    async with await psycopg.AsyncConnection.connect(postgres_dsn) as connection:
        cursor = await connection.execute(APPEND, arguments)
        assert await cursor.fetchone() == (1, 1)
        await append(store, stream_name="order-2")
        assert await read_positions(store) == [], "the horizon stands still for any driver's append"
        await connection.commit()
        assert await (await connection.execute(APPEND, arguments)).fetchone() == (1, 1), "repeated: stored once, the same answer"
        await connection.rollback()

    assert await read_positions(store) == [1, 2]
    (event,) = [event async for event in store.read_stream("order-1")]
    assert (event.event_id, json.loads(event.data), event.correlation_id) == (event_id, {"sku": "chai"}, "story")


async def test_psycopg_learns_of_conflicts_by_sqlstate(store: PostgresEventStore, postgres_dsn: str) -> None:
    await append(store)

    def conflict() -> tuple[str | None, dict[str, Any]]:
        with psycopg.connect(postgres_dsn) as connection, pytest.raises(psycopg.Error) as caught:
            connection.execute(APPEND, ("order-1", 0, ["OrderPlaced"], [Jsonb({})], None, None))
        return caught.value.sqlstate, json.loads(caught.value.diag.message_detail or "{}")

    sqlstate, facts = await asyncio.to_thread(conflict)
    assert (sqlstate, facts) == ("HW001", {"stream_name": "order-1", "expected": "no stream", "actual_version": 1})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((None, None, ["T"], ["{}"], None, None), "stream name"),
        (("", None, ["T"], ["{}"], None, None), "stream name"),
        (("order-" + "x" * 10_000, None, ["T"], ["{}"], None, None), "10006"),
        (("order-\n", None, ["T"], ["{}"], None, None), "control"),
        (("or der-1", None, ["T"], ["{}"], None, None), "category"),
        (("order-1", None, [], [], None, None), "1 to 1000"),
        (("order-1", None, None, None, None, None), "1 to 1000"),
        (("order-1", None, ["T"] * 1001, ["{}"] * 1001, None, None), "1 to 1000"),
        (("order-1", None, ["T", "T"], ["{}"], None, None), "as many"),
        (("order-1", None, ["T"], ["{}"], ["{}", "{}"], None), "as many"),
        (("order-1", None, ["T"], ["{}"], None, [uuid.UUID(int=1), uuid.UUID(int=2)]), "as many"),
        (("order-1", None, [None], ["{}"], None, None), "lacks"),
        (("order-1", None, ["T"], [None], None, None), "lacks"),
        (("order-1", None, ["T"], ["{}"], None, [None]), "lacks"),
        (("order-1", None, [""], ["{}"], None, None), "event type"),
        (("order-1", None, ["T" * 201], ["{}"], None, None), "event type"),
        (("order-1", None, ["T"], ["{}"], ["[]"], None), "metadata"),
        (("order-1", None, ["T"], ["{}"], ['{"a": 1}'], None), "metadata"),
        (("order-1", None, ["T"], ["{}"], ['{"a": {"b": "c"}}'], None), "metadata"),
        (("order-1", None, ["T"], ["{}"], ['{"a": null}'], None), "metadata"),
        (("order-1", None, ["T"], ["{}"], ['{"a": "%s"}' % ("x" * 17_000)], None), "16384"),
        (("order-1", None, ["T"], ['"%s"' % ("x" * 1_048_576)], None, None), "1048576"),
        (("order-1", -2, ["T"], ["{}"], None, None), "expected"),
    ],
)
async def test_function_itself_refuses_bad_input(
    store: PostgresEventStore, postgres_dsn: str, arguments: tuple[Any, ...], says: str
) -> None:
    """Whichever driver sends it: what was let in must be possible to relay."""
    statement = "SELECT * FROM headwater.append_events(%s::text, %s::bigint, %s::text[], %s::jsonb[], %s::jsonb[], %s::uuid[])"
    async with await psycopg.AsyncConnection.connect(postgres_dsn) as connection:
        with pytest.raises(psycopg.Error, match=says) as caught:
            await connection.execute(statement, arguments)
        assert caught.value.sqlstate in ("HW001", "HW003")
        await connection.rollback()
    assert await read_positions(store) == []

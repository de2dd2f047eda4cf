"""Reads are as fresh as they say, or raise."""

from __future__ import annotations

import asyncio

import pytest

from headwater.errors import ConsistencyTimeout, ProjectionStopped, UsageError
from headwater.eventstore import PostgresEventStore
from headwater.messages import ANY, LogPosition
from headwater.postgres import Database
from headwater.projections import Projection, SqlProjection, on, rebuild, register_projections, verify
from tests.integration.projections.shop import OrderCount, OrderLines, OrderPlaced, UnitsOrdered, models, place, registry, running


async def test_a_read_that_would_lie_raises_and_says_how_far_behind(database: Database, store: PostgresEventStore) -> None:
    await register_projections(database, registry(), [OrderCount])
    await place(store, 7)
    reading = models(database, store)
    assert await reading.read(OrderCount) is None
    with pytest.raises(ConsistencyTimeout, match=r"order_count is at position 0, 7 behind 7.*after 0.05 s; is its runner running"):
        await reading.read(OrderCount, consistency="strong", timeout_seconds=0.05)
    with pytest.raises(ConsistencyTimeout, match="5 behind 5"):
        await reading.read(OrderCount, consistency="causal", written=LogPosition(1, 5), timeout_seconds=0)
    assert await reading.read(OrderCount, consistency="causal") is None, "nothing written, nothing to wait for"


async def test_a_token_of_an_append_that_was_undone_is_met_by_the_event_before_it(database: Database, store: PostgresEventStore) -> None:
    await place(store, 2)
    async with database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        gone = await store.append("order-2", [OrderPlaced(sku="a")], expected_version=ANY, connection=connection)
        reading = models(database, store)
        async with running(database, store, [OrderCount]):
            # While it may still commit, it is waited for.
            with pytest.raises(ConsistencyTimeout):
                await reading.read(OrderCount, consistency="causal", written=gone.global_position, timeout_seconds=0.2)
            await transaction.rollback()
            assert await reading.read(OrderCount, consistency="causal", written=gone.global_position) == OrderCount(orders=2)
            assert await reading.read(OrderCount, consistency="causal", written=LogPosition(1, gone.global_position)) == OrderCount(
                orders=2
            )


async def test_strong_waits_for_what_is_committed_above_an_append_in_flight(database: Database, store: PostgresEventStore) -> None:
    """Rule 22: the head is the last event committed, though the horizon stands below it."""
    reading = models(database, store)
    async with running(database, store, [OrderCount]):
        async with database.connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await store.append("order-2", [OrderPlaced(sku="a")], expected_version=ANY, connection=connection)
            await place(store, 1)
            with pytest.raises(ConsistencyTimeout, match="2 behind 2"):
                await reading.read(OrderCount, consistency="strong", timeout_seconds=0.2)
            waiting = asyncio.create_task(reading.read(OrderCount, consistency="strong"))
            await transaction.commit()
        assert await waiting == OrderCount(orders=2)


async def test_waiting_inside_ones_own_appending_transaction_is_refused(database: Database, store: PostgresEventStore) -> None:
    await register_projections(database, registry(), [OrderCount])
    reading = models(database, store)
    async with database.transaction() as connection:
        assert await reading.read(OrderCount, consistency="strong", connection=connection) is None
        async with connection.transaction():
            pass
        result = await store.append("order-1", [OrderPlaced(sku="a")], expected_version=0, connection=connection)
        for consistency in ("causal", "strong"):
            with pytest.raises(UsageError, match="would wait for its own commit"):
                await reading.read(OrderCount, consistency=consistency, written=result.global_position, connection=connection)
        assert await reading.read(OrderCount, connection=connection) is None


async def test_waiting_for_a_stopped_projection_raises_at_once(database: Database, store: PostgresEventStore) -> None:
    await register_projections(database, registry(), [OrderCount])
    await place(store, 1)
    async with database.connection() as connection:
        await connection.execute("UPDATE headwater.projections SET status = 'failed', error = 'it broke'")
    with pytest.raises(ProjectionStopped, match=r"order_count failed at position 0 .*: it broke\. Mend it"):
        await models(database, store).read(OrderCount, consistency="strong")


async def test_wrong_use_is_told(database: Database, store: PostgresEventStore) -> None:
    await register_projections(database, registry(), [OrderCount, UnitsOrdered, OrderLines])
    reading = models(database, store)
    with pytest.raises(UsageError, match="say which row of UnitsOrdered"):
        await reading.read(UnitsOrdered)
    with pytest.raises(UsageError, match="OrderCount has one row and no key"):
        await reading.read(OrderCount, "a")
    with pytest.raises(UsageError, match="keeps its rows in tables of its own"):
        await reading.read(OrderLines)  # type: ignore[type-var]
    with pytest.raises(UsageError, match="consistency='sometimes'"):
        await reading.read(OrderCount, consistency="sometimes")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no open transaction"):
        async with database.connection() as connection:
            await reading.read(OrderCount, connection=connection)
    with pytest.raises(Exception, match="read-only transaction"):
        async with reading.connection(OrderLines) as query:
            await query.fetch("INSERT INTO totals VALUES ('a', 1)")


async def test_verification_finds_what_was_changed_missing_or_added(database: Database, store: PostgresEventStore) -> None:
    await place(store, 9)
    for projection in (UnitsOrdered, OrderLines):
        await rebuild(database, store, registry(), projection)
        found = await verify(database, store, registry(), projection)
        assert (found.is_equal, found.checkpoint.global_position) == (True, 9)
        assert found.rows_compared == (3 if projection is UnitsOrdered else 12)
    async with database.connection() as connection:
        await connection.execute("UPDATE projection_units_ordered.states SET state = state || '{\"units\": 1000}' WHERE key = 'sku-0'")
        await connection.execute("DELETE FROM projection_units_ordered.states WHERE key = 'sku-1'")
        await connection.execute("INSERT INTO projection_units_ordered.states VALUES ('stray', '{}')")
        await connection.execute("UPDATE projection_order_lines.totals SET units = 1000 WHERE sku = 'sku-0'")
    found = await verify(database, store, registry(), UnitsOrdered)
    assert [(d.row, d.stored is None, d.expected is None) for d in found.differences] == [
        ("sku-0", False, False),
        ("sku-1", True, False),
        ("stray", False, True),
    ]
    found = await verify(database, store, registry(), OrderLines)
    assert [(d.row, d.stored) for d in found.differences] == [("totals", "(sku-0,1000)"), ("totals", None)]
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname LIKE '%verify'") == 0


async def test_two_tables_of_one_name_do_not_share_statements(database: Database, store: PostgresEventStore) -> None:
    """Statements are prepared by their text; the same text means other tables in another projection."""
    one, other = _named("One", "quantity int", int), _named("Other", "quantity text", str)
    await place(store, 20)
    async with running(database, store, [one, other]):
        for _ in range(10):
            for projection in (one, other):
                async with models(database, store).connection(projection, consistency="strong") as connection:
                    assert len(await connection.fetch("SELECT * FROM things")) == 20


def _named(name: str, column: str, kind: type) -> type[SqlProjection]:
    async def placed(self: SqlProjection, event: OrderPlaced, connection: object) -> None:
        await connection.execute("INSERT INTO things VALUES ($1)", kind(event.quantity))  # type: ignore[attr-defined]
        assert type(await connection.fetchval("SELECT quantity FROM things LIMIT 1")) is kind  # type: ignore[attr-defined]

    return type(name, (SqlProjection,), {"tables": f"CREATE TABLE things ({column})", "placed": on(OrderPlaced)(placed)})


class Fields(Projection, key=lambda event: (event.sku, event.quantity)[0]):
    seen: set[str] = set()  # noqa: RUF012 - pydantic copies it
    share: float = 0.0

    @on(OrderPlaced)
    def placed(self, event: OrderPlaced) -> None:
        self.seen.add(event.sku)
        self.share = float("nan")


async def test_keys_from_functions_and_fields_of_many_kinds(database: Database, store: PostgresEventStore) -> None:
    await place(store, 9)
    await rebuild(database, store, registry(), Fields)
    row = await models(database, store).read(Fields, "sku-2")
    assert row is not None
    assert (row.seen, str(row.share)) == ({"sku-2"}, "nan")
    assert (await models(database, store).verify(Fields)).is_equal

"""Read models follow the log."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
import structlog
from structlog.testing import capture_logs

from headwater.errors import NotFoundError, UsageError
from headwater.eventstore import PostgresEventStore
from headwater.messages import ANY, EventRegistry
from headwater.postgres import Connection, Database
from headwater.projections import Projection, SqlProjection, list_projections, on, register_projections, resume_projection
from headwater.projections.postgres import read_version
from headwater.testing import eventually
from tests.integration.projections.shop import (
    OrderCancelled,
    OrderCount,
    OrderLines,
    OrderNoted,
    OrderPlaced,
    UnitsOrdered,
    models,
    place,
    registry,
    running,
    units_of,
)

structlog.reset_defaults()


async def test_folds_and_tables_follow_the_log(database: Database, store: PostgresEventStore) -> None:
    reading = models(database, store)
    await place(store, 1_200)
    async with running(database, store, [UnitsOrdered, OrderCount, OrderLines]):
        last = await place(store, 10)
        row = await reading.read(UnitsOrdered, "sku-1", consistency="causal", written=last)
        assert row is not None
        assert (row.row_key, row.units) == ("sku-1", units_of(1_200)["sku-1"] + units_of(10)["sku-1"])
        count = await reading.read(OrderCount, consistency="strong")
        assert count == OrderCount(orders=1_210)
        async with reading.connection(OrderLines, consistency="strong") as connection:
            assert await connection.fetchval("SELECT count(*) FROM lines") == 1_210
            assert {r["sku"]: r["units"] for r in await connection.fetch("SELECT * FROM totals")} == {
                sku: units + units_of(10)[sku] for sku, units in units_of(1_200).items()
            }
    assert await reading.read(UnitsOrdered, "no such sku") is None
    assert [row.row_key async for row in reading.read_all(UnitsOrdered)] == ["sku-0", "sku-1", "sku-2"]
    assert [row.row_key async for row in reading.read_all(UnitsOrdered, after="sku-0", limit=1)] == ["sku-1"]


async def test_the_checkpoint_moves_past_events_that_nobody_takes(database: Database, store: PostgresEventStore) -> None:
    noted = await store.append("order-1", [OrderNoted()], expected_version=ANY)
    async with running(database, store, [UnitsOrdered]):
        assert await models(database, store).read(UnitsOrdered, "x", consistency="causal", written=noted.global_position) is None
    (version,) = await list_projections(database)
    assert (version.name, version.checkpoint.global_position, version.event_count, version.status) == ("units_ordered", 1, 1, "running")


async def test_two_runners_apply_every_event_once(database: Database, store: PostgresEventStore) -> None:
    async with running(database, store, [UnitsOrdered, OrderLines], runners=3):
        await asyncio.gather(*(place(store, 600, per_append=20) for _ in range(4)))
        row = await models(database, store).read(UnitsOrdered, "sku-0", consistency="strong")
        async with models(database, store).connection(OrderLines, consistency="strong") as connection:
            assert await connection.fetchval("SELECT count(*) FROM lines") == 2_400
    assert row is not None
    assert row.units == 4 * units_of(600)["sku-0"]
    for projection in (UnitsOrdered, OrderLines):
        assert (await models(database, store).verify(projection)).is_equal


async def test_rows_that_stay_the_same_are_not_written(database: Database, store: PostgresEventStore) -> None:
    async with running(database, store, [UnitsOrdered]):
        await place(store, 3)
        await models(database, store).read(UnitsOrdered, "sku-0", consistency="strong")
        async with database.connection() as connection:
            before = await connection.fetchval("SELECT xmin::text FROM projection_units_ordered.states WHERE key = 'sku-0'")
        # Undone within one batch but for the number of orders of the other row.
        await store.append("order-1", [OrderCancelled(sku="sku-0", quantity=0), OrderPlaced(sku="sku-1")], expected_version=ANY)
        await models(database, store).read(UnitsOrdered, "sku-0", consistency="strong")
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT xmin::text FROM projection_units_ordered.states WHERE key = 'sku-0'") == before


class Fragile(Projection):
    """Breaks at an order of 99 pieces until it is mended."""

    units: int = 0

    @on(OrderPlaced)
    def ordered(self, event: OrderPlaced) -> None:
        if event.quantity == 99 and not mended:
            raise ArithmeticError("99 is too much")
        self.units += event.quantity


mended: list[bool] = []


@pytest.fixture
def breakable() -> None:
    mended.clear()


async def test_a_fold_that_raises_stops_alone_with_an_alarm_and_loses_nothing(
    database: Database, store: PostgresEventStore, breakable: None
) -> None:
    quantities = [1, 1, 99, 1]
    await store.append("order-1", [OrderPlaced(sku="a", quantity=q) for q in quantities], expected_version=0)
    with capture_logs() as facts:
        async with running(database, store, [Fragile, OrderCount]):

            async def status() -> str | None:
                async with database.connection() as connection:
                    version = await read_version(connection, "fragile")
                return version and version.status

            await eventually(lambda: _is(status(), "failed"))
            assert await models(database, store).read(OrderCount, consistency="strong") == OrderCount(orders=4)
            assert await models(database, store).read(Fragile) == Fragile(units=2)
            mended.append(True)
            assert await resume_projection(database, "fragile")
            await eventually(lambda: _is(models(database, store).read(Fragile), Fragile(units=102)))
    alarms = [fact for fact in facts if fact["event"] == "projection_failed"]
    assert len(alarms) == 1
    assert alarms[0]["position"] == 2
    assert "ArithmeticError: 99 is too much" in alarms[0]["error"]
    assert "OrderPlaced, position 3" in alarms[0]["error"]


async def _is(answer: object, wanted: object) -> bool:
    return await answer == wanted  # type: ignore[misc]


async def test_a_stopped_projection_tries_again_when_its_process_starts_anew(
    database: Database, store: PostgresEventStore, breakable: None
) -> None:
    await store.append("order-1", [OrderPlaced(sku="a", quantity=99)], expected_version=0)
    with capture_logs() as facts:
        async with running(database, store, [Fragile]):
            await eventually(lambda: any(fact["event"] == "projection_failed" for fact in facts))
    mended.append(True)
    async with running(database, store, [Fragile]):
        await eventually(lambda: _is(models(database, store).read(Fragile), Fragile(units=99)))


async def test_a_log_that_lost_its_tail_stops_the_projection(database: Database, store: PostgresEventStore) -> None:
    await place(store, 3)
    async with running(database, store, [UnitsOrdered, OrderCount]):
        await models(database, store).read(UnitsOrdered, "sku-0", consistency="strong")
    async with database.connection() as connection:
        await connection.execute("UPDATE headwater.projections SET event_id = $1 WHERE name = 'units_ordered'", uuid4())
    with capture_logs() as facts:
        async with running(database, store, [UnitsOrdered, OrderCount]):
            await place(store, 3)
            assert await models(database, store).read(OrderCount, consistency="strong") == OrderCount(orders=6)
            await eventually(lambda: any(fact["event"] == "projection_diverged" for fact in facts))
    assert {v.name: v.status for v in await list_projections(database)} == {"units_ordered": "diverged", "order_count": "running"}


async def test_a_running_projection_notices_that_another_server_answers(database: Database, store: PostgresEventStore) -> None:
    """A pool gets new connections without a word: after a failover the positions that this projection read are handed out again."""
    await place(store, 3)
    with capture_logs() as facts:
        async with running(database, store, [OrderCount]):
            assert await models(database, store).read(OrderCount, consistency="strong") == OrderCount(orders=3)
            async with database.transaction() as connection:
                await connection.execute("UPDATE headwater.log_epochs SET timeline = '00000000'")
                await connection.execute("UPDATE headwater.events SET event_id = gen_random_uuid() WHERE global_position = 3")
            await place(store, 1)
            await eventually(lambda: any(fact["event"] == "projection_diverged" for fact in facts))
    assert {v.name: v.status for v in await list_projections(database)} == {"order_count": "diverged"}
    assert await models(database, store).read(OrderCount) == OrderCount(orders=3), "nothing of the other life was applied"


async def test_a_schema_dropped_by_hand_comes_back_filled_with_the_process(database: Database, store: PostgresEventStore) -> None:
    await place(store, 3)
    async with running(database, store, [OrderCount]):
        await models(database, store).read(OrderCount, consistency="strong")
    async with database.connection() as connection:
        await connection.execute("DROP SCHEMA projection_order_count CASCADE")
    await register_projections(database, registry(), [OrderCount])
    async with running(database, store, [OrderCount]):
        assert await models(database, store).read(OrderCount, consistency="strong") == OrderCount(orders=3)


class Misses(SqlProjection):
    """Writes to a table that its version lacks, and that `public` has."""

    tables = "CREATE TABLE here (sku text)"

    @on(OrderPlaced)
    async def placed(self, event: OrderPlaced, connection: Connection) -> None:
        await connection.execute("INSERT INTO elsewhere VALUES ($1)", event.sku)


async def test_a_name_missing_in_the_versions_schema_does_not_fall_through_to_public(database: Database, store: PostgresEventStore) -> None:
    """Rule 23."""
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE public.elsewhere (sku text)")
    await place(store, 1)
    with capture_logs() as facts:
        async with running(database, store, [Misses]):
            await eventually(lambda: any(fact["event"] == "projection_failed" for fact in facts))
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM public.elsewhere") == 0
    assert 'relation "elsewhere" does not exist' in next(fact["error"] for fact in facts if fact["event"] == "projection_failed")
    with pytest.raises(Exception, match='relation "elsewhere" does not exist'):
        async with models(database, store).connection(Misses) as query:
            await query.fetch("SELECT * FROM elsewhere")


async def test_tables_that_cannot_be_made_are_refused_at_the_start(database: Database) -> None:
    class Typo(SqlProjection):
        tables = "CREATE TABL oops (sku text)"

        @on(OrderPlaced)
        async def placed(self, event: OrderPlaced, connection: Connection) -> None: ...

    with pytest.raises(UsageError, match=r"the tables of Typo cannot be created: .*TABL"):
        await register_projections(database, registry(), [Typo])
    assert await list_projections(database) == ()


async def test_a_schema_that_is_not_ours_is_left_alone(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("CREATE SCHEMA projection_order_count")
    with pytest.raises(UsageError, match="the schema projection_order_count exists, but not as a part of the projection"):
        await register_projections(database, registry(), [OrderCount])


async def test_two_processes_may_register_at_once(database: Database) -> None:
    await asyncio.gather(*(register_projections(database, registry(), [OrderCount, OrderLines, UnitsOrdered]) for _ in range(6)))
    assert [version.name for version in await list_projections(database)] == ["order_count", "order_lines", "units_ordered"]


async def test_another_definition_stops_here_and_waits_for_a_rebuild(database: Database, store: PostgresEventStore) -> None:
    await place(store, 3)
    async with running(database, store, [UnitsOrdered]):
        await models(database, store).read(UnitsOrdered, "sku-0", consistency="strong")
    changed = type(
        "UnitsOrdered", (Projection,), {"__module__": __name__, "__annotations__": {"units": int}, "units": 0, "seen": _seen}, key="sku"
    )
    with capture_logs() as facts:
        async with running(database, store, [changed]):
            await eventually(lambda: any(fact["event"] == "projection_outdated" for fact in facts))
            await place(store, 3)
    (version,) = await list_projections(database)
    assert (version.checkpoint.global_position, version.status) == (3, "running")


@on(OrderPlaced)
def _seen(self: Projection, event: OrderPlaced) -> None: ...


async def test_an_unknown_projection_is_refused_naming_the_known(database: Database, store: PostgresEventStore) -> None:
    await register_projections(database, registry(), [OrderCount])
    with pytest.raises(NotFoundError, match="no projection named 'nonesuch' ever ran on this database; it knows: order_count"):
        await resume_projection(database, "nonesuch")
    with pytest.raises(NotFoundError, match="no projection named 'units_ordered' ever ran"):
        await models(database, store).read(UnitsOrdered, "a")
    with pytest.raises(NotFoundError, match="no projection named 'units_ordered' ever ran"):
        await models(database, store).read(UnitsOrdered, "a", consistency="causal", written=1, timeout_seconds=0.05)
    with pytest.raises(UsageError, match="two projections are named order_count"):
        await register_projections(
            database, EventRegistry(), [OrderCount, type("OrderCount", (SqlProjection,), {"tables": "X", "seen": _seen_sql})]
        )


@on(OrderPlaced)
async def _seen_sql(self: SqlProjection, event: OrderPlaced, connection: Connection) -> None: ...

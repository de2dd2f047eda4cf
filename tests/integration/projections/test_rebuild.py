"""Read models are made anew while the old ones serve."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from headwater.errors import ProjectionFailed, RebuildRunning
from headwater.eventstore import PostgresEventStore
from headwater.postgres import Connection, Database
from headwater.projections import (
    Projection,
    RebuildProgress,
    SqlProjection,
    list_projections,
    on,
    rebuild,
)
from headwater.testing import eventually
from tests.integration.projections.shop import OrderCount, OrderLines, OrderPlaced, UnitsOrdered, models, place, registry, running, units_of


async def schemas(database: Database) -> list[str]:
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'projection%' ORDER BY 1")
    return [row["nspname"] for row in rows]


async def test_a_rebuild_gives_what_the_log_says_and_tells_how_it_goes(database: Database, store: PostgresEventStore) -> None:
    await place(store, 7_000)
    told: list[RebuildProgress] = []
    async with running(database, store, [UnitsOrdered]):
        await models(database, store).read(UnitsOrdered, "sku-0", consistency="strong")
        async with database.connection() as connection:
            await connection.execute("""UPDATE projection_units_ordered.states SET state = '{"units": -5, "orders": 0}'""")
        assert not (await models(database, store).verify(UnitsOrdered)).is_equal
        done = await rebuild(database, store, registry(), UnitsOrdered, progress=told.append)
        await place(store, 30)
        row = await models(database, store).read(UnitsOrdered, "sku-0", consistency="strong")
    assert row is not None
    assert row.units == units_of(7_000)["sku-0"] + units_of(30)["sku-0"]
    assert (await models(database, store).verify(UnitsOrdered)).is_equal
    assert [p.events_done for p in told] == [0, 5_000, 7_000, 7_000]
    assert [p.events_total for p in told[1:]] == [7_000] * 3
    assert done == told[-1]
    assert (done.done, done.seconds_left) == (True, 0.0)
    assert done.events_per_second > 0
    assert await schemas(database) == ["projection_units_ordered"]


@pytest.mark.parametrize("projection", [UnitsOrdered, OrderLines])
async def test_a_rebuild_of_what_never_ran_makes_it(
    database: Database, store: PostgresEventStore, projection: type[Projection | SqlProjection]
) -> None:
    await place(store, 20)
    await rebuild(database, store, registry(), projection)
    verification = await models(database, store).verify(projection)
    assert verification.is_equal
    assert verification.checkpoint.global_position == 20


async def test_an_empty_log_rebuilds_to_an_empty_model(database: Database, store: PostgresEventStore) -> None:
    done = await rebuild(database, store, registry(), UnitsOrdered)
    assert (done.events_done, done.events_total, done.done) == (0, 0, True)
    assert await models(database, store).read(UnitsOrdered, "a") is None


async def test_readers_and_writers_notice_nothing_of_switches(database: Database, store: PostgresEventStore) -> None:
    """Rule 23: rows are always there and never go back, whatever is switched meanwhile."""
    await place(store, 60)
    reading, is_over, reads = models(database, store), asyncio.Event(), [0, 0]

    async def read_rows() -> None:
        last = 0
        while not is_over.is_set():
            row = await reading.read(UnitsOrdered, "sku-1")
            assert row is not None
            assert row.units >= last
            last = row.units
            reads[0] += 1
            await asyncio.sleep(0.002)

    async def read_tables() -> None:
        last = 0
        while not is_over.is_set():
            async with reading.connection(OrderLines) as connection:
                total = await connection.fetchval("SELECT sum(units) FROM totals")
                lines = await connection.fetchval("SELECT sum(quantity) FROM lines")
            assert lines >= total >= last
            last = total
            reads[1] += 1
            await asyncio.sleep(0.002)

    async def write() -> None:
        while not is_over.is_set():
            await place(store, 2)
            await asyncio.sleep(0.03)

    async with running(database, store, [UnitsOrdered, OrderLines]):
        await reading.read(UnitsOrdered, "sku-1", consistency="strong")
        async with reading.connection(OrderLines, consistency="strong"):
            pass
        async with asyncio.TaskGroup() as group:
            for task in (read_rows, read_rows, read_tables, read_tables, write):
                group.create_task(task())
            for _ in range(5):
                await rebuild(database, store, registry(), UnitsOrdered)
                await rebuild(database, store, registry(), OrderLines)
            is_over.set()
        await reading.read(UnitsOrdered, "sku-1", consistency="strong")
        async with reading.connection(OrderLines, consistency="strong"):
            pass
    for projection in (UnitsOrdered, OrderLines):
        assert (await reading.verify(projection)).is_equal
    assert [v.generation for v in await list_projections(database)] == [6, 6]
    assert min(reads) > 20


def _widened(columns: str, value: str) -> type[SqlProjection]:
    class Widened(SqlProjection):
        tables = f"CREATE TABLE counts ({columns})"

        @on(OrderPlaced)
        async def placed(self, event: OrderPlaced, connection: Connection) -> None:
            given: Any = event.quantity if value == "int" else str(event.quantity)
            await connection.execute("INSERT INTO counts (quantity) VALUES ($1)", given)
            assert type(await connection.fetchval("SELECT quantity FROM counts LIMIT 1")) is type(given)

    return Widened


async def test_readers_get_changed_column_types_without_an_error(database: Database, store: PostgresEventStore) -> None:
    """Rule 23: a statement prepared for the old version is not used on the new one."""
    before, after = _widened("quantity int", "int"), _widened("quantity text, extra int", "text")
    await place(store, 10)
    reading = models(database, store)

    async def read() -> object:
        async with reading.connection(before) as connection:
            return [dict(row) for row in await connection.fetch("SELECT * FROM counts ORDER BY quantity LIMIT 1")]

    async with running(database, store, [before]):
        async with reading.connection(before, consistency="strong"):
            pass
        for _ in range(20):
            assert await read() == [{"quantity": 1}]
        with capture_logs() as facts:
            await rebuild(database, store, registry(), after)
            for _ in range(20):
                assert await read() == [{"quantity": "1", "extra": None}]
            await place(store, 1)
            # The runner of the old definition keeps its hands off the new rows.
            await eventually(lambda: any(fact["event"] == "projection_outdated" for fact in facts))
    async with running(database, store, [after]):
        async with reading.connection(after, consistency="strong") as connection:
            assert await connection.fetchval("SELECT count(*) FROM counts") == 11


async def test_a_runner_of_the_new_definition_takes_over_after_the_rebuild(database: Database, store: PostgresEventStore) -> None:
    before, after = _widened("quantity int", "int"), _widened("quantity text", "text")
    await place(store, 10)
    async with running(database, store, [before]):
        async with models(database, store).connection(before, consistency="strong"):
            pass
    with capture_logs() as facts:
        async with running(database, store, [after]):
            await eventually(lambda: any(fact["event"] == "projection_outdated" for fact in facts))
            await rebuild(database, store, registry(), after)
            await place(store, 5)
            async with models(database, store).connection(after, consistency="strong") as connection:
                assert await connection.fetchval("SELECT count(*) FROM counts") == 15


async def test_the_second_rebuild_at_once_is_told(database: Database, store: PostgresEventStore) -> None:
    await place(store, 3)
    refused: list[bool] = []

    async def second() -> None:
        with pytest.raises(RebuildRunning, match="another process rebuilds the projection units_ordered now"):
            await rebuild(database, store, registry(), UnitsOrdered)
        refused.append(True)

    slow = _SlowStore(database, second)
    await rebuild(database, slow, registry(), UnitsOrdered)
    assert refused
    await rebuild(database, store, registry(), UnitsOrdered)


class _SlowStore(PostgresEventStore):
    """Lets something else happen whole before its first read of the log."""

    def __init__(self, database: Database, first: Any) -> None:
        super().__init__(database)
        self._first: Any = first

    async def read_log(self, **kwargs: Any) -> Any:
        first, self._first = self._first, None
        if first is not None:
            await first()
        return await super().read_log(**kwargs)


async def _cut_off(database: Database, projection: type[Projection]) -> None:
    with pytest.raises(RuntimeError, match="cut"):
        await rebuild(database, PostgresEventStore(database), registry(), projection, progress=_cut_after_first_batch)


def _cut_after_first_batch(progress: RebuildProgress) -> None:
    if progress.events_done:
        raise RuntimeError("cut")


async def test_a_rebuild_that_was_cut_off_goes_on_and_one_of_another_definition_starts_over(
    database: Database, store: PostgresEventStore
) -> None:
    await place(store, 6_000)
    await _cut_off(database, UnitsOrdered)
    assert [(v.role, v.event_count) for v in await list_projections(database)] == [("live", 0), ("next", 5_000)]

    told: list[RebuildProgress] = []
    await rebuild(database, store, registry(), UnitsOrdered, progress=told.append)
    assert told[0].events_done == 5_000
    assert (await models(database, store).verify(UnitsOrdered)).is_equal

    await _cut_off(database, UnitsOrdered)
    told.clear()
    doubled = type("UnitsOrdered", (UnitsOrdered,), {"__module__": __name__, "__annotations__": {"note": str}, "note": ""})
    await rebuild(database, store, registry(), doubled, progress=told.append)
    assert told[0].events_done == 0
    assert (await models(database, store).verify(doubled)).is_equal


async def test_a_projection_that_raises_leaves_the_old_version_serving(database: Database, store: PostgresEventStore) -> None:
    class OrderCount(Projection):  # the same name, other code
        orders: int = 0

        @on(OrderPlaced)
        def ordered(self, event: OrderPlaced) -> None:
            raise ValueError("not today")

    from tests.integration.projections.shop import OrderCount as Sound

    await place(store, 3)
    await rebuild(database, store, registry(), Sound)
    with pytest.raises(
        ProjectionFailed, match="order_count failed at OrderPlaced, position 1, version 1 of 'order-1': ValueError: not today"
    ):
        await rebuild(database, store, registry(), OrderCount)
    assert await models(database, store).read(Sound) == Sound(orders=3)


async def test_long_readers_delay_the_switch_and_nothing_else(database: Database, store: PostgresEventStore) -> None:
    await place(store, 3)
    await rebuild(database, store, registry(), OrderLines)
    reading = models(database, store)
    with capture_logs() as facts:
        async with running(database, store, [OrderLines]):
            async with reading.connection(OrderLines) as connection:
                task = asyncio.create_task(rebuild(database, store, registry(), OrderLines))
                await eventually(lambda: any(fact["event"] == "projection_switch_waits" for fact in facts))
                await place(store, 3)
                async with reading.connection(OrderLines, consistency="strong") as other:
                    assert await other.fetchval("SELECT count(*) FROM lines") == 6
                assert await connection.fetchval("SELECT count(*) FROM lines") == 6
            await task
    assert (await reading.verify(OrderLines)).is_equal


async def test_a_diverged_projection_is_rebuilt_though_the_log_is_shorter_now(database: Database, store: PostgresEventStore) -> None:
    await place(store, 10)
    await rebuild(database, store, registry(), OrderCount)
    async with database.connection() as connection:
        # As a restored backup would leave it: the last events are gone.
        await connection.execute("DELETE FROM headwater.events WHERE global_position > 7")
    await rebuild(database, store, registry(), OrderCount)
    assert await models(database, store).read(OrderCount) == OrderCount(orders=7)


async def test_a_rebuild_never_goes_back_behind_what_readers_have_seen(
    database: Database, store: PostgresEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The switch happens only once the new mark has reached the old one."""
    await place(store, 10)
    await rebuild(database, store, registry(), OrderCount)

    class ShortSighted(PostgresEventStore):
        async def read_log(self, *, after: int, limit: int = 1_000) -> Any:
            read = await super().read_log(after=after, limit=limit)
            return type(read)(tuple(e for e in read.events if e.global_position <= 7), 7)

    with pytest.raises(Exception, match="does not reach position 10, where the old one is; nothing was switched"):
        await rebuild(database, ShortSighted(database), registry(), OrderCount)
    assert await models(database, store).read(OrderCount) == OrderCount(orders=10)

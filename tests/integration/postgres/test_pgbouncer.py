"""The log behind a real PgBouncer in transaction mode, which gives three server connections to everybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest

from headwater.bus import PostgresEffects
from headwater.errors import RebuildRunning, UsageError
from headwater.eventstore import PostgresEventStore
from headwater.kafka import Partition
from headwater.postgres import Database, apply_migrations
from headwater.projections import rebuild
from headwater.projections.postgres import OwnSession
from headwater.telemetry import configure_logging
from headwater.testing.conformance import EventStoreConformance
from tests.foreign_servers import at_full_count, pgbouncer, require
from tests.integration.eventstore.logs import append, read_positions
from tests.integration.projections.shop import OrderLines, UnitsOrdered, place, registry

PROGRAM = "/usr/sbin/pgbouncer"
IGNORING = "ignore_startup_parameters = default_transaction_isolation,tcp_keepalives_idle,tcp_keepalives_interval,tcp_keepalives_count"
IGNORING += ",tcp_user_timeout,idle_in_transaction_session_timeout"

pytestmark = at_full_count


def through(dsn: str, port: int) -> str:
    """The same database, by way of the pooler."""
    return urlsplit(dsn)._replace(netloc=f"postgres@127.0.0.1:{port}").geturl()


@pytest.fixture(scope="module")
def bouncer(postgres_server: str) -> Iterator[int]:
    with pgbouncer(require(PROGRAM, "pgbouncer"), urlsplit(postgres_server).port or 5432) as port:
        yield port


@pytest.fixture(params=["headwater", "acme"])
async def database(request: pytest.FixtureRequest, empty_postgres_dsn: str, bouncer: int) -> AsyncIterator[Database]:
    async with Database(through(empty_postgres_dsn, bouncer), schema=request.param, pooling="transaction") as database:
        async with database.connection() as connection:
            await apply_migrations(connection)
        yield database


class TestBehindPgbouncer(EventStoreConformance):
    joins_transactions = True

    @pytest.fixture
    async def database(self, postgres_dsn: str, bouncer: int) -> AsyncIterator[Database]:
        async with Database(through(postgres_dsn, bouncer), pooling="transaction") as database:
            yield database


async def test_many_clients_share_few_servers(database: Database) -> None:
    """Each statement is parsed and run on one server connection, whichever that is."""
    store = PostgresEventStore(database)

    async def write(number: int) -> None:
        for _ in range(10):
            await append(store, stream_name=f"order-{number}")
            await store.read_log(after=0)
            await store.stream_version(f"order-{number}")

    await asyncio.gather(*(write(number) for number in range(12)))
    assert len(await read_positions(store)) == 120
    assert await store.horizon() == 120


async def test_an_open_append_holds_the_horizon_behind_a_pooler_too(database: Database) -> None:
    store = PostgresEventStore(database)
    async with database.transaction() as connection:
        await append(store, connection)
        await append(store, stream_name="order-2")
        assert await store.horizon() == 0
    assert await store.horizon() == 2


async def test_effects_and_positions_commit_together(database: Database) -> None:
    effects, partition = PostgresEffects(database, PostgresEventStore(database)), Partition("order", 0)
    claimed = await effects.claim("shop", partition)
    again = await effects.claim("shop", partition)
    assert await effects.confirm("shop", claimed) is None
    assert await effects.confirm("shop", again) == again


async def test_read_models_are_rebuilt_and_the_claim_is_given_up(database: Database) -> None:
    store = PostgresEventStore(database)
    await place(store, 30)
    for projection in (UnitsOrdered, OrderLines):
        done = await rebuild(database, store, registry(), projection)
        assert done.events_done >= 30
    first, second = OwnSession(database), OwnSession(database)
    assert await first.claim_rebuild("units_ordered")
    assert not await second.claim_rebuild("units_ordered")
    with pytest.raises(RebuildRunning):
        await rebuild(database, store, registry(), UnitsOrdered)
    await first.close()
    await second.close()
    # A lock of the session would stay with a server connection that others use now.
    await rebuild(database, store, registry(), UnitsOrdered)


async def test_what_needs_a_session_is_refused(database: Database) -> None:
    async with database.transaction() as connection:
        for needs_session in (
            lambda: connection.prepare("SELECT 1"),
            lambda: connection.add_listener("bell", lambda *_: None),
            lambda: connection.cursor("SELECT 1").fetchrow(),
        ):
            with pytest.raises(UsageError, match=r"outlives a transaction.*connect to PostgreSQL directly"):
                await needs_session()


@pytest.mark.parametrize("options", ["", IGNORING], ids=["settings refused", "settings ignored"])
async def test_a_pooler_that_nobody_mentioned_is_named(empty_postgres_dsn: str, postgres_server: str, options: str) -> None:
    """Without the setting nothing is half done in silence: the error says what to set."""
    with pgbouncer(require(PROGRAM, "pgbouncer"), urlsplit(postgres_server).port or 5432, options=options) as port:

        async def work() -> None:
            async with Database(through(empty_postgres_dsn, port)) as database:

                async def read() -> None:
                    for _ in range(20):
                        async with database.connection() as connection:
                            await connection.fetchval("SELECT $1::int", 1)

                await asyncio.gather(*(read() for _ in range(8)))

        with pytest.raises(UsageError, match="HEADWATER_POSTGRES_POOLING=transaction"):
            await work()


async def test_missing_guard_against_idle_writers_is_told(
    empty_postgres_dsn: str, bouncer: int, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("json", "info")
    async with Database(through(empty_postgres_dsn, bouncer), pooling="transaction"):
        pass
    assert "idle_writers_hold_the_horizon" in capsys.readouterr().err

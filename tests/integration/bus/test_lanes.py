"""Key lanes on PostgreSQL: marks, fencing, changed numbers of lanes, and how much faster they wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from headwater.bus import Consumer, ConsumerLimits, Context, Lane, PostgresEffects, Subscriptions, lane_of
from headwater.errors import TransactionConflict
from headwater.eventstore import PostgresEventStore
from headwater.kafka import Partition
from headwater.messages import ANY, Event
from headwater.postgres import Database
from headwater.testing import MemoryEventStore, eventually
from headwater.testing.conformance.bus_bed import working
from headwater.testing.memory_bus import MemorySource, MemoryTopics

ORDER_0 = Partition("order", 0)


class OrderPlaced(Event):
    number: int


class Shop:
    """One handler that waits, and writes a row."""

    def __init__(self, database: Database) -> None:
        self.database, self.log = database, MemoryEventStore()
        self.topics = MemoryTopics(self.log, partition_count=1)
        self.effects = PostgresEffects(database, PostgresEventStore(database))
        self.running_at_once = self.most_at_once = self.placed = 0

    def subscriptions(self, lanes: int, seconds: float) -> Subscriptions:
        subscriptions = Subscriptions()

        @subscriptions.on(OrderPlaced, lanes=lanes)
        async def reserve(event: OrderPlaced, context: Context) -> None:
            self.running_at_once += 1
            self.most_at_once = max(self.most_at_once, self.running_at_once)
            try:
                await asyncio.sleep(seconds)
                await context.connection.execute("INSERT INTO effects (stream, number) VALUES ($1, $2)", context.stream_name, event.number)
            finally:
                self.running_at_once -= 1

        return subscriptions

    async def place(self, count: int, *, streams: int) -> None:
        for _ in range(count):
            self.placed += 1
            await self.log.append(f"order-{self.placed % streams}", [OrderPlaced(number=self.placed)], expected_version=ANY)

    @asynccontextmanager
    async def running(self, lanes: int, *, seconds: float = 0.0, transactions_max: int = 32) -> AsyncIterator[Consumer]:
        consumer = Consumer(
            group="shop",
            subscriptions=self.subscriptions(lanes, seconds),
            source=MemorySource(self.topics),
            effects=self.effects,
            limits=ConsumerLimits(idle_seconds=0.02, shutdown_seconds_max=0.0, lane_transactions_max=transactions_max),
        )
        async with working(consumer):
            yield consumer

    async def count(self) -> int:
        async with self.database.connection() as connection:
            return int(await connection.fetchval("SELECT count(*) FROM effects"))

    async def caught_up(self) -> None:
        async def done() -> bool:
            async with self.database.connection() as connection:
                return await connection.fetchval("SELECT next_offset FROM headwater.consumer_positions") == self.placed

        await eventually(done, 60)

    async def check(self, streams: int) -> None:
        """Every effect once, in order per stream."""
        async with self.database.connection() as connection:
            rows = await connection.fetch("SELECT stream, array_agg(number ORDER BY id) AS numbers FROM effects GROUP BY stream")
        found = {row["stream"]: row["numbers"] for row in rows}
        assert found == {f"order-{s}": [n for n in range(1, self.placed + 1) if n % streams == s] for s in range(streams)}


@pytest.fixture
async def shop(database: Database) -> Shop:
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE effects (id bigint GENERATED ALWAYS AS IDENTITY, stream text, number integer)")
    return Shop(database)


async def test_lanes_run_many_keys_at_once_within_their_connections_and_keep_each_in_order(shop: Shop) -> None:
    await shop.place(200, streams=40)
    began = time.monotonic()
    async with shop.running(16, seconds=0.02, transactions_max=8):
        await shop.caught_up()
    assert shop.most_at_once == 8
    assert time.monotonic() - began < 200 * 0.02
    await shop.check(40)


async def test_members_cut_off_again_and_again_with_other_numbers_of_lanes_repeat_nothing(shop: Shop) -> None:
    """The number changes with every start, to none and back: what was handled beyond the position stays handled."""
    streams = 12
    for number, lanes in enumerate([4, 3, 0, 8, 1, 4, 2, 0]):
        await shop.place(60, streams=streams)
        goal = number * 60 + 25
        async with shop.running(lanes, seconds=0.001):

            async def far_enough(goal: int = goal) -> bool:
                return await shop.count() >= goal

            await eventually(far_enough, 30)
    async with shop.running(5):
        await shop.caught_up()
    await shop.check(streams)
    async with shop.database.connection() as connection:
        counts = await connection.fetch("SELECT DISTINCT lane_count FROM headwater.consumer_lanes")
    assert {row["lane_count"] for row in counts} <= {5, 2, 4, 1, 8, 3}
    async with shop.running(5):

        async def only_the_present_ones() -> bool:
            async with shop.database.connection() as connection:
                return await connection.fetchval("SELECT array_agg(DISTINCT lane_count) FROM headwater.consumer_lanes") == [5]

        await eventually(only_the_present_ones, 10)


async def test_a_lane_commits_under_its_claim_only_and_goes_forward_only(shop: Shop) -> None:
    zombie = await shop.effects.claim("shop", ORDER_0)
    lane = Lane("reserve", 4, lane_of("order-1", 4))
    marks = await shop.effects.claim_lanes("shop", zombie, {"reserve": 4})
    assert marks == {}, "new lanes have no marks"
    async with shop.effects.transaction() as transaction:
        assert await transaction.mark_lane("shop", zombie, lane, 5)
        timeout = "SELECT current_setting('idle_in_transaction_session_timeout')"
        assert await transaction.connection.fetchval(timeout) == "5s", "one that is paused now does not hold the lane for long"
        assert not await transaction.mark_lane("shop", zombie, lane, 5)
    owner = await shop.effects.claim("shop", ORDER_0)
    assert await shop.effects.claim_lanes("shop", zombie, {"reserve": 4}) is None
    assert (await shop.effects.claim_lanes("shop", owner, {"reserve": 2}) or {}).get(lane) == 5, "of the former number"
    async with shop.effects.transaction() as transaction:
        assert not await transaction.mark_lane("shop", zombie, lane, 9)
        assert await transaction.mark_lane("shop", owner, lane, 9)
    async with shop.database.connection() as connection:
        await connection.execute("DELETE FROM headwater.consumer_positions")
        assert await connection.fetchval("SELECT count(*) FROM headwater.consumer_lanes") == 0, "starting over starts the lanes over"


async def test_a_claim_waits_for_the_lanes_commit_under_way(shop: Shop) -> None:
    first = await shop.effects.claim("shop", ORDER_0)
    await shop.effects.claim_lanes("shop", first, {"reserve": 2})
    lane = Lane("reserve", 2, 1)
    async with shop.effects.transaction() as transaction:
        assert await transaction.mark_lane("shop", first, lane, 3)
        second = await shop.effects.claim("shop", ORDER_0)
        claiming = asyncio.create_task(shop.effects.claim_lanes("shop", second, {"reserve": 2}))
        async with shop.database.connection() as connection:

            async def waits() -> bool:
                return bool(
                    await connection.fetchval(
                        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%consumer_lanes%'"
                    )
                )

            await eventually(waits, 4)
        assert not claiming.done()
    assert (await claiming or {})[lane] == 3


async def test_rows_that_a_paused_owner_holds_are_waited_for_again_and_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The consumer waits out a TransactionConflict; anything else would end it."""
    monkeypatch.setattr("headwater.bus.postgres.CLAIM_WAIT_SECONDS_MAX", 0.05)
    first = await shop.effects.claim("shop", ORDER_0)
    await shop.effects.claim_lanes("shop", first, {"reserve": 2})
    async with shop.effects.transaction() as transaction:
        assert await transaction.mark_lane("shop", first, Lane("reserve", 2, 1), 3)
        second = await shop.effects.claim("shop", ORDER_0)
        with pytest.raises(TransactionConflict, match="no lock in time"):
            await shop.effects.claim_lanes("shop", second, {"reserve": 2})
        assert await transaction.parked.hold("shop", second)
        with pytest.raises(TransactionConflict, match="no lock in time"):
            await shop.effects.claim("shop", ORDER_0)

"""Parked keys in PostgreSQL: rows, requests, owners; the records come from memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from headwater.bus import (
    ALL_STATUSES,
    Consumer,
    ConsumerLimits,
    Context,
    DeadLetterDesk,
    DeadLetterIt,
    EffectsRefused,
    LetterFilter,
    Park,
    ParkedDesk,
    ParkedFilter,
    PostgresEffects,
    RetryPolicy,
    Subscriptions,
)
from headwater.errors import NotFoundError
from headwater.eventstore import PostgresEventStore
from headwater.kafka import Partition
from headwater.messages import ANY, Event, NewEvent
from headwater.postgres import Database
from headwater.testing import MemoryEventStore, eventually
from headwater.testing.conformance.bus_bed import working
from headwater.testing.memory_bus import MemorySource, MemoryTopics

SOON = Park(first_delay_seconds=0.05, delay_factor=1.0, attempts_max=1_000)
LATER = Park(first_delay_seconds=3_000.0)
LIMITS = ConsumerLimits(idle_seconds=0.02, parked_poll_seconds=0.05, parked_batch_size_max=4)
PATIENCE = 30.0


class OrderPlaced(Event):
    sku: str


class Shop:
    """A group whose handler writes rows, and fails for as long as somebody says so."""

    def __init__(self, database: Database) -> None:
        self.database, self.log = database, MemoryEventStore()
        self.topics = MemoryTopics(self.log, partition_count=2)
        self.store = PostgresEventStore(database)
        self.desk, self.letters = ParkedDesk(database), DeadLetterDesk(database)
        self.subscriptions = Subscriptions()
        self.broken: dict[str, Exception] = {}
        self.policy = RetryPolicy(attempts_max=1, then=SOON)

        @self.subscriptions.on(OrderPlaced, on_error={EffectsRefused: DeadLetterIt()})
        async def reserve(event: OrderPlaced, context: Context) -> None:
            await context.connection.execute("INSERT INTO effects (stream, sku) VALUES ($1, $2)", context.stream_name, event.sku)
            if event.sku == "spoils":
                with suppress(Exception):
                    await context.connection.execute("SELECT 1/0")
            if (error := self.broken.get(context.stream_name)) is not None:
                raise error

    async def place(self, stream: str, *skus: str) -> None:
        for sku in skus:
            await self.log.append(f"order-{stream}", [OrderPlaced(sku=sku)], expected_version=ANY)

    def member(self, **options: Any) -> Consumer:
        return Consumer(
            group="shop",
            subscriptions=self.subscriptions,
            source=MemorySource(self.topics),
            effects=PostgresEffects(self.database, self.store),
            **{"retry_policy": self.policy, "limits": LIMITS, **options},
        )

    @asynccontextmanager
    async def running(self, **options: Any) -> AsyncIterator[Consumer]:
        async with working(self.member(**options)) as consumer:
            yield consumer

    async def effects(self, stream: str) -> list[str]:
        async with self.database.connection() as connection:
            rows = await connection.fetch("SELECT sku FROM effects WHERE stream = $1 ORDER BY id", f"order-{stream}")
        return [row["sku"] for row in rows]

    async def caught_up(self) -> None:
        await self.topics.relay()
        goal = sum(self.topics.range_of(Partition("order", number)).end for number in range(2))

        async def done() -> bool:
            async with self.database.connection() as connection:
                return await connection.fetchval("SELECT sum(next_offset) FROM headwater.consumer_positions") == goal

        await eventually(done, PATIENCE)

    async def freed(self) -> None:
        await self.caught_up()

        async def done() -> bool:
            return await self.desk.count(ParkedFilter()) == 0

        await eventually(done, PATIENCE)


@pytest.fixture
async def shop(database: Database) -> Shop:
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE effects (id bigint GENERATED ALWAYS AS IDENTITY, stream text, sku text)")
    return Shop(database)


async def test_a_parked_key_waits_with_its_messages_and_follows_in_order(shop: Shop) -> None:
    shop.broken["order-bad"] = ValueError("none in stock")
    skus = [str(number) for number in range(15)]
    await shop.place("bad", *skus[:10])
    await shop.place("good", *skus)
    async with shop.running():
        await shop.caught_up()
        assert await shop.effects("good") == skus
        (kept,) = await shop.desk.list(ParkedFilter())
        assert (kept.group, kept.key, kept.status, kept.message_count, kept.version) == ("shop", "order-bad", "waiting", 10, 1)
        assert kept.error is not None
        assert (kept.error.error_type, kept.error.error_message) == ("ValueError", "none in stock")
        waiting = await shop.desk.messages(kept.parked_key_id)
        assert [event.version for event in waiting] == list(range(1, 11))
    async with shop.running():
        await shop.place("bad", *skus[10:])
        await shop.caught_up()
        assert (await shop.desk.get(kept.parked_key_id)).message_count == 15
        assert await shop.effects("bad") == []
        shop.broken.clear()
        await shop.freed()
    assert await shop.effects("bad") == skus
    with pytest.raises(NotFoundError, match="any more"):
        await shop.desk.get(kept.parked_key_id)


async def test_requests_are_carried_out_by_the_owner_in_bulk_and_by_filter(shop: Shop) -> None:
    shop.policy = RetryPolicy(attempts_max=1, then=LATER)
    for stream in ("a", "b", "c"):
        shop.broken[f"order-{stream}"] = ValueError("no")
        await shop.place(stream, "1", "2", "3")
    async with shop.running():
        await shop.caught_up()
        by_key = {kept.key: kept.parked_key_id for kept in await shop.desk.list(ParkedFilter(group="shop"))}
        assert sorted(by_key) == ["order-a", "order-b", "order-c"]
        assert await shop.desk.count(ParkedFilter(key="order-b", event_type="OrderPlaced")) == 1
        assert await shop.desk.count(ParkedFilter(handler_name="another")) == 0
        assert await shop.desk.count(ParkedFilter(statuses=("stopped",))) == 0
        shop.broken.clear()
        assert await shop.desk.retry([by_key["order-a"], 99]) == {by_key["order-a"]}
        assert await shop.desk.skip([by_key["order-b"]]) == {by_key["order-b"]}
        assert await shop.desk.discard([by_key["order-c"]]) == {by_key["order-c"]}
        await shop.freed()
    assert [await shop.effects(stream) for stream in ("a", "b", "c")] == [["1", "2", "3"], ["2", "3"], ["2", "3"]]
    (letter,) = await shop.letters.list(LetterFilter(statuses=ALL_STATUSES))
    assert (letter.status, letter.letter.stream_name, letter.letter.version) == ("skipped", "order-b", 1)
    assert letter.settled_at is not None
    assert await shop.letters.retry([letter.dead_letter_id]) == {letter.dead_letter_id}, "a skip can be taken back"


async def test_a_request_waits_while_nobody_runs_and_a_later_one_takes_its_place(shop: Shop) -> None:
    shop.policy = RetryPolicy(attempts_max=1, then=replace(SOON, attempts_max=1, when_exhausted="stop_key"))
    shop.broken["order-a"] = ValueError("no")
    await shop.place("a", "1", "2")

    async def stopped() -> bool:
        return [kept.status for kept in await shop.desk.list(ParkedFilter())] == ["stopped"]

    async with shop.running():
        await eventually(stopped, PATIENCE)
    (kept,) = await shop.desk.list(ParkedFilter())
    await shop.desk.discard([kept.parked_key_id])
    await shop.desk.retry([kept.parked_key_id])
    shop.broken.clear()
    async with shop.running():
        await shop.freed()
    assert await shop.effects("a") == ["1", "2"]


async def test_a_follower_that_spoils_the_transaction_costs_itself_alone(shop: Shop) -> None:
    shop.broken["order-a"] = ValueError("no")
    await shop.place("a", "1", "2", "spoils", "4")
    async with shop.running():
        await shop.caught_up()
        shop.broken.clear()
        await shop.freed()
    assert await shop.effects("a") == ["1", "2", "4"]
    (letter,) = await shop.letters.list(LetterFilter())
    assert letter.letter.version == 3
    assert letter.letter.error_type.endswith("EffectsRefused")


async def test_an_owner_that_was_replaced_changes_nothing_of_what_is_parked(shop: Shop) -> None:
    """Its transaction ends at the row of the position, which says another epoch; what its handler did is rolled back."""
    shop.broken["order-a"] = ValueError("no")
    await shop.place("a", "1", "2")
    async with shop.running():
        await shop.caught_up()
    shop.broken.clear()
    (kept,) = await shop.desk.list(ParkedFilter())
    effects = PostgresEffects(shop.database, shop.store)
    zombie = await effects.claim("shop", kept.partition)
    (parked,) = await effects.parked_keys("shop", zombie, 0.0)
    successor = await effects.claim("shop", kept.partition)
    async with effects.transaction() as transaction:
        assert not await transaction.parked.hold("shop", zombie)
        assert await transaction.parked.hold("shop", successor)
        records = await transaction.parked.read(parked, kept.partition, 10)
    assert [record.key for record in records] == [b"order-a", b"order-a"]
    assert len({record.message_id for record in records}) == 2


async def test_two_members_share_partitions_and_each_works_off_its_own(shop: Shop) -> None:
    """Partitions are assigned by hand; the second takes one over while keys are parked in both."""
    for stream in range(6):
        shop.broken[f"order-{stream}"] = ValueError("no")
        await shop.place(str(stream), "1", "2")
    async with shop.running():
        await shop.caught_up()
        async with shop.running() as second:
            await eventually(lambda: len([s for s in second.status() if s.parked_keys]) == 2, PATIENCE)
            shop.broken.clear()
            await shop.freed()
    assert [await shop.effects(str(stream)) for stream in range(6)] == [["1", "2"]] * 6


async def test_data_that_postgres_cannot_store_is_parked_all_the_same(shop: Shop) -> None:
    shop.policy = RetryPolicy(attempts_max=1, then=SOON)
    shop.subscriptions = Subscriptions()
    seen: list[str] = []
    broken = True

    @shop.subscriptions.on(OrderPlaced, on_error={KeyError: DeadLetterIt()})
    async def look(event: OrderPlaced) -> None:
        if broken:
            raise ValueError("no \x00 \ud800")
        seen.append(event.sku)

    await shop.log.append("order-a", [NewEvent(type="OrderPlaced", data='{"sku": "\\u00e4\\ud83d\\ude00"}')], expected_version=ANY)
    async with shop.running():
        await shop.caught_up()
        broken = False
        await shop.freed()
    assert seen == ["ä😀"]

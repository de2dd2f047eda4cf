"""Moving a group of handlers between the log and Kafka: no effect is lost, none happens twice, and who has the old setting is refused."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from headwater import Context, Event, Service
from headwater.bus import (
    FedByAnother,
    GroupMove,
    GroupNotReady,
    Move,
    PostgresEffects,
    PostgresLogPartitions,
    list_groups,
    log_topic,
    topics_of_group,
)
from headwater.config import Settings
from headwater.errors import NotFoundError, UsageError
from headwater.eventstore import EventSelection, EventStore, ForwardingEventStore, PostgresEventStore, SelectedSlice
from headwater.kafka import KafkaSettings, KafkaTopics, Partition, partition_of
from headwater.messages import ANY, LogPosition, NewEvent
from headwater.postgres import Database, load_migrations, sql_file
from headwater.testing import eventually

CATEGORY = f"order{uuid4().hex[:8]}"
PARTITIONS = 3
STREAMS = 5
GROUP = "shop"
LOCK_GROUP_SOURCE = sql_file("headwater.bus", "lock_group_source")
LOCK_GROUP_POSITIONS = sql_file("headwater.bus", "lock_group_positions")
MIGRATION = "0020_expand_group_sources"


class OrderCounted(Event, category=CATEGORY):
    number: int


def shop(database: Database, kafka: str, source: str) -> Service:
    settings = Settings(postgres=database.dsn, kafka=kafka, topic_partitions=PARTITIONS, topic_replication_factor=1)
    service = Service(GROUP, source=source, settings=settings)  # type: ignore[arg-type]

    @service.on(OrderCounted)
    async def note(event: OrderCounted, context: Context) -> None:
        await context.connection.execute(
            "INSERT INTO effects (stream, number, source) VALUES ($1, $2, $3)", context.stream_name, event.number, source
        )

    return service


class Shop:
    """What was appended, and what became of it."""

    def __init__(self, database: Database, kafka: str) -> None:
        self.database, self.kafka, self.count = database, kafka, 0
        self.store: EventStore = PostgresEventStore(database)

    async def append(self, count: int) -> None:
        for number in range(self.count, self.count + count):
            await self.store.append(f"{CATEGORY}-{number % STREAMS}", [OrderCounted(number=number)], expected_version=ANY)
        self.count += count

    async def work(self, source: str) -> None:
        """Until everything has its effect."""
        async with shop(self.database, self.kafka, source):
            await eventually(self._all_have_effects, 60)

    async def _all_have_effects(self) -> bool:
        async with self.database.connection() as connection:
            return await connection.fetchval("SELECT count(DISTINCT number) FROM effects") == self.count

    async def effects(self) -> Mapping[str, Sequence[int]]:
        """By stream, in the order in which they happened."""
        async with self.database.connection() as connection:
            rows = await connection.fetch("SELECT stream, number FROM effects ORDER BY id")
        found: dict[str, list[int]] = defaultdict(list)
        for row in rows:
            found[row["stream"]].append(row["number"])
        return found

    def expected(self) -> Mapping[str, Sequence[int]]:
        return {f"{CATEGORY}-{stream}": list(range(stream, self.count, STREAMS)) for stream in range(min(STREAMS, self.count))}

    async def move(self, to: str, **options: Any) -> Mapping[str, LogPosition]:
        settings = KafkaSettings.parse(self.kafka, topic_partitions=PARTITIONS, topic_replication_factor=1)
        counts = await KafkaTopics(settings).ensure(await topics_of_group(self.database, GROUP)) if to == "kafka" else {}
        return (await GroupMove(self.database, self.store, GROUP, partition_counts=counts, **options).run(to)).through  # type: ignore[arg-type]


@pytest.fixture
async def world(database: Database, kafka_bootstrap: str) -> Shop:
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE effects (id bigint GENERATED ALWAYS AS IDENTITY, stream text, number bigint, source text)")
    return Shop(database, kafka_bootstrap)


async def test_there_and_back_every_event_has_its_effect_once_and_in_order(world: Shop) -> None:
    await world.append(40)
    await world.work("postgres")
    await world.append(23)
    through = await world.move("kafka")
    assert through == {CATEGORY: LogPosition(1, 40)}
    await world.append(10)
    with pytest.raises(FedByAnother, match="headwater groups move shop --to postgres"):
        await world.work("postgres")
    await world.work("kafka")
    await world.append(17)
    assert await world.move("postgres") == {CATEGORY: LogPosition(1, 73)}
    with pytest.raises(FedByAnother, match="Set source='postgres' again"):
        await world.work("kafka")
    await world.work("postgres")
    assert await world.move("kafka") == {CATEGORY: LogPosition(1, 90)}
    await world.append(5)
    await world.work("kafka")
    assert await world.effects() == world.expected()
    async with world.database.connection() as connection:
        rows = await connection.fetch("SELECT source, count(*) AS count FROM effects GROUP BY source ORDER BY source")
    assert [tuple(row) for row in rows] == [("kafka", 33 + 5), ("postgres", 40 + 17)]


async def test_moving_where_it_is_already_and_what_is_not_there(world: Shop) -> None:
    with pytest.raises(NotFoundError, match="groups list"):
        await world.move("kafka")
    await world.append(3)
    await world.work("postgres")
    assert await world.move("postgres") == {}
    (group,) = await list_groups(world.database)
    assert (group.name, group.source, group.partition_count, group.parked_keys) == (GROUP, "postgres", 8, 0)


# -- what is refused --------------------------------------------------------------------------------------------------


async def claimed(world: Shop, source: str, marks: Mapping[int, int], *, log_id: object = None) -> None:
    """As if a service had handled each partition up to a position."""
    identity = await world.store.identity()
    effects = PostgresEffects(world.database, world.store)
    topic = CATEGORY if source == "kafka" else log_topic(CATEGORY)
    for number, position in marks.items():
        await effects.claim(GROUP, Partition(topic, number))
        async with world.database.connection() as connection:
            await connection.execute(
                "UPDATE headwater.consumer_positions SET next_offset = $1, marks = jsonb_build_object($2::text, $3::text) "
                "WHERE topic = $4 AND partition = $5",
                position + 1,
                str(log_id or identity.log_id),
                f"1:{position}",
                topic,
                number,
            )


async def test_an_event_left_out_before_others_is_found(world: Shop) -> None:
    await world.append(20)
    behind = partition_of(f"{CATEGORY}-0".encode(), await PostgresLogPartitions(world.database).count())
    await claimed(world, "postgres", {number: 20 if number != behind else 4 for number in range(8)})
    left_out = sum(
        partition_of(f"{CATEGORY}-{number % STREAMS}".encode(), 8) == behind for number in range(4, 20)
    )  # positions 5 to 20 are numbers 4 to 19
    assert left_out
    with pytest.raises(GroupNotReady, match=rf"yet to handle {left_out} messages.*source='postgres' until it has caught up"):
        await world.move("kafka")
    assert [group.source for group in await list_groups(world.database)] == ["postgres"]


async def test_a_partition_that_was_never_claimed_counts_as_behind(world: Shop) -> None:
    await world.append(20)
    missing = partition_of(f"{CATEGORY}-1".encode(), 8)
    await claimed(world, "postgres", {number: 20 for number in range(8) if number != missing})
    with pytest.raises(GroupNotReady, match="yet to handle"):
        await world.move("kafka")


async def test_parked_keys_are_refused(world: Shop) -> None:
    await world.append(1)
    await claimed(world, "postgres", dict.fromkeys(range(8), 1))
    async with world.database.connection() as connection:
        columns = "group_name, topic, partition, message_key, handler_name, status, attempts, retries, due_at"
        await connection.execute(
            f"INSERT INTO headwater.parked_keys ({columns}) VALUES ('shop', 'log:x', 0, 'x-1', 'note', 'waiting', 0, 0, now())"
        )
    with pytest.raises(GroupNotReady, match="1 parked keys"):
        await world.move("kafka")


class ClaimedMeanwhile(ForwardingEventStore):
    """While somebody reads it, a member of the group claims a partition."""

    def __init__(self, database: Database) -> None:
        super().__init__(PostgresEventStore(database))
        self._effects = PostgresEffects(database, self)

    async def read_selected(self, selection: EventSelection, *, after: int, limit: int = 10) -> SelectedSlice:
        await self._effects.claim(GROUP, Partition(CATEGORY, 0))
        return await super().read_selected(selection, after=after, limit=limit)


async def test_a_group_that_works_meanwhile_is_refused(world: Shop) -> None:
    await world.append(5)
    await claimed(world, "kafka", dict.fromkeys(range(PARTITIONS), 5))
    async with world.database.connection() as connection:
        # One partition was never claimed, so that events are looked at.
        await connection.execute("INSERT INTO headwater.relay_topics (topic, partition_count) VALUES ($1, $2)", CATEGORY, PARTITIONS + 1)
        await connection.execute(
            "INSERT INTO headwater.relay_divisions (topic, through_epoch, through_position, partition_count, tails) VALUES ($1, 1, 5, $2, '{}')",
            CATEGORY,
            PARTITIONS,
        )
    world.store = ClaimedMeanwhile(world.database)
    with pytest.raises(GroupNotReady, match=r"'shop' works; nothing was changed\. End every process"):
        await world.move("postgres")
    assert [group.source for group in await list_groups(world.database)] == ["kafka"]


async def test_what_the_log_does_not_have_stays_with_kafka(world: Shop) -> None:
    await world.append(1)
    await claimed(world, "kafka", {0: 7}, log_id=uuid4())
    with pytest.raises(UsageError, match="which are not in this log; it stays with Kafka"):
        await world.move("postgres")


async def test_events_from_before_a_topic_was_divided_are_looked_for_where_they_were(world: Shop) -> None:
    await world.append(30)
    await claimed(world, "kafka", {number: 30 if number < PARTITIONS else 0 for number in range(PARTITIONS)})
    async with world.database.connection() as connection:
        await connection.execute("INSERT INTO headwater.relay_topics (topic, partition_count) VALUES ($1, $2)", CATEGORY, 2 * PARTITIONS)
        await connection.execute(
            "INSERT INTO headwater.relay_divisions (topic, through_epoch, through_position, partition_count, tails) VALUES ($1, 1, 30, $2, '{}')",
            CATEGORY,
            PARTITIONS,
        )
    assert await world.move("postgres") == {CATEGORY: LogPosition(1, 30)}


# -- whoever is still at it -------------------------------------------------------------------------------------------


async def test_who_has_the_old_setting_can_neither_commit_nor_claim_after_the_move(world: Shop) -> None:
    await world.append(5)
    effects, partition = PostgresEffects(world.database, world.store), Partition(log_topic(CATEGORY), 0)
    await claimed(world, "postgres", dict.fromkeys(range(8), 5))
    old = await effects.claim(GROUP, partition)
    await world.move("kafka")
    async with effects.transaction() as transaction:
        assert await transaction.advance(GROUP, [Move(old, old)]) == {partition}
    for topic in (log_topic(CATEGORY), log_topic("another")):
        with pytest.raises(FedByAnother):
            await effects.claim(GROUP, Partition(topic, 0))
    # Nor when it comes back: nobody has claimed it again, and it is where it was.
    await world.move("postgres")
    for owner in (old, replace(old, epoch=1)):
        async with effects.transaction() as transaction:
            assert await transaction.advance(GROUP, [Move(owner, owner)]) == {partition}
    assert (await effects.claim(GROUP, partition)).next_offset == old.next_offset


async def test_a_claim_that_waits_for_the_move_is_refused_and_a_move_waits_for_a_claim(world: Shop) -> None:
    await world.append(5)
    await claimed(world, "postgres", dict.fromkeys(range(8), 5))
    effects, partition = PostgresEffects(world.database, world.store), Partition(log_topic(CATEGORY), 0)
    async with Database(world.database.dsn) as other, other.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.fetch(LOCK_GROUP_SOURCE, GROUP)
        await connection.execute(LOCK_GROUP_POSITIONS, GROUP)
        claiming = asyncio.create_task(effects.claim(GROUP, partition))
        await eventually(lambda: _waits_for_a_lock(world.database))
        await connection.execute("DELETE FROM headwater.consumer_positions WHERE group_name = $1", GROUP)
        await connection.execute("UPDATE headwater.group_sources SET source = 'kafka' WHERE group_name = $1", GROUP)
        await transaction.commit()
        with pytest.raises(FedByAnother):
            await claiming
        await connection.execute("UPDATE headwater.group_sources SET source = 'postgres' WHERE group_name = $1", GROUP)
        claim = connection.transaction()
        await claim.start()
        await connection.execute("SELECT FROM headwater.group_sources WHERE group_name = $1 FOR SHARE", GROUP)
        moving = asyncio.create_task(world.move("kafka"))
        await eventually(lambda: _waits_for_a_lock(world.database))
        assert not moving.done()
        await claim.rollback()
        await moving


async def _waits_for_a_lock(database: Database) -> bool:
    async with database.connection() as connection:
        return await connection.fetchval("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted") is True


async def test_groups_of_before_keep_their_source(empty_postgres_dsn: str) -> None:
    connection = await asyncpg.connect(empty_postgres_dsn)
    try:
        await connection.execute("CREATE SCHEMA headwater")
        for migration in load_migrations():
            if migration.name == MIGRATION:
                await connection.execute(
                    "INSERT INTO headwater.consumer_positions (group_name, topic, partition, next_offset) VALUES "
                    "('shop', 'log:order', 0, 7), ('shop', 'log:order', 1, 0), ('bills', 'order', 0, 3), ('idle', 'order', 0, 0)"
                )
            await connection.execute(migration.sql)
        rows = await connection.fetch("SELECT group_name, source FROM headwater.group_sources ORDER BY group_name")
        assert [tuple(row) for row in rows] == [("bills", "kafka"), ("shop", "postgres")]
    finally:
        connection.terminate()


async def test_what_an_earlier_version_handled_tells_the_source(world: Shop) -> None:
    await world.append(1)
    await claimed(world, "kafka", {0: 1})
    async with world.database.connection() as connection:
        await connection.execute("DELETE FROM headwater.group_sources")
    with pytest.raises(FedByAnother):
        await PostgresEffects(world.database, world.store).claim(GROUP, Partition(log_topic(CATEGORY), 0))


async def test_an_append_of_another_category_is_none_of_its_business(world: Shop) -> None:
    await world.append(4)
    await world.store.append("elsewhere-1", [NewEvent("SomethingHappened", "{}")], expected_version=0)
    await world.append(1)
    await claimed(world, "postgres", dict.fromkeys(range(8), 6))
    assert await world.move("kafka") == {CATEGORY: LogPosition(1, 6)}

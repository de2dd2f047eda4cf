"""A topic is given more partitions on real servers, under a group that works: each event once, and in the order of its stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from headwater.bus import (
    Consumer,
    ConsumerLimits,
    Context,
    KafkaSource,
    Park,
    PostgresEffects,
    RetryPolicy,
    Subscriptions,
    read_group_progress,
)
from headwater.cli.add_partitions import add_partitions
from headwater.coordination import item_lease_name
from headwater.errors import UsageError
from headwater.kafka import KafkaTopics
from headwater.kafka import settings as kafka_settings_module
from headwater.messages import RecordedEvent
from headwater.outbox import RELAY_GROUP, SHARDS, AddedPartitions, TopicNotDrained
from headwater.testing import eventually
from tests.outbox_support import RelayOnServers, running, whole_log

WAIT_SECONDS = 30


class Readers:
    """A group that notes what it handles."""

    def __init__(self, servers: RelayOnServers, *, group: str = "readers", table: str = "effects") -> None:
        self.servers, self.group, self.table = servers, f"{group}-{servers.category}", table
        self.subscriptions = Subscriptions()
        self.may_work = asyncio.Event()
        self.may_work.set()
        self.poison: str | None = None

        @self.subscriptions.on(category=servers.category)
        async def noting(event: RecordedEvent, context: Context) -> None:
            await self.may_work.wait()
            if event.stream_name == self.poison:
                raise ValueError("not this one")
            await context.connection.execute(f"INSERT INTO {table} (stream, version) VALUES ($1, $2)", event.stream_name, event.version)

    def member(self) -> Consumer:
        return Consumer(
            group=self.group,
            subscriptions=self.subscriptions,
            source=KafkaSource(self.servers.settings, group=self.group, session_timeout_seconds=6),
            effects=PostgresEffects(self.servers.database, self.servers.store),
            retry_policy=RetryPolicy(attempts_max=1, then=Park(first_delay_seconds=600.0)),
            limits=ConsumerLimits(batch_size_max=20),
        )

    @asynccontextmanager
    async def working(self) -> AsyncIterator[Consumer]:
        member = self.member()
        task = asyncio.create_task(member.run())
        try:
            yield member
            assert not task.done()
        finally:
            self.may_work.set()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def noted(self) -> dict[str, list[int]]:
        async with self.servers.database.connection() as connection:
            rows = await connection.fetch(f"SELECT stream, version FROM {self.table} ORDER BY id")
        found: dict[str, list[int]] = {}
        for row in rows:
            found.setdefault(row["stream"], []).append(row["version"])
        return found

    async def until_all_noted(self, *, without: str | None = None) -> None:
        """Each event once, in the order of its stream."""

        async def is_noted() -> bool:
            wanted: dict[str, list[int]] = {}
            for event in await whole_log(self.servers.store):
                if event.stream_name != without:
                    wanted.setdefault(event.stream_name, []).append(event.version)
            assert await self.noted() == wanted
            return True

        await eventually(is_noted, WAIT_SECONDS)


@pytest.fixture
async def readers(servers: RelayOnServers, monkeypatch: pytest.MonkeyPatch) -> Readers:
    monkeypatch.setattr(kafka_settings_module, "METADATA_SECONDS_MAX", 0.5)
    monkeypatch.setenv("HEADWATER_POSTGRES", servers.database.dsn)
    monkeypatch.setenv("HEADWATER_KAFKA", servers.settings.address)
    async with servers.database.connection() as connection:
        for table in ("effects", "late_effects"):
            await connection.execute(f"CREATE TABLE {table} (id bigint GENERATED ALWAYS AS IDENTITY, stream text, version integer)")
    return Readers(servers)


async def add(servers: RelayOnServers, count: int, *, wait: float = 0.0, without: tuple[str, ...] = ()) -> AddedPartitions:
    return (await add_partitions(servers.category, count, wait, frozenset(without), yes=True, quiet=True))[0]


async def holds_all(servers: RelayOnServers) -> bool:
    names = {facts.name for facts in await servers.positions.leases.list(RELAY_GROUP) if facts.is_held}
    return {item_lease_name(RELAY_GROUP, shard) for shard in SHARDS} <= names


async def relay_all(servers: RelayOnServers) -> None:
    async with running(servers.relay()):
        await servers.all_relayed()


async def test_under_a_group_that_works_order_holds_and_new_partitions_are_taken_up_without_a_restart(
    servers: RelayOnServers, readers: Readers
) -> None:
    """Services are started again while the command waits: handlers work on, writers write, and the relay waits until it is done."""
    await servers.append(300)
    await relay_all(servers)
    readers.may_work.clear()
    async with readers.working() as member:
        await eventually(lambda: len(member.status()) == 3, WAIT_SECONDS)
        adding = asyncio.create_task(add(servers, 5, wait=WAIT_SECONDS))
        await eventually(lambda: holds_all(servers), WAIT_SECONDS)
        async with running(servers.relay()) as relay:
            await servers.append(200)
            await eventually(lambda: relay.status().state == "waiting", WAIT_SECONDS)
            assert not adding.done()
            readers.may_work.set()
            done = await adding
            assert (done.was, done.partition_count, done.through.global_position) == (3, 5, 300)
            await servers.append(200)
            await servers.all_relayed()
            await readers.until_all_noted()
            await eventually(lambda: {status.partition.number for status in member.status()} == set(range(5)), WAIT_SECONDS)
    assert await servers.faults() == []
    (progress,) = await read_group_progress(servers.database, servers.category)
    assert all(progress.marks[number] for number in range(5)), "streams went to every partition"


async def test_a_group_that_begins_later_handles_what_came_before_first(servers: RelayOnServers, readers: Readers) -> None:
    """Two members of it, each with some partitions: what is behind a division waits for those of the other."""
    for count in (4, 6):
        await servers.append(300, streams=40)
        await relay_all(servers)
        async with readers.working():
            await readers.until_all_noted()
        await add(servers, count)
    await servers.append(300, streams=40)
    await relay_all(servers)
    late = Readers(servers, group="late", table="late_effects")
    async with late.working(), late.working():
        await late.until_all_noted()
    assert await servers.faults() == []


async def test_a_group_of_this_database_that_is_behind_or_has_parked_keys_is_named(servers: RelayOnServers, readers: Readers) -> None:
    readers.poison = f"{servers.category}-7"
    await servers.append(60)
    await relay_all(servers)
    async with readers.working():
        await readers.until_all_noted(without=readers.poison)
    with pytest.raises(TopicNotDrained, match=rf"'{readers.group}' has 1 parked keys: headwater dead-letters list --parked") as refused:
        await add(servers, 5)
    assert len(refused.value.reasons) == 1, "all else was handled, and its offsets are not looked at beside its rows"
    await servers.append(60)
    await relay_all(servers)
    with pytest.raises(TopicNotDrained, match=rf"'{readers.group}' is behind in {servers.category}/0.*: let it catch up"):
        await add(servers, 5)
    assert await servers.faults() == []


async def test_groups_that_only_kafka_knows_are_judged_by_their_offsets(servers: RelayOnServers, readers: Readers) -> None:
    await servers.append(60)
    await relay_all(servers)
    other = AIOKafkaConsumer(
        servers.category,
        bootstrap_servers=servers.settings.address,
        group_id=f"other-{servers.category}",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await other.start()
    try:
        await eventually(lambda: len(other.assignment()) == 3, WAIT_SECONDS)
        with pytest.raises(
            TopicNotDrained, match=rf"'other-{servers.category}' has not committed the end of {servers.category}/0, .*: let it catch up"
        ):
            await add(servers, 5)
        keys = [TopicPartition(servers.category, number) for number in range(3)]
        ends = await other.end_offsets(keys)
        await other.commit({keys[0]: ends[keys[0]], keys[1]: ends[keys[1]]})
    finally:
        await other.stop()
    with pytest.raises(TopicNotDrained, match=rf"has not committed the end of {servers.category}/2: let"):
        await add(servers, 5)
    assert (await add(servers, 5, without=(f"other-{servers.category}",))).partition_count == 5
    await servers.append(60)
    await relay_all(servers)
    async with readers.working():
        await eventually(readers.noted, WAIT_SECONDS)
    assert await servers.faults() == []


async def test_partitions_that_somebody_added_by_hand_are_taken_up_by_the_command(servers: RelayOnServers, readers: Readers) -> None:
    """The relay stands still with the way out in its error, and nothing is on its way."""
    await servers.append(60)
    await relay_all(servers)
    async with readers.working():
        await readers.until_all_noted()
    await KafkaTopics(servers.settings).add_partitions(servers.category, 4)
    await servers.append(60)
    async with running(servers.relay()) as relay:
        how = f"headwater outbox add-partitions {servers.category} --partitions 4"
        await eventually(lambda: how in (relay.status().last_error or ""), WAIT_SECONDS)
    assert (await add(servers, 4)).was == 3
    await relay_all(servers)
    async with readers.working():
        await readers.until_all_noted()
    assert await servers.faults() == []
    with pytest.raises(UsageError, match="cannot be removed"):
        await add(servers, 3)


async def test_a_lost_tail_from_before_is_filled_again_and_nobody_sees_it_twice(servers: RelayOnServers, readers: Readers) -> None:
    """The relay's rows are restored from a backup that is older than the division: it reads the log from there."""
    await servers.append(60)
    await relay_all(servers)
    async with servers.database.connection() as connection:
        await connection.execute("CREATE TABLE old_checkpoints AS SELECT * FROM headwater.relay_checkpoints")
    await servers.append(60)
    await relay_all(servers)
    async with readers.working():
        await readers.until_all_noted()
    await add(servers, 6)
    await servers.append(60)
    await relay_all(servers)
    async with servers.database.connection() as connection:
        await connection.execute(
            "UPDATE headwater.relay_checkpoints AS c SET epoch = o.epoch, global_position = o.global_position, event_id = o.event_id "
            "FROM old_checkpoints AS o WHERE o.shard = c.shard"
        )
        await connection.execute("DELETE FROM headwater.relay_positions WHERE partition_number > 3")
    await servers.append(20)
    await relay_all(servers)
    assert await servers.faults() == []
    async with readers.working():
        await readers.until_all_noted()

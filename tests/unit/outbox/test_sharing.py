"""Several relays on stores in memory: who has which shard, and what nobody notices of that in Kafka."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from headwater.errors import BrokerUnavailable
from headwater.eventstore import Checkpoint
from headwater.kafka import Partition, Record
from headwater.kafka.values import JsonEncoder
from headwater.outbox import SHARDS, Relay, RelayOptions, shard_of
from headwater.outbox.feed import NEAR_EVENTS
from headwater.testing.waiting import eventually
from tests.outbox_support import running
from tests.support import full_count
from tests.unit.outbox.test_relay import QUICK, World, positions_in

BRIEF = RelayOptions(lease_seconds=0.2, checkpoint_seconds=0.005, poll_seconds_max=0.005, drain_seconds_max=0.2)


@pytest.fixture
async def world() -> World:
    made = World()
    made.broker.partition_count = 6
    return made


def shards_of(*relays: Relay) -> list[int]:
    return [len(relay.status().shards) for relay in relays]


def test_partitions_of_a_topic_are_spread_evenly_and_for_ever_the_same() -> None:
    for topic in ("order", "stock", "", "tenant.order", "é"):
        counts = Counter(shard_of(Partition(topic, number)) for number in range(12))
        assert counts == dict.fromkeys(SHARDS, 2)
    # Changing any of these sends a partition to another relay than those of other versions believe.
    assert [shard_of(Partition("order", number)) for number in range(6)] == ["1", "2", "3", "4", "5", "6"]
    assert [shard_of(Partition("stock", number)) for number in (0, 1, 7)] == ["3", "4", "4"]


async def test_a_topic_of_few_partitions_is_not_all_one_relays_work() -> None:
    for topic in ("order", "stock", "a", "bb"):
        world = World()
        relays = [world.relay() for _ in range(3)]
        async with running(relays[0]), running(relays[1]):
            await eventually(lambda relays=relays: shards_of(*relays[:2]) == [3, 3])
            assert sorted(works_on(relay, topic, 3) for relay in relays[:2]) == [1, 2]
            async with running(relays[2]):
                await eventually(lambda relays=relays: shards_of(*relays) == [2, 2, 2])
                assert max(works_on(relay, topic, 3) for relay in relays) <= 2


def works_on(relay: Relay, topic: str, partition_count: int) -> int:
    held = {shard.shard for shard in relay.status().shards}
    return sum(shard_of(Partition(topic, number)) in held for number in range(partition_count))


async def test_two_relays_share_the_shards_and_everything_arrives_once_in_order(world: World) -> None:
    await world.append(200)
    first, second = world.relay(), world.relay()
    async with running(first):
        await eventually(lambda: shards_of(first) == [6])
        async with running(second):
            await eventually(lambda: shards_of(first, second) == [3, 3])
            before = second.status().relayed_count
            await world.append(300)
            await world.all_relayed()
            assert second.status().relayed_count > before
        await eventually(lambda: shards_of(first, second) == [6, 0])
        await world.append(100)
        await world.all_relayed()
    assert world.faults() == []


@pytest.mark.parametrize("seed", range(full_count(6, 100)))
async def test_relays_that_come_and_go_and_fail_leave_neither_hole_nor_duplicate(world: World, seed: int) -> None:
    """Leases run out under their holders, relays end with and without draining, writes fail before and after they arrive."""
    chance = random.Random(seed)

    async def fail(_partition: Partition, _records: Sequence[Record]) -> None:
        await asyncio.sleep(chance.choice((0, 0, 0.001)))
        if chance.random() < 0.02:
            raise BrokerUnavailable("by chance")

    world.broker.before_write = world.broker.after_write = fail
    tasks: list[asyncio.Task[None]] = []
    for _ in range(15):
        await world.append(40, category=chance.choice(["order", "order", "stock"]))
        match chance.choice(["start", "start", "stop", "expire"]):
            case "start" if len(tasks) < 4:
                options = RelayOptions(
                    lease_seconds=0.2, checkpoint_seconds=0.005, poll_seconds_max=0.005, drain_seconds_max=chance.choice((0, 0.1))
                )
                tasks.append(asyncio.create_task(world.relay(options).run()))
            case "stop" if tasks:
                tasks.pop(chance.randrange(len(tasks))).cancel()
            case "expire":
                world.positions.leases.expire(chance.choice(["relay/items/", "relay/", "relay/items/3"]))
            case _:
                pass
        await asyncio.sleep(chance.uniform(0, 0.1))
    world.broker.before_write = world.broker.after_write = None
    async with running(world.relay(BRIEF)):
        await world.all_relayed()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert world.faults() == []


async def test_the_log_is_read_once_for_all_shards(world: World) -> None:
    await world.append(500)
    fruitful: list[int] = []
    read_log = world.store.read_log

    async def record(*, after: int, **options: Any) -> object:
        found = await read_log(after=after, **options)
        if found.events:
            fruitful.append(after)
        return found

    relay = world.relay()
    async with running(relay):
        await world.all_relayed()
        world.store.read_log = record  # type: ignore[method-assign, assignment]
        await world.append(400)
        await world.all_relayed()
        world.store.read_log = read_log  # type: ignore[method-assign]
    assert len(relay.status().shards) == 0
    assert fruitful
    assert len(fruitful) == len(set(fruitful)), "the same events were read again"


async def test_a_shard_that_fails_does_not_disturb_the_others(world: World) -> None:
    await world.append(20, streams=40)
    relay = world.relay()
    async with running(relay):
        await world.all_relayed()
        terms = {shard.shard: shard.term for shard in relay.status().shards}
        is_failing = True

        async def fail(partition: Partition, _records: Sequence[Record]) -> None:
            if is_failing and partition.number == 0:
                raise BrokerUnavailable("this partition's leader is away")

        world.broker.before_write = fail
        await world.append(100, streams=40)

        def others_are_complete() -> bool:
            faults = world.faults()
            return bool(faults) and all(fault.startswith("order/0:") for fault in faults)

        await eventually(others_are_complete)
        assert {s.shard for s in relay.status().shards if s.state == "failed"} <= {shard_of(Partition("order", 0))}
        is_failing = False
        await world.all_relayed()
        assert {shard.shard: shard.term for shard in relay.status().shards} == terms, "a failure costs no lease"
    assert world.faults() == []


async def test_a_shard_far_behind_catches_up_on_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its feed begins at its checkpoint; the others' feed does not go back for it, and both end as one."""
    monkeypatch.setattr("headwater.outbox.feed.NEAR_EVENTS", 50)
    assert NEAR_EVENTS > 50
    await world.append(600, streams=40)
    async with running(world.relay()):
        await world.all_relayed()
    late = shard_of(Partition("order", 2))
    # Made anew: its partition is filled from the beginning, and the others are at the end.
    world.broker.topics["order"][2].records.clear()
    held, release = asyncio.Event(), asyncio.Event()

    async def hold(partition: Partition, _records: Sequence[Record]) -> None:
        if partition.number == 2:
            held.set()
            await release.wait()

    world.broker.before_write = hold
    relay = world.relay()
    async with running(relay):
        await held.wait()
        await eventually(lambda: len(relay._feeds.positions) == 2)
        await world.append(50, streams=40)

        def others_are_complete() -> bool:
            return all(fault.startswith("order/2:") for fault in world.faults())

        await eventually(others_are_complete)
        assert {shard.shard for shard in relay.status().shards if shard.relayed_through != Checkpoint()} == set(SHARDS) - {late}
        release.set()
        await world.all_relayed()
        await eventually(lambda: len(relay._feeds.positions) == 1)
        await world.append(50, streams=40)
        await world.all_relayed()
    assert world.faults() == []


async def test_a_shard_whose_partition_stands_still_holds_only_its_own_checkpoint(world: World) -> None:
    async def refuse(partition: Partition, records: Sequence[Record]) -> None:
        if partition.number == 4 and 30 in positions_in(records):
            raise BrokerUnavailable("away")

    await world.append(200, streams=40)
    world.broker.before_write = refuse
    stuck = next(Partition("order", n) for n in range(6) if n == 4)
    async with running(world.relay()):
        await eventually(
            lambda: (
                {s for s in SHARDS if world.positions.relayed_through.get(s, Checkpoint()).global_position == 200}
                >= set(SHARDS) - {shard_of(stuck)}
            )
        )
        world.broker.before_write = None
        await world.all_relayed()
    assert world.faults() == []


async def test_a_log_that_one_relay_moved_before_is_handed_to_all_shards(world: World) -> None:
    """Its relay was shard '0' over all partitions. It is frozen with a batch on its way, and thaws when the heirs have taken over."""
    await world.append(100, streams=40)
    counts = await world.broker.ensure_topics(["order"])
    identity = await world.store.identity()
    partitions = [Partition("order", number) for number in range(counts["order"])]
    before = await world.broker.fence(f"headwater-relay-{identity.log_id}-0", partitions)
    world.positions.topics = {"order": 6}
    world.positions.predecessors = dict.fromkeys(SHARDS, "0")
    async with running(world.relay(QUICK)):
        await world.all_relayed()
        assert world.positions.predecessors == {}
        for partition in partitions:
            batch = before.new_batch()
            batch.append(next(record for record in world.broker.partition(partition).records if record is not None))
            writer = type(before)(world.broker, before._transactional_id, before._epoch)
            with pytest.raises(Exception, match="fenced"):
                await writer.send(partition, batch)
    assert world.faults() == []


async def test_the_status_tells_lag_horizon_and_count(world: World) -> None:
    relay = world.relay()
    assert (relay.status().state, relay.status().lag_events, relay.status().horizon) == ("new", None, None)
    writing, release = asyncio.Event(), asyncio.Event()

    async def hold(_partition: Partition, _records: Sequence[Record]) -> None:
        writing.set()
        await release.wait()

    await world.append(30, streams=40)
    world.broker.before_write = hold
    async with running(relay):
        await writing.wait()
        await eventually(lambda: relay.status().horizon == 30)
        status = relay.status()
        assert (status.state, status.relayed_count, status.lag_events) == ("relaying", 0, 30)
        release.set()
        await world.all_relayed()
        await eventually(lambda: relay.status().lag_events == 0)
        assert relay.status().relayed_count == 30
    ended = relay.status()
    assert (ended.state, ended.shards, ended.relayed_count, ended.horizon) == ("ended", (), 30, None)


async def test_values_are_prepared_only_for_topics_that_are_there(world: World) -> None:
    """A relay that dies while it publishes a schema leaves the topic behind, not a schema without one."""
    prepared: list[set[str]] = []

    class Recording(JsonEncoder):
        async def prepare(self, event_types: Iterable[str]) -> None:
            prepared.append(set(world.broker.topics))

    await world.append(3)
    relay = Relay(world.store, world.broker, world.positions, event_source="/services/test", options=QUICK, values=Recording())
    async with running(relay):
        await world.all_relayed()
        await world.append(3, category="stock")
        await world.all_relayed()
    assert prepared[0] == {"order"}
    assert prepared[-1] == {"order", "stock"}
    assert world.faults() == []

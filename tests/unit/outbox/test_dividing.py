"""A topic that is given more partitions, on stores in memory: cut off at every step, and filled again afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any, cast

import pytest

from headwater.clock import SYSTEM_CLOCK
from headwater.coordination import Holding, Lease, item_lease_name
from headwater.errors import RelayFenced, UsageError
from headwater.eventstore import Checkpoint
from headwater.kafka import JSON_ENCODER, Partition, partition_of
from headwater.messages import LOG_START, LogPosition
from headwater.outbox import (
    RELAY_GROUP,
    SHARDS,
    AddedPartitions,
    DividesTopics,
    PartitionAdding,
    PartitionPosition,
    RelayOptions,
    RelayPositions,
    TopicContent,
    TopicNotDrained,
    shard_of,
)
from headwater.outbox.doorbell import Doorbell
from headwater.outbox.lanes import StopList
from headwater.outbox.pump import RelayParts
from headwater.outbox.session import ShardOpening
from headwater.outbox.topics import TopicDesk
from headwater.randomness import SYSTEM_RANDOMNESS
from headwater.testing.waiting import eventually
from tests.outbox_support import faults_of, running
from tests.unit.outbox.test_relay import World

LEASE_SECONDS = 2.0
STEPS_MAX = 60


async def everybody_has(_content: TopicContent) -> None:
    """Nobody reads it, in a manner of speaking."""


class DividedWorld(World):
    """A log whose topic is divided anew now and then."""

    def adding(self, count: int, *, broker: Any = None, positions: Any = None) -> PartitionAdding:
        return PartitionAdding(
            self.store,
            cast("DividesTopics", broker or self.broker),
            cast("RelayPositions", positions or self.positions),
            topic="order",
            partition_count=count,
            lease_seconds=LEASE_SECONDS,
        )

    async def add(self, count: int, require_handled: Callable[[TopicContent], Awaitable[None]] = everybody_has) -> AddedPartitions:
        return await self.adding(count).run(require_handled)

    async def relay_all(self) -> None:
        async with running(self.relay()):
            await self.all_relayed()

    def faults(self) -> list[str]:
        counts = {topic: len(held) for topic, held in self.broker.topics.items()}
        found = {partition: got for topic in self.broker.topics for partition, got in self.broker.envelopes(topic).items()}
        return faults_of(self.store.events, found, {"order": 3, "stock": 3, **counts}, self.positions.divisions)

    def last_position(self) -> LogPosition:
        return LogPosition(1, self.store.events[-1].global_position)


@pytest.fixture
async def world() -> DividedWorld:
    world = DividedWorld()
    await world.append(60, streams=17)
    await world.relay_all()
    return world


async def test_later_events_go_among_more_partitions_and_earlier_ones_stay(world: DividedWorld) -> None:
    through = world.last_position()
    assert await world.add(5) == AddedPartitions("order", 3, 5, through)
    await world.append(60, streams=17)
    await world.append(5, category="stock")
    await world.relay_all()
    assert world.faults() == []
    for number, got in enumerate(world.broker.envelopes("order").values()):
        for envelope in got:
            count = 3 if envelope.position <= through else 5
            assert partition_of(envelope.event.stream_name.encode(), count) == number
    assert all(got and got[0].previous == LOG_START for got in world.broker.envelopes("order").values())


async def test_it_may_be_done_again_and_again(world: DividedWorld) -> None:
    await world.add(4)
    assert (await world.add(6)).was == 4, "nothing came in between"
    (division,) = world.positions.divisions["order"]
    assert (division.through, division.partition_count) == (world.last_position(), 3)
    assert division.tails == {p.number: got[-1].position for p, got in world.broker.envelopes("order").items() if got}
    await world.append(40, streams=17)
    await world.relay_all()
    await world.add(7)
    await world.append(40, streams=17)
    await world.relay_all()
    assert world.faults() == []
    assert [each.partition_count for each in world.positions.divisions["order"]] == [3, 6]


async def test_nothing_is_done_where_there_are_as_many(world: DividedWorld) -> None:
    before = [held.end for held in world.broker.topics["order"]]
    assert await world.add(3) == AddedPartitions("order", 3, 3)
    assert [held.end for held in world.broker.topics["order"]] == before
    assert world.positions.divisions == {}


@pytest.mark.parametrize("damage", ["tail of one partition", "whole topic", "checkpoints"])
async def test_what_was_lost_from_before_is_filled_again_as_it_was(world: DividedWorld, damage: str) -> None:
    await world.add(5)
    await world.append(60, streams=17)
    await world.relay_all()
    match damage:
        case "tail of one partition":
            del world.broker.partition(Partition("order", 1)).records[4:]
        case "whole topic":
            for held in world.broker.topics["order"]:
                held.records.clear()
        case _:
            # A restored backup of the relay's rows: it reads everything again, and what is in Kafka tells it what to pass over.
            world.positions.relayed_through.clear()
            world.positions.positions.clear()
    await world.append(5, streams=17)
    await world.relay_all()
    assert world.faults() == []


async def test_relays_that_run_are_named(world: DividedWorld) -> None:
    relay = world.relay(instance_id="orders-1")
    async with running(relay):
        await eventually(lambda: len(relay.status().shards) == len(SHARDS))
        with pytest.raises(TopicNotDrained, match=r"relayed now, by orders-1 .*: end every process"):
            await world.add(5)
        assert len(world.broker.topics["order"]) == 3
        await world.append(5)
        await world.all_relayed()
    assert world.faults() == []


async def test_a_relay_that_comes_meanwhile_waits_and_goes_the_new_way(world: DividedWorld) -> None:
    relay = world.relay(instance_id="orders-1")

    async def come(_content: TopicContent) -> None:
        await stack.enter_async_context(running(relay))
        await world.append(40, streams=17)
        await eventually(lambda: has_place(world, "orders-1"))
        assert relay.status().shards == ()

    async with AsyncExitStack() as stack:
        await world.add(5, come)
        await world.all_relayed()
    assert world.faults() == []


async def has_place(world: DividedWorld, holder: str) -> bool:
    return any(facts.is_held and facts.holder == holder for facts in await world.positions.leases.list(RELAY_GROUP))


async def test_events_that_are_not_relayed_yet_are_counted(world: DividedWorld) -> None:
    """A shard that stands still for another topic's sake: its partition lacks what others have."""
    last = world.store.events[-1]
    victim = Partition("order", partition_of(world.store.events[-2].stream_name.encode(), 3))
    other = Partition("order", partition_of(last.stream_name.encode(), 3))
    assert victim != other
    held = world.broker.partition(victim)
    got = world.broker.envelopes("order")[victim]
    held.records = [record for record in held.records if record is not None][:-1]
    world.positions.positions[victim] = PartitionPosition(got[-2].position, len(held.records) - 1)
    world.positions.relayed_through[shard_of(victim)] = Checkpoint(1, got[-2].position.global_position, got[-2].event.event_id)
    with pytest.raises(TopicNotDrained, match=r"1 of its events are not relayed yet: start the service"):
        await world.add(5)
    await world.relay_all()
    await world.add(5)
    assert world.faults() == []


async def test_who_has_not_handled_everything_keeps_it_from_happening(world: DividedWorld) -> None:
    seen: list[TopicContent] = []

    async def refuse(content: TopicContent) -> None:
        seen.append(content)
        raise TopicNotDrained("order", ["the group 'shop' is behind"])

    with pytest.raises(TopicNotDrained, match="the group 'shop' is behind"):
        await world.add(5, refuse)
    assert {p: tail.position for p, tail in seen[0].tails.items()} == {
        p: got[-1].position for p, got in world.broker.envelopes("order").items()
    }
    assert len(world.broker.topics["order"]) == 3
    await world.append(5)
    await world.relay_all()
    assert world.faults() == []


async def test_a_frozen_relay_that_wrote_meanwhile_is_noticed(world: DividedWorld) -> None:
    """Thawed after the first fence it may have fenced us; the second fence ends that, and what it wrote shows."""

    async def thaw(_content: TopicContent) -> None:
        await world.append(1)
        held = world.positions.leases
        world.positions.leases = type(held)()
        await world.relay_all()
        world.positions.leases = held

    with pytest.raises(RelayFenced, match="a relay wrote to"):
        await world.add(5, thaw)
    assert world.positions.topics == {"order": 3}


async def test_a_session_that_looked_before_partitions_came_starts_over(world: DividedWorld) -> None:
    """Frozen between its look at the topics and its fence, and thawed when all is done: what it saw counts no more."""
    fence = world.broker.fence

    async def late(transactional_id: str, partitions: Any) -> Any:
        await world.broker.add_partitions("order", 5)
        return await fence(transactional_id, partitions)

    world.broker.fence = late  # type: ignore[method-assign]
    shard = shard_of(Partition("order", 0))
    lease = await world.positions.leases.acquire(item_lease_name(RELAY_GROUP, shard), "frozen", LEASE_SECONDS)
    assert lease is not None
    holding = Holding(shard, lease, SYSTEM_CLOCK.monotonic() + LEASE_SECONDS, SYSTEM_CLOCK)
    parts = RelayParts(
        world.store,
        world.broker,
        world.positions,
        SYSTEM_CLOCK,
        SYSTEM_RANDOMNESS,
        Doorbell(SYSTEM_CLOCK),
        RelayOptions(),
        "/services/test",
        JSON_ENCODER,
    )
    opening = ShardOpening(parts, TopicDesk(world.broker), holding, StopList(SYSTEM_CLOCK, 1.0), one_by_one=asyncio.Lock())
    with pytest.raises(RelayFenced, match="more partitions meanwhile"):
        async with opening.opened(set()):
            raise AssertionError("it would relay as it used to")


class Crash(BaseException):
    """The process ends here."""


class Mortal:
    """What it stands before works so many times, and never again."""

    def __init__(self, inner: Any, life: list[int]) -> None:
        self._inner, self._life = inner, life

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name == "leases":
            return Mortal(found, self._life)
        if name == "open_reader":
            self._spend()
            return found

        async def call(*arguments: Any, **options: Any) -> Any:
            self._spend()
            return await found(*arguments, **options)

        return call

    def _spend(self) -> None:
        if self._life[0] <= 0:
            raise Crash
        self._life[0] -= 1


async def test_cut_off_at_any_step_it_is_run_again_and_nothing_is_lost_or_moved() -> None:
    for steps in range(STEPS_MAX):
        world = DividedWorld()
        await world.append(40, streams=17)
        await world.relay_all()
        life = [steps]
        mortal = world.adding(5, broker=Mortal(world.broker, life), positions=Mortal(world.positions, life))
        with suppress(Crash):
            await mortal.run(everybody_has)
            break
        await free_leases(world)
        await world.append(20, streams=17)
        if len(world.broker.topics["order"]) == world.positions.topics["order"]:
            await world.relay_all()
        else:
            relay = world.relay()
            async with running(relay):
                await eventually(
                    lambda relay=relay: "headwater outbox add-partitions order --partitions 5" in (relay.status().last_error or "")
                )
        await free_leases(world)
        assert (await world.add(5)).partition_count == 5
        await world.append(20, streams=17)
        await world.relay_all()
        assert world.faults() == [], f"after {steps} steps"
        assert world.positions.topics == {"order": 5}
    else:
        raise AssertionError("it takes more steps than were tried")
    assert steps > 30


async def test_what_cannot_be_is_refused(world: DividedWorld) -> None:
    with pytest.raises(UsageError, match=r"'order' has 3 partitions .* cannot be removed"):
        await world.add(2)
    unknown = PartitionAdding(world.store, world.broker, world.positions, topic="parcel", partition_count=5)
    with pytest.raises(UsageError, match=r"'parcel' was never relayed to by this log; topics of this log: order"):
        await unknown.run(everybody_has)


async def test_a_lease_that_was_lost_records_nothing(world: DividedWorld) -> None:
    async def lose(_content: TopicContent) -> None:
        await free_leases(world)

    with pytest.raises(RelayFenced, match="nothing was recorded"):
        await world.add(5, lose)
    assert world.positions.topics == {"order": 3}
    await world.add(5)
    await world.append(30, streams=17)
    await world.relay_all()
    assert world.faults() == []


async def free_leases(world: DividedWorld) -> None:
    """As if they had run out."""
    for facts in await world.positions.leases.list():
        if facts.is_held and facts.holder is not None:
            await world.positions.leases.release(Lease(facts.name, facts.term, facts.holder, facts.expires_at))

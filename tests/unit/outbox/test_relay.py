"""The relay's core on stores in memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from headwater.errors import BrokerUnavailable, LogDiverged, RecordRefused
from headwater.eventstore import Checkpoint
from headwater.kafka import Partition, Record, provenance_of
from headwater.kafka.values import EncodedValue, JsonEncoder
from headwater.messages import ANY, NewEvent, RecordedEvent
from headwater.outbox import SHARDS, PartitionPosition, Relay, RelayOptions
from headwater.testing.memory_relay import MemoryPartition, MemoryRelayBroker, MemoryRelayPositions
from headwater.testing.memory_store import MemoryEventStore
from headwater.testing.waiting import eventually
from tests.outbox_support import faults_of, running

QUICK = RelayOptions(lease_seconds=5, checkpoint_seconds=0.005, poll_seconds_max=0.005, stop_retry_seconds=0.05)


class World:
    """A log, a broker and the relay's memory."""

    def __init__(self, *, fences: bool = True) -> None:
        self.store = MemoryEventStore()
        self.broker = MemoryRelayBroker(fences=fences)
        self.positions = MemoryRelayPositions()
        self.seen = 0

    def relay(self, options: RelayOptions = QUICK, instance_id: str | None = None) -> Relay:
        return Relay(self.store, self.broker, self.positions, event_source="/services/test", options=options, instance_id=instance_id)

    async def append(self, count: int, *, category: str = "order", streams: int = 7) -> None:
        for _ in range(count):
            self.seen += 1
            await self.store.append(
                f"{category}-{self.seen % streams}", [NewEvent("OrderPlaced", f'{{"number": {self.seen}}}')], expected_version=ANY
            )

    def faults(self) -> list[str]:
        counts = {topic: len(held) for topic, held in self.broker.topics.items()}
        found = {partition: got for topic in self.broker.topics for partition, got in self.broker.envelopes(topic).items()}
        return faults_of(self.store.events, found, {"order": 3, "stock": 3, **counts})

    def relayed_through(self) -> int:
        return min(self.positions.relayed_through.get(shard, Checkpoint()).global_position for shard in SHARDS)

    async def all_relayed(self) -> None:
        await eventually(lambda: self.relayed_through() == len(self.store.events))


@pytest.fixture
async def world() -> World:
    return World()


def positions_in(records: Sequence[Record]) -> list[int]:
    return [found.position.global_position for record in records if (found := provenance_of(record[2]))]


async def test_every_event_gets_to_its_partition_once_in_order(world: World) -> None:
    await world.append(500)
    async with running(world.relay()):
        await world.all_relayed()
        await world.append(50)
        await world.all_relayed()
    assert world.faults() == []


@pytest.mark.parametrize("seed", range(20))
async def test_failures_anywhere_leave_neither_hole_nor_duplicate(world: World, seed: int) -> None:
    """Before a write it is lost, after a write only its acknowledgement is; either way the relay does not know."""
    chance = random.Random(seed)

    async def fail(_partition: Partition, _records: Sequence[Record]) -> None:
        await asyncio.sleep(chance.choice((0, 0, 0.001)))
        if chance.random() < 0.05:
            raise BrokerUnavailable("by chance")

    world.broker.before_write = world.broker.after_write = fail
    await world.append(300)
    for _ in range(4):
        async with running(
            world.relay(
                RelayOptions(
                    lease_seconds=0.2, checkpoint_seconds=0.002, drain_seconds_max=chance.choice((0.0, 0.05)), poll_seconds_max=0.005
                )
            )
        ):
            await asyncio.sleep(chance.uniform(0, 0.1))
            await world.append(20)
    world.broker.before_write = world.broker.after_write = None
    async with running(world.relay()):
        await world.all_relayed()
    assert world.faults() == []


@pytest.mark.parametrize("fences", [True, False])
async def test_a_frozen_relay_that_thaws_is_refused_by_the_fence(fences: bool) -> None:
    """The same story without the fence ends with records twice: that is what rule 13 is for."""
    world = World(fences=fences)
    frozen, thawed = asyncio.Event(), asyncio.Event()

    has_heir = False

    async def freeze(_partition: Partition, _records: Sequence[Record]) -> None:
        if not has_heir:
            frozen.set()
            await thawed.wait()

    world.broker.before_write = freeze
    await world.append(60)
    # It saves nothing meanwhile, so that nobody but Kafka can tell it.
    first = world.relay(RelayOptions(lease_seconds=30, checkpoint_seconds=60, poll_seconds_max=0.005))
    async with running(first):
        await frozen.wait()
        world.positions.leases.expire()
        has_heir = True
        async with running(world.relay()):
            await world.all_relayed()
            thawed.set()
            await eventually(lambda: "RelayFenced" in str(first.status().last_error) if fences else world.faults())
    assert bool(world.faults()) is not fences, world.faults()


async def test_a_refused_record_stops_its_partition_alone_and_leaves_no_hole(world: World) -> None:
    is_refusing = True

    async def refuse(_partition: Partition, records: Sequence[Record]) -> None:
        if is_refusing and 25 in positions_in(records):
            raise RecordRefused("too large")

    world.broker.before_write = refuse
    await world.append(100)
    relay = world.relay()
    async with running(relay):
        await eventually(lambda: [stop.position.global_position for stop in relay.status().stopped_partitions] == [25])
        stopped = relay.status().stopped_partitions[0].partition
        await world.append(30)
        await eventually(lambda: {int(fault.split(": ")[1].split()[0]) for fault in world.faults()} == _from(world, stopped, 25))
        assert all("is missing" in fault for fault in world.faults())
        assert world.relayed_through() < 25
        is_refusing = False
        await world.all_relayed()
    assert world.faults() == []
    assert relay.status().stopped_partitions == ()


def _from(world: World, partition: Partition, first: int) -> set[int]:
    """The positions that belong into this partition from the first on."""
    empty = {partition: []}
    wanted = {int(f.split(": ")[1].split()[0]) for f in faults_of(world.store.events, empty, {"order": 3}) if f.startswith(f"{partition}:")}
    return {position for position in wanted if position >= first}


class PickyEncoder(JsonEncoder):
    """Cannot encode one event, until it is mended."""

    is_mended = False

    def encode(self, event: RecordedEvent) -> EncodedValue:
        if event.global_position == 25 and not self.is_mended:
            raise ValueError("no")
        return super().encode(event)


async def test_an_event_that_cannot_be_encoded_is_tried_again_when_its_time_has_come(world: World) -> None:
    """Though nothing else ends the session."""
    values = PickyEncoder()
    await world.append(100)
    relay = Relay(world.store, world.broker, world.positions, event_source="/services/test", options=QUICK, values=values)
    async with running(relay):
        await eventually(lambda: [stop.position.global_position for stop in relay.status().stopped_partitions] == [25])
        stopped = relay.status().stopped_partitions[0].partition
        await eventually(lambda: {int(fault.split(": ")[1].split()[0]) for fault in world.faults()} == _from(world, stopped, 25))
        values.is_mended = True
        await world.all_relayed()
    assert world.faults() == []
    assert relay.status().stopped_partitions == ()


@pytest.mark.parametrize("is_crashing", [False, True])
async def test_a_partition_that_lost_its_tail_is_filled_again(world: World, is_crashing: bool) -> None:
    await world.append(200)
    async with running(world.relay()):
        await world.all_relayed()
    for held in world.broker.topics["order"][:2]:
        del held.records[10:]
    if is_crashing:

        async def crash(_partition: Partition, records: Sequence[Record]) -> None:
            if 150 in positions_in(records):
                raise BrokerUnavailable("in the middle")

        world.broker.before_write = crash
        async with running(world.relay()):
            await asyncio.sleep(0.05)
        world.broker.before_write = None
    await world.append(5)
    async with running(world.relay()):
        await world.all_relayed()
    assert world.faults() == []


async def test_a_topic_that_was_made_anew_is_filled_again(world: World) -> None:
    await world.append(100)
    await world.append(20, category="stock")
    async with running(world.relay()):
        await world.all_relayed()
    world.broker.topics["order"] = [MemoryPartition() for _ in range(3)]
    async with running(world.relay()):
        await eventually(lambda: world.faults() == [])


async def test_records_that_retention_removed_are_not_sent_again(world: World) -> None:
    await world.append(60)
    async with running(world.relay()):
        await world.all_relayed()
    for held in world.broker.topics["order"]:
        held.first_offset, held.records = held.end, []
    await world.append(10)
    async with running(world.relay()):
        await world.all_relayed()
    got = [envelope for partition in world.broker.envelopes("order").values() for envelope in partition]
    assert sorted(envelope.position.global_position for envelope in got) == list(range(61, 71))
    assert all(envelope.previous.global_position > 40 for envelope in got)


async def test_tails_are_found_below_markers_and_records_of_other_logs(world: World) -> None:
    other = World()
    other.broker = world.broker
    await world.append(50)
    await other.append(80)
    async with running(world.relay()), running(other.relay()):
        await world.all_relayed()
        await other.all_relayed()
    world.positions.positions.clear()
    await world.append(30)
    async with running(world.relay()):
        await world.all_relayed()
    mine = {
        partition: [envelope for envelope in got if envelope.log_id == (await world.store.identity()).log_id]
        for partition, got in world.broker.envelopes("order").items()
    }
    assert faults_of(world.store.events, mine, {"order": 3}) == []


async def test_a_category_that_turns_up_later_gets_its_topic(world: World) -> None:
    await world.append(5)
    async with running(world.relay()):
        await world.all_relayed()
        await world.append(5, category="stock")
        await world.append(5)
        await world.all_relayed()
    assert set(world.broker.topics) == {"order", "stock"}
    assert world.faults() == []


async def test_the_log_of_before_is_not_read_again(world: World) -> None:
    await world.append(500)
    async with running(world.relay()):
        await world.all_relayed()
    asked: list[int] = []
    read_log = world.store.read_log

    async def record(*, after: int, limit: int = 1000, horizon: int | None = None) -> object:
        asked.append(after)
        return await read_log(after=after, limit=limit, horizon=horizon)

    world.store.read_log = record  # type: ignore[method-assign, assignment]
    async with running(world.relay()):
        await world.append(1)
        await world.all_relayed()
    assert min(asked) == 500


async def test_another_number_of_partitions_stops_the_relay_with_an_alarm(world: World) -> None:
    await world.append(5)
    async with running(world.relay()):
        await world.all_relayed()
    world.broker.topics["order"].append(MemoryPartition())
    relay = world.relay()
    async with running(relay):
        await world.append(1)
        await eventually(lambda: relay.status().state == "stopped")
        assert "had 3 partitions" in str(relay.status().last_error)
        assert world.relayed_through() == 5
        world.broker.topics["order"].pop()
        await world.all_relayed()


@pytest.mark.parametrize("is_in_checkpoint", [True, False])
async def test_a_log_that_lost_its_tail_stops_the_relay_with_an_alarm(world: World, is_in_checkpoint: bool) -> None:
    """Also when only Kafka remembers the lost events."""
    await world.append(50)
    async with running(world.relay()):
        await world.all_relayed()
    if not is_in_checkpoint:
        event = world.store.events[9]
        world.positions.relayed_through = dict.fromkeys(SHARDS, Checkpoint(1, 10, event.event_id))
    del world.store._log[30:]
    await world.append(30)
    relay = world.relay()
    async with running(relay):
        await eventually(lambda: relay.status().state == "stopped")
        assert LogDiverged.__name__ in str(relay.status().last_error)
    assert sum(len(got) for got in world.broker.envelopes("order").values()) == 50


async def test_a_broker_that_is_down_is_waited_for(world: World) -> None:
    world.broker.is_up = False
    await world.append(10)
    relay = world.relay()
    async with running(relay):
        await eventually(lambda: relay.status().state == "failed")
        world.broker.is_up = True
        await world.all_relayed()
    assert world.faults() == []


async def test_cancelling_drains_saves_and_gives_the_lease_back(world: World) -> None:
    writing, release = asyncio.Event(), asyncio.Event()

    async def hold(_partition: Partition, _records: Sequence[Record]) -> None:
        writing.set()
        await release.wait()

    world.broker.before_write = hold
    await world.append(3, streams=1)
    relay = world.relay(RelayOptions(checkpoint_seconds=60, poll_seconds_max=0.005))
    task = asyncio.create_task(relay.run())
    await writing.wait()
    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.relayed_through() == 3
    assert relay.status().state == "ended"
    assert not any(facts.is_held for facts in await world.positions.leases.list())


async def test_saved_positions_are_the_offsets_of_the_last_records(world: World) -> None:
    await world.append(40)
    async with running(world.relay()):
        await world.all_relayed()
    for partition, got in world.broker.envelopes("order").items():
        if got:
            assert world.positions.positions[partition] == PartitionPosition(got[-1].position, world.broker.partition(partition).end - 1)


async def test_the_doorbell_wakes_a_relay_that_polls_rarely(world: World) -> None:
    await world.append(1)
    relay = world.relay(RelayOptions(poll_seconds_max=60, checkpoint_seconds=0.005))
    async with running(relay):
        await world.all_relayed()
        await asyncio.sleep(0.3)
        await world.append(1)
        relay.wake()
        await eventually(lambda: world.relayed_through() == 2, timeout=1)


async def test_a_relay_that_outlives_its_leases_drops_everything(world: World) -> None:
    relay = world.relay(RelayOptions(lease_seconds=0.15, checkpoint_seconds=60, poll_seconds_max=0.005))
    async with running(relay):
        await eventually(lambda: relay.status().state == "relaying")
        world.positions.leases.expire()
        for facts in await world.positions.leases.list():
            assert await world.positions.leases.acquire(facts.name, "another", 60) is not None
        await eventually(lambda: relay.status().state == "waiting")
        await world.append(5)
        await asyncio.sleep(0.05)
    assert world.relayed_through() == 0
    assert relay.status().relayed_count == 0

"""The log as a source: leases that end in mid-work, a log that is another one, and positions that can be trusted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from headwater.bus import Consumer, ConsumerLimits, Context, LogRecord, PostgresSource, Subscriptions, log_reading, log_topic
from headwater.bus.log_records import LogRecords
from headwater.bus.routes import Route
from headwater.eventstore import LogEpoch, LogIdentity
from headwater.kafka import Envelope, Partition
from headwater.messages import ANY, CORRELATION_ID, LOG_START, LogPosition, NewEvent
from headwater.testing import FakeClock, MemoryEventStore, SeededRandomness
from headwater.testing.memory_bus import MemoryLogPartitions, MemoryRecord
from headwater.testing.memory_effects import MemoryEffects
from headwater.testing.memory_leases import MemoryLeases
from tests.unit.bus.world import ROUNDS_MAX, OrderPlaced, StockReserved

COUNT = 2
ORDERS = [Partition(log_topic("order"), number) for number in range(COUNT)]


class LogWorld:
    """One group on a log in memory and a held clock; every member has a source of its own."""

    def __init__(self, **limits: Any) -> None:
        self.clock = FakeClock()
        self.store = MemoryEventStore(clock=self.clock)
        self.effects = MemoryEffects(self.store, clock=self.clock)
        self.leases = MemoryLeases(clock=self.clock)
        self.subscriptions = Subscriptions()
        self.limits = ConsumerLimits(**limits)
        self.handled: list[str] = []
        self.members = 0

    def handle_all(self) -> None:
        @self.subscriptions.on(OrderPlaced)
        async def note(event: OrderPlaced) -> None:
            self.handled.append(event.sku)

    def member(self) -> Consumer:
        self.members += 1
        source = PostgresSource(
            self.store,
            MemoryLogPartitions(self.store, partition_count=COUNT),
            self.leases,
            group="shop",
            instance_id=f"member-{self.members}",
            clock=self.clock,
            randomness=SeededRandomness(self.members),
        )
        return Consumer(
            group="shop",
            subscriptions=self.subscriptions,
            source=source,
            effects=self.effects,
            limits=self.limits,
            clock=self.clock,
            randomness=SeededRandomness(7),
        )

    @asynccontextmanager
    async def running(self, member: Consumer | None = None) -> AsyncIterator[Consumer]:
        member = member or self.member()
        task = asyncio.create_task(member.run())
        try:
            yield member
        finally:
            task.cancel()
            while not task.done():
                await self.clock.advance_to_next_sleeper()
            with suppress(asyncio.CancelledError):
                await task

    async def place(self, *skus: str) -> None:
        for sku in skus:
            await self.store.append(f"order-{sku}", [OrderPlaced(sku=sku)], expected_version=ANY)

    async def until(self, condition: Callable[[], object]) -> None:
        for _ in range(ROUNDS_MAX):
            if condition():
                return
            await self.clock.advance_to_next_sleeper()
        raise AssertionError("it never came to be so")

    def row(self, partition: Partition) -> Any:
        return self.effects.position("shop", partition)


async def test_a_checkpoint_is_epoch_position_and_event_id() -> None:
    world = LogWorld()
    world.handle_all()
    await world.place(*"abcdef")
    async with world.running():
        await world.until(lambda: len(world.handled) == 6)
    log_id = (await world.store.identity()).log_id
    for partition in ORDERS:
        row = world.row(partition)
        event = world.store.events[row.last.offset - 1]
        assert row.next_offset == row.last.offset + 1
        assert (row.last.log_id, row.last.position) == (log_id, LogPosition(1, event.global_position))
        assert row.last.event_id == event.event_id
        assert row.marks == {log_id: row.last.position}


async def test_an_event_that_another_took_the_place_of_stops_its_partition_and_no_other() -> None:
    """Same position, same epoch, another id: only the id can tell."""
    world = LogWorld()
    world.handle_all()
    await world.place(*"abcdef")
    async with world.running():
        await world.until(lambda: len(world.handled) == 6)
    position = world.row(ORDERS[0]).last.offset
    world.store._log[position - 1] = replace(world.store._log[position - 1], event_id=uuid4())
    async with world.running() as member:
        await world.until(lambda: any(status.state == "stopped" for status in member.status()))
        await world.place(*"ghijkl")
        await world.until(lambda: len(world.handled) > 6)
        stopped = {status.partition: status for status in member.status() if status.state == "stopped"}
        assert list(stopped) == [ORDERS[0]]
        assert "lost its tail" in str(stopped[ORDERS[0]].reason)


async def test_a_log_that_ends_before_a_position_stops_its_partition() -> None:
    world = LogWorld()
    world.handle_all()
    await world.place(*"abcdef")
    async with world.running():
        await world.until(lambda: len(world.handled) == 6)
    del world.store._log[3:]
    async with world.running() as member:
        await world.until(lambda: any(status.state == "stopped" for status in member.status()))


async def test_when_the_log_changes_every_partition_is_claimed_anew_and_looked_at() -> None:
    """A failover in the middle of everything: what is on its way is dropped, and each partition's last event is looked for in the log as it is now."""
    world = LogWorld()
    world.handle_all()
    await world.place(*"abcdef")
    async with world.running() as member:
        await world.until(lambda: len(world.handled) == 6)
        epochs = {partition: world.row(partition).epoch for partition in ORDERS}
        world.store._identity = LogIdentity(world.store._identity.log_id, (LogEpoch(1, 0), LogEpoch(2, 6)))
        await world.place(*"ghijkl")
        await world.until(lambda: len(world.handled) == 12)
        assert all(world.row(partition).epoch > epochs[partition] for partition in ORDERS)
        assert all(world.row(partition).last.position.epoch == 2 for partition in ORDERS)
        # One that lost what was applied last.
        last = world.row(ORDERS[1]).last.offset
        world.store._identity = LogIdentity(world.store._identity.log_id, (*world.store._identity.epochs, LogEpoch(3, last - 1)))
        world.store._log[last - 1] = replace(world.store._log[last - 1], event_id=uuid4())
        await world.place(*"mnopqr")
        await world.until(lambda: any(status.state == "stopped" for status in member.status()))
        assert [status.partition for status in member.status() if status.state == "stopped"] == [ORDERS[1]]
    assert len(set(world.handled)) == len(world.handled)


async def test_a_lease_that_ran_out_in_mid_handler_gives_the_partitions_away_and_nothing_happens_twice() -> None:
    world = LogWorld(revoke_seconds_max=1.0, handler_seconds_max=10_000.0)
    holding, entered = asyncio.Event(), asyncio.Event()

    @world.subscriptions.on(OrderPlaced)
    async def slow(event: OrderPlaced, context: Context) -> None:
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))
        if not entered.is_set():
            entered.set()
            await holding.wait()

    await world.place("a")
    first = world.member()
    async with world.running(first):
        await world.until(entered.is_set)
        renew = world.leases.renew

        async def frozen(leases: Any, seconds: float) -> Any:
            return await renew([lease for lease in leases if lease.holder != "member-1"], seconds)

        world.leases.renew = frozen  # type: ignore[method-assign]
        await world.until(lambda: first.status() == ())
        # Transactions in memory take turns, so the next owner's claim is written as the database would see it.
        for partition in ORDERS:
            if (row := world.row(partition)) is not None:
                world.effects.set_position("shop", replace(row, epoch=row.epoch + 1))
        holding.set()
        world.leases.renew = renew  # type: ignore[method-assign]
        await world.until(lambda: [event.stream_name for event in world.store.events].count("stock-a") == 1)
        await world.place("b")
        await world.until(lambda: [event.stream_name for event in world.store.events].count("stock-b") == 1)
    assert [event.stream_name for event in world.store.events].count("stock-a") == 1


async def test_positions_of_partitions_without_events_move_with_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reading, "MARK_POSITIONS", 50)
    world = LogWorld()
    world.handle_all()
    await world.place("a")
    async with world.running():
        for _ in range(150):
            await world.store.append("stock-1", [StockReserved(sku="x")], expected_version=ANY)
        await world.until(lambda: all((row := world.row(partition)) is not None and row.next_offset > 50 for partition in ORDERS))
        rows = {partition: world.row(partition) for partition in ORDERS}
    for row in rows.values():
        assert row.last.event_id == world.store.events[row.last.offset - 1].event_id
    async with world.running():
        await world.place("b")
        await world.until(lambda: "b" in world.handled)
    assert world.handled == ["a", "b"]


async def test_what_was_not_read_yet_can_be_counted() -> None:
    world = LogWorld()
    source = PostgresSource(
        world.store,
        MemoryLogPartitions(world.store, partition_count=COUNT),
        world.leases,
        group="shop",
        clock=world.clock,
        randomness=SeededRandomness(1),
    )

    class Listener:
        assigned_count = 0

        async def assigned(self, partitions: Any) -> None:
            self.assigned_count += len(list(partitions))

        async def revoked(self, partitions: Any) -> dict[Partition, int]:
            return {}

        def committed(self) -> dict[Partition, int]:
            return {}

    listener = Listener()
    await source.open(["order"], listener)
    await world.until(lambda: listener.assigned_count == COUNT)
    await world.place(*"abcdef")
    for partition in ORDERS:
        source.start_at(partition, 1)
    assert await source.unread(ORDERS) == dict.fromkeys(ORDERS, 6)
    assert sum(len(records) for records in (await source.receive(limit=10, timeout_seconds=0)).values()) == 6
    assert await source.unread(ORDERS) == dict.fromkeys(ORDERS, 0)
    closing = asyncio.create_task(source.close())
    await world.until(closing.done)
    await closing


async def test_a_record_of_the_log_survives_being_kept_as_a_broker_would_hold_it() -> None:
    """Parked messages and unreadable dead letters are kept as key, value, headers and timestamp, and read again from there."""
    store = MemoryEventStore()
    event = NewEvent("OrderPlaced", '{"sku": "Käse", "quantity": 2}', metadata={CORRELATION_ID: "c", "tenant": "Ä"})
    await store.append("order-Käse 1", [event], expected_version=ANY)
    (recorded,) = store.events
    envelope = Envelope(recorded, uuid4(), LogPosition(3, recorded.global_position), LOG_START)
    record = LogRecord(ORDERS[0], envelope)
    kept = MemoryRecord(record.topic, record.partition, record.offset, record.timestamp, record.key, record.value, tuple(record.headers))
    reader, route = LogRecords(), Route(OrderPlaced, ())
    for found in (reader.read(record, lambda _: route), reader.read(kept, lambda _: route)):
        assert (found.envelope, found.route, found.fault, found.value_fault) == (envelope, route, None, None)
    assert reader.provenance(kept) == reader.provenance(record)
    assert reader.read(kept, lambda _: None).route is None

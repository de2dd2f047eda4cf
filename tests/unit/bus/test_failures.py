"""What happens to a message that fails, and to everything around it."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace

import pytest

from headwater.bus import ConsumerLimits, Context, EffectsRefused, RetryPolicy
from headwater.errors import ConfigurationError, StorageUnavailable, TransactionConflict, UsageError, WrongExpectedVersion
from headwater.kafka import Partition
from headwater.messages import ANY, NewEvent
from headwater.testing import SeededRandomness
from headwater.testing.memory_effects import MemoryTransaction
from tests.unit.bus.world import IN_PLACE, OrderPlaced, StockReserved, World

ORDER_0 = Partition("order", 0)


def refuse_poison(world: World) -> None:
    @world.subscriptions.on(OrderPlaced)
    async def reserve(event: OrderPlaced, context: Context) -> None:
        world.handled.append(event.sku)
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))
        if event.sku.startswith("poison"):
            raise ValueError(f"cannot take {event.sku}")


async def test_a_failing_message_becomes_a_dead_letter_and_the_rest_goes_on() -> None:
    world = World(partition_count=1)
    refuse_poison(world)
    await world.place("a", "b", "poison", "c", "d")
    async with world.running():
        await world.caught_up()
    assert world.stream_names("stock") == [f"stock-{sku}" for sku in "abcd"]
    assert world.handled.count("poison") == 5
    (letter,) = await world.effects.dead_letters.list()
    assert letter.handler_name is not None
    assert letter.handler_name.endswith("reserve")
    assert (letter.partition, letter.offset, letter.attempts) == (ORDER_0, 2, 5)
    assert (letter.error_type, letter.error_message) == ("ValueError", "cannot take poison")
    assert "in reserve" in letter.traceback
    assert (letter.event_type, letter.stream_name, letter.version) == ("OrderPlaced", "order-poison", 1)
    assert letter.data is not None
    assert '"poison"' in letter.data
    assert letter.event_id == world.store.events[2].event_id
    assert (letter.last_failed_at - letter.first_failed_at).total_seconds() == pytest.approx(0.25 + 0.75 + 2.25 + 6.75)


async def test_retries_wait_longer_each_time_while_other_partitions_go_on() -> None:
    world = World(partition_count=2)
    refuse_poison(world)
    await world.place("poison")
    async with world.running() as consumer:
        await world.until(lambda: any(s.state == "waiting" for s in consumer.status()))
        (waiting,) = [s.partition for s in consumer.status() if s.state == "waiting"]
        (free,) = [p for p in world.partitions if p != waiting]
        await world.place(*"abcdefghij")
        await world.topics.relay()
        await world.until(lambda: world.is_applied(free))
        status = next(s for s in consumer.status() if s.partition == waiting)
        assert status.state == "waiting"
        assert status.reason == "cannot take poison"
        assert len(world.stream_names("stock")) == world.topics.range_of(free).end
        await world.caught_up()
    assert sorted(world.stream_names("stock")) == [f"stock-{sku}" for sku in "abcdefghij"]


async def test_order_within_the_partition_survives_retries() -> None:
    world = World(partition_count=1)
    failures = {"b": 2, "d": 4}

    @world.subscriptions.on(OrderPlaced)
    async def reserve(event: OrderPlaced, context: Context) -> None:
        await context.append("stock-all", StockReserved(sku=event.sku))
        if failures.get(event.sku, 0) > 0:
            failures[event.sku] -= 1
            raise ValueError("not yet")

    await world.place(*"abcde")
    async with world.running():
        await world.caught_up()
    assert [e.data for e in world.store.events if e.category == "stock"] == [f'{{"sku": "{sku}"}}' for sku in "abcde"]
    assert await world.effects.dead_letters.count() == 0


async def test_many_failing_messages_cost_each_other_nothing() -> None:
    world = World(partition_count=1, retry_policy=replace(IN_PLACE, attempts_max=1))
    refuse_poison(world)
    skus = [f"poison{n}" if n % 3 == 0 else f"good{n}" for n in range(60)]
    await world.place(*skus)
    async with world.running():
        await world.caught_up()
    assert world.stream_names("stock") == [f"stock-{sku}" for sku in skus if sku.startswith("good")]
    assert [letter.stream_name for letter in world.effects.letters] == [f"order-{sku}" for sku in skus if sku.startswith("poison")]
    assert {letter.attempts for letter in world.effects.letters} == {1}
    assert all(world.handled.count(sku) == 1 for sku in skus if sku.startswith("poison"))


async def test_the_other_handlers_effects_of_a_dead_letter_are_kept() -> None:
    world = World(partition_count=1)

    @world.subscriptions.on(OrderPlaced)
    async def first(event: OrderPlaced, context: Context) -> None:
        await context.append(f"stock-first.{event.sku}", StockReserved(sku=event.sku))

    @world.subscriptions.on(OrderPlaced)
    async def broken(event: OrderPlaced, context: Context) -> None:
        await context.append(f"stock-broken.{event.sku}", StockReserved(sku=event.sku))
        raise ValueError("always")

    @world.subscriptions.on(OrderPlaced)
    async def last(event: OrderPlaced, context: Context) -> None:
        await context.append(f"stock-last.{event.sku}", StockReserved(sku=event.sku))

    await world.place("a")
    async with world.running() as consumer:
        await world.until(lambda: any(s.attempts == 3 for s in consumer.status()))
        assert world.stream_names("stock") == []  # all of a message's effects commit together
        await world.caught_up()
    assert world.stream_names("stock") == ["stock-first.a", "stock-last.a"]
    assert [str(letter.handler_name).rpartition(".")[2] for letter in world.effects.letters] == ["broken"]


@pytest.mark.parametrize("attempts_max", [1, 5])
async def test_data_that_does_not_fit_the_class_is_not_tried_again(attempts_max: int) -> None:
    world = World(partition_count=1, retry_policy=replace(IN_PLACE, attempts_max=attempts_max))
    refuse_poison(world)

    @world.subscriptions.on(OrderPlaced)
    async def second(event: OrderPlaced) -> None:
        assert event.sku != "bad", "never called with it"

    await world.place("a")
    await world.store.append("order-bad", [NewEvent(type="OrderPlaced", data='{"sku": ["bad"]}')], expected_version=ANY)
    await world.place("b")
    async with world.running():
        await world.caught_up()
    assert world.clock.monotonic() < 2
    assert world.stream_names("stock") == ["stock-a", "stock-b"]
    first_letter, second_letter = world.effects.letters
    assert first_letter.handler_name != second_letter.handler_name
    assert first_letter.error_type == "headwater.errors.InvalidEvent"
    assert "sku" in first_letter.error_message


async def test_foreign_records_are_kept_whole_at_once() -> None:
    world = World(partition_count=1)
    refuse_poison(world)
    await world.place("a")
    await world.topics.relay()
    world.topics.put(ORDER_0, key=b"\x00k", value=b"\xff\x00raw", headers=[("h", b"\x01"), ("\x00", b"")], timestamp=5)
    world.topics.put(ORDER_0)
    await world.place("b")
    async with world.running():
        await world.caught_up()
    assert world.stream_names("stock") == ["stock-a", "stock-b"]
    letter, empty = world.effects.letters
    assert (letter.handler_name, letter.offset, letter.attempts, letter.data) == (None, 1, 1, None)
    assert letter.raw is not None
    assert base64.b64decode(letter.raw["value"]) == b"\xff\x00raw"
    assert empty.raw is not None
    assert empty.raw["value"] is None


@pytest.mark.parametrize("error", [TransactionConflict("deadlock"), StorageUnavailable("another database")])
async def test_what_is_not_the_messages_fault_never_counts(error: Exception) -> None:
    world = World(partition_count=2)
    remaining = 12

    @world.subscriptions.on(OrderPlaced)
    async def reserve(event: OrderPlaced, context: Context) -> None:
        nonlocal remaining
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))
        if event.sku == "unlucky" and remaining:
            remaining -= 1
            raise error

    await world.place("a", "unlucky", "b", "c", "d", "e")
    async with world.running():
        await world.caught_up()
    assert remaining == 0
    assert sorted(world.stream_names("stock")) == sorted(f"stock-{sku}" for sku in ["a", "unlucky", "b", "c", "d", "e"])
    assert await world.effects.dead_letters.count() == 0


async def test_a_lost_race_for_a_version_is_tried_again() -> None:
    world = World(partition_count=1)
    tries: list[int] = []

    @world.subscriptions.on(OrderPlaced)
    async def reserve(event: OrderPlaced, context: Context) -> None:
        tries.append(1)
        expected = 0 if len(tries) == 1 else 1
        await context.append("stock-one", StockReserved(sku=event.sku), expected_version=expected)

    await world.store.append("stock-one", [StockReserved(sku="before")], expected_version=0)
    await world.place("a")
    async with world.running():
        await world.caught_up()
    assert len(tries) == 2
    assert len(world.stream_names("stock")) == 2


async def test_a_transaction_left_broken_is_the_fault_of_the_handler_that_left_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory has no aborted transactions, so one is played: the commit is refused while a message named poison is in it."""
    world = World(partition_count=1, retry_policy=replace(IN_PLACE, attempts_max=2))
    refused = EffectsRefused("left aborted")
    advance = MemoryTransaction.advance

    @world.subscriptions.on(OrderPlaced)
    async def reserve(event: OrderPlaced, context: Context) -> None:
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))

    async def refusing(self: MemoryTransaction, group: str, moves: object) -> object:
        if any(name == "stock-poison" for name, _, _ in self._appends):
            raise refused
        return await advance(self, group, moves)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryTransaction, "advance", refusing)
    await world.place(*"abcdefg", "poison", *"hijk")
    async with world.running():
        await world.caught_up()
    assert world.stream_names("stock") == [f"stock-{sku}" for sku in "abcdefghijk"]
    (letter,) = world.effects.letters
    assert (letter.stream_name, letter.attempts, letter.error_message) == ("order-poison", 2, "left aborted")


async def test_a_handler_that_raises_cancelled_error_has_failed() -> None:
    world = World(partition_count=1, retry_policy=replace(IN_PLACE, attempts_max=2))

    @world.subscriptions.on(OrderPlaced)
    async def awkward(event: OrderPlaced) -> None:
        if event.sku == "awkward":
            raise asyncio.CancelledError
        world.handled.append(event.sku)

    await world.place("a", "awkward", "b")
    async with world.running():
        await world.caught_up()
    assert "b" in world.handled
    (letter,) = world.effects.letters
    assert "CancelledError" in letter.error_message


async def test_a_handler_that_never_returns_is_cut_off() -> None:
    limits = ConsumerLimits(handler_seconds_max=0.05, batch_seconds_max=0.05)
    world = World(partition_count=1, retry_policy=replace(IN_PLACE, attempts_max=2), limits=limits)

    @world.subscriptions.on(OrderPlaced)
    async def slow(event: OrderPlaced, context: Context) -> None:
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))
        if event.sku == "slow":
            await asyncio.Event().wait()

    await world.place("a", "slow", "b")
    consumer, _ = world.member()
    async with world.running(consumer):
        async with asyncio.timeout(20):
            while len(world.stream_names("stock")) < 2:
                await world.clock.advance(1)
                await asyncio.sleep(0.005)
    assert world.stream_names("stock") == ["stock-a", "stock-b"]
    (letter,) = world.effects.letters
    assert "took longer than 0.05 s" in letter.error_message


async def test_a_context_cannot_be_used_after_its_handler() -> None:
    world = World(partition_count=1)
    kept: list[Context] = []

    @world.subscriptions.on(OrderPlaced)
    async def keep(event: OrderPlaced, context: Context) -> None:
        kept.append(context)
        with pytest.raises(UsageError, match="no connection in memory"):
            _ = context.connection

    await world.place("a")
    async with world.running():
        await world.caught_up()
    with pytest.raises(UsageError, match="after the handler returned"):
        await kept[0].append("stock-a", StockReserved(sku="a"))


async def test_the_idempotency_key_is_stable_over_attempts_and_differs_between_handlers() -> None:
    world = World(partition_count=1)
    keys: dict[str, set[str]] = {"one": set(), "two": set()}

    @world.subscriptions.on(OrderPlaced)
    async def one(event: OrderPlaced, context: Context) -> None:
        keys["one"].add(context.idempotency_key)

    @world.subscriptions.on(OrderPlaced)
    async def two(event: OrderPlaced, context: Context) -> None:
        keys["two"].add(context.idempotency_key)
        if context.now() == world.clock.now() and world.clock.monotonic() < 1:
            raise WrongExpectedVersion(stream_name="stock-a", expected="version 1", actual_version=2)

    await world.place("a")
    async with world.running():
        await world.caught_up()
    assert len(keys["one"]) == len(keys["two"]) == 1
    assert keys["one"] != keys["two"]


async def test_the_idempotency_key_of_a_message_that_is_sent_again_is_the_same() -> None:
    world, keys = World(partition_count=1), list[str]()

    @world.subscriptions.on(OrderPlaced)
    async def pay(event: OrderPlaced, context: Context) -> None:
        keys.append(context.idempotency_key)

    for key in ("a", "a", "b"):
        event = NewEvent.of(OrderPlaced(sku="x"), metadata={"idempotency_key": key})
        await world.store.append("order-1", [event], expected_version=ANY)
    async with world.running():
        await world.caught_up()
    assert keys[0] == keys[1] != keys[2]


async def test_errors_that_cannot_be_stored_as_they_are_do_not_keep_the_letter_away() -> None:
    world = World(partition_count=1, retry_policy=replace(IN_PLACE, attempts_max=1))

    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    @world.subscriptions.on(OrderPlaced)
    async def awkward(event: OrderPlaced) -> None:
        raise ValueError("\x00\ud800" + "x" * 100_000) if event.sku == "a" else Unprintable

    await world.place("a", "b")
    async with world.running():
        await world.caught_up()
    long, unprintable = world.effects.letters
    assert len(long.error_message) <= 4_000
    assert len(long.traceback) <= 16_000
    assert "\x00" not in long.error_message
    assert "no readable message" in unprintable.error_message


def test_delays_grow_to_their_maximum() -> None:
    policy = RetryPolicy(first_delay_seconds=1, delay_factor=2, delay_seconds_max=10, jitter=0)
    assert [policy.delay_seconds(n, SeededRandomness(1)) for n in (1, 2, 3, 4, 5, 100_000)] == [1, 2, 4, 8, 10, 10]
    jittered = RetryPolicy(first_delay_seconds=1, jitter=0.5)
    assert 0.5 <= jittered.delay_seconds(1, SeededRandomness(1)) <= 1.5
    with pytest.raises(ConfigurationError):
        RetryPolicy(attempts_max=0)


@pytest.mark.parametrize(("conflicts", "is_given_up"), [(7, False), (100, True)])
async def test_a_conflict_is_tried_longer_than_a_fault_but_not_for_ever(conflicts: int, is_given_up: bool) -> None:
    """Others may be first more often than a handler may fail; a version that never comes is the handler's own mistake."""
    world = World(partition_count=1, retry_policy=replace(IN_PLACE, attempts_max=2))
    tries = 0

    @world.subscriptions.on(OrderPlaced)
    async def reserve(event: OrderPlaced, context: Context) -> None:
        nonlocal tries
        tries += 1
        if tries <= conflicts:
            raise WrongExpectedVersion(stream_name="stock-a", expected="version 3", actual_version=4)
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))

    await world.place("a")
    async with world.running():
        await world.caught_up()
    assert await world.effects.dead_letters.count() == int(is_given_up)
    assert bool(world.stream_names("stock")) is not is_given_up

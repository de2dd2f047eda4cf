"""Parked keys on memory doubles: what waits, what goes on, who decides, and what a crash leaves."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from headwater.bus import (
    ConsumerLimits,
    Context,
    DeadLetterIt,
    EffectsRefused,
    MessageDeadLettered,
    Park,
    RetryPolicy,
    Skip,
    Stop,
)
from headwater.errors import TransactionConflict, WrongExpectedVersion
from headwater.kafka import Partition
from headwater.messages import ANY, NewEvent
from headwater.testing.memory_effects import MemoryEffects, MemoryTransaction
from headwater.testing.memory_parked import MemoryParkedKey
from tests.unit.bus.world import OrderPlaced, StockReserved, World

ORDER_0 = Partition("order", 0)
QUICK = RetryPolicy(attempts_max=2, jitter=0.0)
STEADY = Park(first_delay_seconds=1.0, delay_factor=2.0, delay_seconds_max=8.0, jitter=0.0)


class Shop(World):
    """One handler that reserves stock, and fails for as long as somebody says so."""

    def __init__(self, *, partition_count: int = 1, on: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(partition_count=partition_count, **{"retry_policy": replace(QUICK, then=STEADY), **options})
        self.broken: dict[str, Exception] = {}
        """By the stream's name, or by the sku."""
        self.entered, self.gate = asyncio.Event(), asyncio.Event()
        self.gate.set()

        @self.subscriptions.on(OrderPlaced, **(on or {}))
        async def reserve(event: OrderPlaced, context: Context) -> None:
            self.handled.append(event.sku)
            self.entered.set()
            await self.gate.wait()
            await context.append(f"stock-{context.stream_name}", StockReserved(sku=event.sku))
            error = self.broken.get(event.sku) or self.broken.get(context.stream_name)
            if error is not None:
                raise error

    def reserved(self, stream: str) -> list[str]:
        return [json.loads(event.data)["sku"] for event in self.store.events if event.stream_name == f"stock-{stream}"]

    @property
    def parked(self) -> list[MemoryParkedKey]:
        return list(self.effects.parking.keys.values())

    def waiting(self) -> dict[str, list[int]]:
        """Offsets by key."""
        return {row.state.key: [record.offset for record in row.records] for row in self.parked}

    async def freed(self) -> None:
        await self.caught_up()
        await self.until(lambda: not self.parked)


async def test_a_message_that_keeps_failing_holds_up_its_own_key_and_nothing_else() -> None:
    shop = Shop()
    shop.broken["order-bad"] = ValueError("no")
    for number in range(5):
        await shop.place(f"bad{number}", stream="order-bad")
        await shop.place(f"good{number}", stream=f"order-{number}")
    async with shop.running() as consumer:
        await shop.caught_up()
        assert shop.clock.monotonic() < 0.5, "the partition waited for the quick attempts, and no longer"
        assert [shop.reserved(f"order-{number}") for number in range(5)] == [[f"good{number}"] for number in range(5)]
        assert shop.waiting() == {"order-bad": [0, 2, 4, 6, 8]}
        assert shop.handled.count("bad0") == 2, "once in its batch, once alone"
        assert not set(shop.handled) & {"bad1", "bad2", "bad3", "bad4"}, "they wait their turn"
        (status,) = consumer.status()
        assert (status.state, status.parked_keys, status.parked_messages) == ("working", 1, 5)
        await shop.place("bad5", stream="order-bad")
        await shop.caught_up()
        shop.broken.clear()
        await shop.freed()
        await shop.place("bad6", stream="order-bad")
        await shop.caught_up()
        assert consumer.status()[0].parked_keys == 0
    assert shop.reserved("order-bad") == [f"bad{number}" for number in range(7)]
    assert shop.effects.letters == []


async def test_the_delays_grow_until_the_attempts_are_used_up_and_the_others_follow_in_order() -> None:
    shop = Shop(retry_policy=replace(QUICK, then=replace(STEADY, attempts_max=4)))
    shop.broken["first"] = ValueError("always")
    await shop.place("first", "second", "third", stream="order-a")
    async with shop.running():
        await shop.freed()
    assert shop.reserved("order-a") == ["second", "third"]
    (letter,) = shop.effects.letters
    assert letter.attempts == 2 + 4
    assert (letter.last_failed_at - letter.first_failed_at).total_seconds() == pytest.approx(0.02 + 1 + 2 + 4 + 8)
    assert (letter.error_type, letter.error_message, letter.offset) == ("ValueError", "always", 0)
    assert "in reserve" in letter.traceback


async def test_parking_is_per_handler() -> None:
    shop = Shop()
    seen: list[str] = []

    @shop.subscriptions.on(OrderPlaced)
    async def look(event: OrderPlaced, context: Context) -> None:
        seen.append(event.sku)
        await context.append(f"stock-seen{event.sku}", StockReserved(sku=event.sku))

    shop.broken["order-a"] = ValueError("no")
    await shop.place("1", "2", "3", stream="order-a")
    async with shop.running():
        await shop.caught_up()
        assert shop.stream_names("stock") == ["stock-seen1", "stock-seen2", "stock-seen3"]
        assert shop.reserved("order-a") == []
        shop.broken.clear()
        await shop.freed()
    assert shop.reserved("order-a") == ["1", "2", "3"]
    assert seen == ["1", "2", "3"]
    assert len(shop.stream_names("stock")) == 6


async def test_a_follower_that_fails_becomes_the_first_with_attempts_of_its_own() -> None:
    shop = Shop(retry_policy=replace(QUICK, then=replace(STEADY, attempts_max=2)))
    shop.broken |= {"order-a": ValueError("first"), "3": ValueError("third")}
    await shop.place("1", "2", "3", "4", stream="order-a")
    async with shop.running():
        await shop.caught_up()
        del shop.broken["order-a"]
        await shop.until(lambda: shop.waiting() == {"order-a": [2, 3]})
        assert shop.reserved("order-a") == ["1", "2"]
        await shop.freed()
    assert shop.reserved("order-a") == ["1", "2", "4"]
    (letter,) = shop.effects.letters
    assert (letter.offset, letter.attempts, letter.error_message) == (2, 2 + 2, "third")


async def test_a_key_may_stay_stopped_until_somebody_asks_for_a_retry() -> None:
    shop = Shop(on={"retry": replace(QUICK, then=replace(STEADY, attempts_max=1, when_exhausted="stop_key"))})
    shop.broken["order-a"] = ValueError("no")
    await shop.place("1", "2", stream="order-a")
    async with shop.running():
        await shop.until(lambda: shop.parked and shop.parked[0].state.is_stopped)
        tries = len(shop.handled)
        await shop.clock.advance(300)
        assert len(shop.handled) == tries
        shop.effects.parking.request(1, "retry")
        await shop.until(lambda: len(shop.handled) > tries)
        await shop.until(lambda: shop.parked[0].request is None)
        assert shop.parked[0].state.is_stopped, "it failed again, and its attempts were used up before"
        shop.broken.clear()
        shop.effects.parking.request(1, "retry")
        await shop.freed()
    assert shop.reserved("order-a") == ["1", "2"]
    assert shop.effects.letters == []


@pytest.mark.parametrize(("kind", "letter_count"), [("skip", 1), ("discard", 0)])
async def test_skipping_or_discarding_the_first_message_lets_the_others_go_on(kind: Any, letter_count: int) -> None:
    shop = Shop()
    shop.broken["1"] = ValueError("no")
    await shop.place("1", "2", "3", stream="order-a")
    async with shop.running():
        await shop.caught_up()
        shop.effects.parking.request(1, kind)
        await shop.freed()
    assert shop.reserved("order-a") == ["2", "3"]
    assert [(letter.offset, letter.is_skipped) for letter in shop.effects.letters] == [(0, True)] * letter_count


async def test_a_decision_about_a_message_that_was_handled_meanwhile_does_not_hit_the_next() -> None:
    shop = Shop()
    shop.broken |= {"1": ValueError("no"), "2": ValueError("no")}
    await shop.place("1", "2", "3", stream="order-a")
    async with shop.running():
        await shop.caught_up()
        shop.effects.parking.request(1, "skip")
        request = shop.parked[0].request
        shop.parked[0].request = None
        del shop.broken["1"]
        await shop.until(lambda: shop.waiting() == {"order-a": [1, 2]})
        shop.parked[0].request = request
        await shop.until(lambda: shop.parked[0].request is None)
        assert shop.waiting() == {"order-a": [1, 2]}
        del shop.broken["2"]
        await shop.freed()
    assert shop.reserved("order-a") == ["1", "2", "3"]


class PaymentDown(Exception): ...


class CardDeclined(PaymentDown): ...


async def test_each_kind_of_error_gets_what_the_decorator_says() -> None:
    on_error = {
        PaymentDown: replace(STEADY, first_delay_seconds=5.0),
        CardDeclined: DeadLetterIt(),
        KeyError: Skip(),
        OSError: RetryPolicy(attempts_max=4, first_delay_seconds=0.5, delay_factor=1.0, jitter=0.0, then=DeadLetterIt()),
    }
    shop = Shop(on={"on_error": on_error})
    shop.broken |= {
        "down": PaymentDown("x"),
        "declined": CardDeclined("x"),
        "key": KeyError("x"),
        "os": OSError("x"),
        "other": ValueError(),
    }
    await shop.place("down", "declined", "key", "os", "other", "fine")
    async with shop.running():
        await shop.caught_up()
        assert {sku: shop.handled.count(sku) for sku in ("declined", "key", "down")} == {"declined": 1, "key": 1, "down": 1}
        assert shop.handled.count("os") == 4 + 0
        assert sorted(shop.waiting()) == ["order-down", "order-other"]
        assert shop.parked[0].state.attempts == 1
        await shop.until(lambda: shop.handled.count("down") == 2)
        assert shop.clock.monotonic() >= 5
    assert [letter.stream_name for letter in shop.effects.letters] == ["order-declined", "order-os"]
    assert shop.reserved("order-fine") == ["fine"]


async def test_stop_stops_the_partition_until_it_is_claimed_again() -> None:
    shop = Shop(partition_count=2, on={"on_error": {PaymentDown: Stop()}})
    await shop.place(*"abcdefgh")
    await shop.topics.relay()
    stopped = ORDER_0
    records = shop.topics.records(stopped, 0, 100)
    victim = json.loads(records[1].value or b"")["sku"]
    shop.broken[victim] = PaymentDown("worse")
    async with shop.running() as consumer:
        await shop.caught_up(gave_up_on={stopped})
        await shop.until(lambda: any(s.state == "stopped" for s in consumer.status()))
        await shop.clock.advance(100)
        row = shop.effects.position("shop", stopped)
        assert row is not None
        assert row.next_offset == 1
        assert "PaymentDown" in str(next(s.reason for s in consumer.status() if s.partition == stopped))
    shop.broken.clear()
    async with shop.running():
        await shop.caught_up()
    assert sorted(shop.stream_names("stock")) == [f"stock-order-{sku}" for sku in "abcdefgh"]


async def test_data_that_never_fits_is_a_dead_letter_at_once_behind_what_is_parked() -> None:
    shop = Shop()
    shop.broken["order-a"] = ValueError("no")
    await shop.place("1", stream="order-a")
    await shop.store.append("order-a", [NewEvent(type="OrderPlaced", data='{"sku": ["bad"]}')], expected_version=ANY)
    await shop.place("3", stream="order-a")
    async with shop.running():
        await shop.caught_up()
        assert shop.effects.letters == []
        shop.broken.clear()
        await shop.freed()
    assert shop.reserved("order-a") == ["1", "3"]
    assert [letter.error_type for letter in shop.effects.letters] == ["headwater.errors.InvalidEvent"]


@pytest.mark.parametrize("error", [TransactionConflict("deadlock"), WrongExpectedVersion(stream_name="x", expected="1", actual_version=2)])
async def test_what_a_parked_message_is_not_to_blame_for_does_not_count(error: Exception) -> None:
    shop = Shop()
    shop.broken["order-a"] = ValueError("no")
    await shop.place("1", "2", stream="order-a")
    async with shop.running():
        await shop.caught_up()
        attempts = shop.parked[0].state.attempts
        shop.broken["order-a"] = error
        tries = len(shop.handled)
        await shop.until(lambda: len(shop.handled) >= tries + 5)
        assert shop.parked[0].state.attempts == attempts
        shop.broken.clear()
        await shop.freed()
    assert shop.reserved("order-a") == ["1", "2"]


async def test_a_follower_whose_work_cannot_be_committed_is_found_and_blamed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory has no aborted transactions, so one is played: the transaction is refused while a message named poison is in it."""
    shop = Shop(retry_policy=replace(QUICK, then=replace(STEADY, attempts_max=1)))
    shop.broken["1"] = ValueError("no")
    require_open = MemoryTransaction.require_open

    def refusing(self: MemoryTransaction) -> None:
        require_open(self)
        if any("poison" in event.data for _, events, _ in self._appends for event in events):
            raise EffectsRefused("left aborted")

    await shop.place("1", "2", "poison", "4", stream="order-a")
    async with shop.running():
        await shop.caught_up()
        monkeypatch.setattr(MemoryTransaction, "require_open", refusing)
        shop.broken.clear()
        await shop.freed()
    assert shop.reserved("order-a") == ["1", "2", "4"]
    (letter,) = shop.effects.letters
    assert (letter.offset, letter.error_message.partition(":")[0]) == (2, "left aborted")


async def test_many_followers_do_not_hold_up_what_comes_in_meanwhile() -> None:
    shop = Shop(limits=ConsumerLimits(parked_batch_size_max=1))
    shop.broken["order-a"] = ValueError("no")
    await shop.place(*[str(number) for number in range(60)], stream="order-a")
    async with shop.running():
        await shop.caught_up()
        shop.broken.clear()
        await shop.until(lambda: len(shop.reserved("order-a")) >= 1)
        await shop.place("other", stream="order-b")
        for _ in range(2_000):
            if shop.reserved("order-b"):
                break
            await asyncio.sleep(0)
        assert shop.reserved("order-b") == ["other"]
        assert 0 < len(shop.reserved("order-a")) < 60, "in between"
        await shop.freed()
    assert shop.reserved("order-a") == [str(number) for number in range(60)]


async def _latencies(*, poisoned: bool) -> list[float]:
    """Seconds from append to effect of 1,000 streams with two events each, at 500 a second, in milliseconds' steps of a held clock."""
    shop = World(partition_count=3, limits=ConsumerLimits(idle_seconds=0.004), retry_policy=RetryPolicy(jitter=0.0))
    placed_at, latencies, poison, is_mended = dict[str, float](), dict[str, float](), list[str](), not poisoned

    @shop.subscriptions.on(OrderPlaced)
    async def note(event: OrderPlaced, context: Context) -> None:
        if context.stream_name == "order-7":
            if not is_mended:
                raise ValueError("poison")
            poison.append(event.sku)
        else:
            # The later time, where it shared a batch with the poison.
            latencies[event.sku] = shop.clock.monotonic() - placed_at[event.sku]

    async with shop.running():
        for number in range(2_000):
            sku = str(number)
            placed_at[sku] = shop.clock.monotonic()
            await shop.place(sku, stream=f"order-{number % 1_000}")
            await shop.clock.advance(0.002)
        await shop.caught_up()
        if poisoned:
            assert poison == []
            is_mended = True
            shop.effects.parking.request(1, "retry")
        await shop.until(lambda: len(poison) == 2)
    assert poison == ["7", "1007"]
    assert len(latencies) == 1_998
    return sorted(latencies.values())


async def test_poison_among_a_thousand_streams_delays_its_own_alone_and_goes_on_in_order_once_asked() -> None:
    clean, poisoned = await _latencies(poisoned=False), await _latencies(poisoned=True)
    p99 = int(len(clean) * 0.99)
    assert poisoned[p99] <= 1.5 * clean[p99], (clean[p99], poisoned[p99])


# -- limits ------------------------------------------------------------------------------------------------------------


async def test_when_too_many_keys_would_be_parked_the_partition_waits_and_loses_nothing() -> None:
    shop = Shop(limits=ConsumerLimits(parked_keys_max=3))
    shop.broken |= {f"order-{number}": ValueError("no") for number in range(5)}
    await shop.place("a", "b", stream="order-fine")
    for number in range(5):
        await shop.place(f"{number}", stream=f"order-{number}")
    await shop.place("c", stream="order-fine")
    async with shop.running() as consumer:
        await shop.until(lambda: len(shop.parked) == 3 and [s.state for s in consumer.status()] == ["waiting"])
        await shop.clock.advance(20)
        assert len(shop.parked) == 3
        assert shop.reserved("order-fine") == ["a", "b"]
        shop.broken.clear()
        await shop.caught_up()
        await shop.freed()
    assert shop.reserved("order-fine") == ["a", "b", "c"]
    assert [shop.reserved(f"order-{number}") for number in range(5)] == [[str(number)] for number in range(5)]
    assert shop.effects.letters == []


async def test_when_too_many_messages_would_wait_the_partition_waits_and_keeps_their_order() -> None:
    shop = Shop(limits=ConsumerLimits(parked_messages_max=3))
    shop.broken["order-a"] = ValueError("no")
    for number in range(8):
        await shop.place(f"a{number}", stream="order-a")
        await shop.place(f"b{number}", stream="order-b")
    async with shop.running() as consumer:
        await shop.until(lambda: [s.state for s in consumer.status()] == ["waiting"] and shop.waiting() == {"order-a": [0, 2, 4]})
        await shop.clock.advance(20)
        assert shop.waiting() == {"order-a": [0, 2, 4]}
        assert shop.reserved("order-b") == ["b0", "b1", "b2"]
        shop.broken.clear()
        await shop.caught_up()
        await shop.freed()
    assert shop.reserved("order-a") == [f"a{number}" for number in range(8)]
    assert shop.reserved("order-b") == [f"b{number}" for number in range(8)]


async def test_nothing_is_asked_while_nothing_is_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop()
    asked = 0

    async def count(self: MemoryEffects, group: str, partitions: object) -> list[Any]:
        nonlocal asked
        asked += 1
        return []

    monkeypatch.setattr(MemoryEffects, "parked_requests", count)
    async with shop.running():
        for number in range(20):
            await shop.place(f"{number}")
            await shop.caught_up()
            await shop.clock.advance(5)
    assert asked == 0


# -- owners ------------------------------------------------------------------------------------------------------------


async def test_a_restart_goes_on_where_the_other_left_off_and_when_it_was_due() -> None:
    shop = Shop(retry_policy=replace(QUICK, then=replace(STEADY, first_delay_seconds=100.0, delay_seconds_max=100.0)))
    shop.broken["order-a"] = ValueError("no")
    await shop.place("1", "2", stream="order-a")
    async with shop.running():
        await shop.caught_up()
    shop.broken.clear()
    await shop.place("3", stream="order-a")
    await shop.clock.advance(40)
    async with shop.running() as consumer:
        await shop.caught_up()
        assert shop.waiting() == {"order-a": [0, 1, 2]}
        assert consumer.status()[0].parked_messages == 3
        await shop.freed()
        assert 100 <= shop.clock.monotonic() < 102
    assert shop.reserved("order-a") == ["1", "2", "3"]


async def test_a_zombie_neither_retries_nor_frees_what_its_successor_owns() -> None:
    shop = Shop()
    shop.broken["order-a"] = ValueError("no")
    await shop.place("1", "2", stream="order-a")
    zombie, _ = shop.member()
    async with shop.running(zombie):
        await shop.caught_up()
        shop.broken.clear()
        shop.entered.clear()
        shop.gate.clear()
        await shop.until(shop.entered.is_set)
        row = shop.effects.position("shop", ORDER_0)
        assert row is not None
        # As the database would see it: somebody claims while the zombie's handler is at work.
        shop.effects.set_position("shop", replace(row, epoch=row.epoch + 1))
        shop.gate.set()
        await shop.until(lambda: zombie.status()[0].state == "lost")
        assert shop.waiting() == {"order-a": [0, 1]}
        assert shop.reserved("order-a") == []
    async with shop.running():
        await shop.freed()
    assert shop.reserved("order-a") == ["1", "2"]


async def test_the_messages_of_a_handler_that_is_not_here_are_left_alone() -> None:
    shop = Shop()
    shop.broken["order-a"] = ValueError("no")
    await shop.place("1", "2", stream="order-a")
    async with shop.running():
        await shop.caught_up()
    other = World(partition_count=1)
    other.effects, other.store, other.topics, other.clock = shop.effects, shop.store, shop.topics, shop.clock

    @other.subscriptions.on(OrderPlaced)
    async def another(event: OrderPlaced) -> None: ...

    async with other.running():
        await shop.clock.advance(300)
        shop.effects.parking.request(1, "retry")
        await shop.clock.advance(10)
        assert shop.waiting() == {"order-a": [0, 1]}, "an older version of the service must not decide for a newer one"
        shop.effects.parking.request(1, "discard")
        await shop.until(lambda: shop.waiting() == {"order-a": [1]})
    shop.broken.clear()
    async with shop.running():
        await shop.freed()
    assert shop.reserved("order-a") == ["2"]


# -- copies of dead letters --------------------------------------------------------------------------------------------


class OrderTrouble(MessageDeadLettered, category="trouble"): ...


async def test_dead_letters_are_copied_to_a_topic_and_their_own_failure_ends_there() -> None:
    shop = Shop(on={"on_error": {ValueError: DeadLetterIt()}, "copy_dead_letters_to": OrderTrouble})
    shop.broken["bad"] = ValueError("no")
    copies: list[OrderTrouble] = []

    @shop.subscriptions.on(OrderTrouble, on_error={ValueError: DeadLetterIt()}, copy_dead_letters_to=OrderTrouble)
    async def hear(event: OrderTrouble) -> None:
        copies.append(event)
        raise ValueError("cannot hear it")

    await shop.place("fine", "bad")
    async with shop.running():
        await shop.caught_up()
        await shop.until(lambda: len(shop.effects.letters) == 2)
        await shop.caught_up()
    (copied,) = [event for event in shop.store.events if event.category == "trouble"]
    assert copied.stream_name == "trouble-order-bad"
    (copy,) = copies
    assert (copy.group, copy.message_type, copy.error_message, copy.stream_name) == ("shop", "OrderPlaced", "no", "order-bad")
    assert '"bad"' in str(copy.data)
    assert [letter.event_type for letter in shop.effects.letters] == ["OrderPlaced", "OrderTrouble"]


async def test_a_copy_that_cannot_be_appended_costs_neither_the_letter_nor_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(on={"on_error": {ValueError: DeadLetterIt()}}, copy_dead_letters_to=OrderTrouble)
    shop.broken["bad"] = ValueError("no")
    append = MemoryTransaction.append

    async def refusing(self: MemoryTransaction, stream_name: str, events: Any, **options: Any) -> Any:
        if stream_name.startswith("trouble"):
            raise ValueError("too large")
        return await append(self, stream_name, events, **options)

    monkeypatch.setattr(MemoryTransaction, "append", refusing)
    await shop.place("bad", "fine")
    async with shop.running():
        await shop.caught_up()
    assert [letter.stream_name for letter in shop.effects.letters] == ["order-bad"]
    assert shop.reserved("order-fine") == ["fine"]

"""Parking, followed through crashes at every step and through seeded histories, and compared with a model: every effect once, in order per key."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from dataclasses import replace

import pytest

from headwater.bus import ConsumerLimits, Context, Park, RetryPolicy, Subscriptions
from headwater.kafka import Partition
from tests.support import full_count
from tests.unit.bus.world import OrderPlaced, StockReserved, World

SEEDS = full_count(12, 200)
TURNS_MAX = 5_000
CUT_OFF = ConsumerLimits(shutdown_seconds_max=0.0, parked_batch_size_max=3, batch_size_max=7)
POLICY = RetryPolicy(attempts_max=2, jitter=0.0, then=Park(attempts_max=3, first_delay_seconds=0.5, delay_factor=2.0, jitter=0.0))


class Story(World):
    """Two handlers over some keys; `failures` says how often each of them is to fail at a message, which survives crashes."""

    def __init__(self, *, partition_count: int = 1, policy: RetryPolicy = POLICY, limits: ConsumerLimits = CUT_OFF, lanes: int = 0) -> None:
        super().__init__(partition_count=partition_count, retry_policy=policy, limits=limits)
        self.failures: dict[tuple[str, str], int] = {}
        self.events: dict[str, list[str]] = {}
        self.subscribe(lanes)

    def subscribe(self, lanes: int) -> None:
        """What members that start from now on have: the first handler in so many lanes, or in batches like the second."""
        self.subscriptions = Subscriptions()

        @self.subscriptions.on(OrderPlaced, lanes=lanes)
        async def first(event: OrderPlaced, context: Context) -> None:
            await self.act("first", event, context)

        @self.subscriptions.on(OrderPlaced)
        async def second(event: OrderPlaced, context: Context) -> None:
            await self.act("second", event, context)

    async def act(self, handler: str, event: OrderPlaced, context: Context) -> None:
        await context.append(f"stock-{handler}.{context.stream_name}", StockReserved(sku=event.sku))
        await asyncio.sleep(0)
        left = self.failures.get((handler, event.sku), 0)
        if left > 0:
            self.failures[handler, event.sku] = left - 1
            raise ValueError(f"{handler} cannot take {event.sku}")

    async def happen(self, key: str, sku: str) -> None:
        self.events.setdefault(f"order-{key}", []).append(sku)
        await self.place(sku, stream=f"order-{key}")

    async def finish(self) -> None:
        """Without a crash from now on."""
        async with self.running():
            await self.caught_up()
            await self.until(lambda: not self.effects.parking.keys)

    def check(self) -> int:
        """Compare with the model; returns how many messages were parked or dead at some time, by their traces."""
        dead = {(letter.handler_name.rpartition(".")[2], letter.event_id) for letter in self.effects.letters if letter.handler_name}
        ids = {json.loads(event.data)["sku"]: event.event_id for event in self.store.events if event.category == "order"}
        for handler in ("first", "second"):
            for stream, skus in self.events.items():
                expected = [sku for sku in skus if (handler, ids[sku]) not in dead]
                found = [json.loads(e.data)["sku"] for e in self.store.events if e.stream_name == f"stock-{handler}.{stream}"]
                assert found == expected, f"{handler} of {stream}"
        assert len(dead) == len(self.effects.letters), "one letter for each"
        for letter in self.effects.letters:
            handler = str(letter.handler_name).rpartition(".")[2]
            assert letter.attempts >= POLICY.attempts_max + 3, f"{handler} gave up on {letter.stream_name} too soon"
        return len(dead)

    @property
    def is_done(self) -> bool:
        return all(self.is_applied(partition) for partition in self.partitions) and not self.effects.parking.keys

    async def move_time(self) -> None:
        """Let time pass whenever nobody has anything to do."""
        while True:
            if not await self.clock.advance_to_next_sleeper():
                await asyncio.sleep(0)

    async def cut_off_after(self, turns: int) -> bool:
        """Run a member for so many turns of the event loop and cut it off wherever it is; False where it was done before."""
        consumer, _ = self.member()
        tasks = [asyncio.create_task(consumer.run()), asyncio.create_task(self.move_time())]
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
                if self.is_done:
                    return False
            return True
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


async def _poisoned(story: Story) -> None:
    """A key that parks and comes back, one that parks for one handler and ends as a dead letter, and one in good order."""
    for number in range(3):
        for key in ("heals", "dies", "fine"):
            await story.happen(key, f"{key}{number}")
    story.failures = {("first", "heals0"): 4, ("second", "heals0"): 3, ("first", "dies0"): 99, ("second", "heals2"): 3}
    await story.topics.relay()


@pytest.mark.parametrize("lanes", [0, 2])
async def test_a_crash_at_every_step_repeats_and_loses_nothing(lanes: int) -> None:
    """The member is cut off after one turn of the event loop, after two, and so on until it gets to the end; another one takes over each time."""
    turns, was_cut, step = 0, True, full_count(23, 1)
    while was_cut and turns < TURNS_MAX:
        turns += step
        story = Story(lanes=lanes)
        await _poisoned(story)
        was_cut = await story.cut_off_after(turns)
        await story.finish()
        assert story.check() == 1, f"cut off after {turns} turns"
    assert 100 < turns < TURNS_MAX


@pytest.mark.parametrize("lanes", [0, 1, 5])
async def test_members_that_die_again_and_again_get_to_the_end(lanes: int) -> None:
    story = Story(lanes=lanes)
    await _poisoned(story)
    chance = random.Random(1)
    for _ in range(300):
        if not await story.cut_off_after(chance.randint(1, 200)):
            break
    await story.finish()
    assert story.check() == 1


@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
async def test_seeded_histories_agree_with_the_model(seed: int) -> None:
    """Crashes, lost answers, rebalances, thieves of claims, numbers of lanes that change, and handlers that fail for a while or for ever."""
    chance = random.Random(seed)
    limits = replace(
        CUT_OFF, reclaim_seconds=1.0, parked_keys_max=chance.choice([2, 1_000]), parked_messages_max=chance.choice([6, 10_000])
    )
    lanes = [0] if chance.random() < 0.4 else [chance.randint(0, 5) for _ in range(chance.randint(1, 3))]
    story = Story(partition_count=2, limits=limits)
    keys = [f"k{number}" for number in range(chance.randint(2, 8))]
    for _ in range(12):
        for _ in range(chance.randint(1, 12)):
            sku = f"{len(story.store.events)}"
            await story.happen(chance.choice(keys), sku)
            if chance.random() < 0.2:
                story.failures[chance.choice(["first", "second"]), sku] = chance.choice([1, 2, 3, 4, 99])
        await story.topics.relay()
        story.subscribe(chance.choice(lanes))
        story.effects.lose_next_answer = chance.random() < 0.3
        if chance.random() < 0.3:
            await _rebalanced(story, chance)
        else:
            await story.cut_off_after(chance.randint(1, 400))
        if chance.random() < 0.3:
            _steal(story, chance)
    await story.finish()
    story.check()


async def _rebalanced(story: Story, chance: random.Random) -> None:
    """Two members; a partition moves from one to the other while they work."""
    one, one_source = story.member(share=[story.partitions[0], story.partitions[1]])
    other, other_source = story.member(share=[])
    mover = asyncio.create_task(story.move_time())
    async with story.running(one), story.running(other):
        while not (one_source.open_count and other_source.open_count):
            await asyncio.sleep(0)
        for _ in range(chance.randint(1, 300)):
            await asyncio.sleep(0)
        moved = [chance.choice(story.partitions)]
        await one_source.revoke(moved)
        await other_source.assign(moved)
        for _ in range(chance.randint(1, 300)):
            await asyncio.sleep(0)
            if chance.random() < 0.01:
                _steal(story, chance)
        mover.cancel()


def _steal(story: Story, chance: random.Random) -> None:
    """Somebody else claims a partition and dies."""
    partition = Partition("order", chance.randrange(2))
    row = story.effects.position("shop", partition)
    if row is not None:
        story.effects.set_position("shop", replace(row, epoch=row.epoch + 1))

"""A consumer between a real broker and a real database."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from headwater.bus import (
    ConsumerLimits,
    Context,
)
from headwater.errors import NotFoundError
from headwater.messages import NewEvent
from headwater.testing import eventually
from tests.integration.bus.feeding import Feeder
from tests.integration.bus.shop import Shop, StockReserved, note


async def test_events_arrive_once_and_in_order_over_restarts(shop: Shop, feeder: Feeder) -> None:
    note(shop)
    expected: list[str] = []
    for round_number in range(3):
        facts = [shop.fact(n % 5, f"{round_number}.{n}") for n in range(100)]
        await feeder.feed(*facts)
        expected += [event.sku for _, event in facts]  # type: ignore[attr-defined]
        async with shop.running():
            await eventually(lambda: _is_all(shop, feeder), timeout=30)
    skus = await shop.skus()
    assert sorted(skus) == sorted(expected)
    for stream in range(5):
        mine = [sku for sku in expected if int(sku.partition(".")[2]) % 5 == stream]
        assert [sku for sku in skus if int(sku.partition(".")[2]) % 5 == stream] == mine


async def _is_all(shop: Shop, feeder: Feeder) -> bool:
    return await shop.applied() == len(feeder.sent)


async def _is(answer: Any, value: object) -> bool:
    return bool(await answer == value)


async def test_two_members_share_the_partitions_and_hand_over(shop: Shop, feeder: Feeder) -> None:
    note(shop)
    async with shop.running() as first:
        await feeder.feed(*[shop.fact(n, f"a{n}") for n in range(50)])
        await eventually(lambda: _is(shop.applied(), 50), timeout=30)
        async with shop.running() as second:
            await eventually(lambda: first.status() and second.status() and len(first.status()) + len(second.status()) == 3, timeout=30)
            await feeder.feed(*[shop.fact(n, f"b{n}") for n in range(50)])
            await eventually(lambda: _is(shop.applied(), 100), timeout=30)
        await feeder.feed(*[shop.fact(n, f"c{n}") for n in range(50)])
        await eventually(lambda: _is(shop.applied(), 150), timeout=30)
    skus = await shop.skus()
    assert len(skus) == len(set(skus)) == 150


async def test_failing_messages_become_dead_letters_and_the_rest_goes_on(shop: Shop, feeder: Feeder) -> None:
    attempts = 0

    @shop.subscriptions.on(shop.placed)
    async def picky(event: Any, context: Context) -> None:
        nonlocal attempts
        await context.connection.execute("INSERT INTO effects (sku) VALUES ($1)", event.sku)
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))
        await context.publish("StockReserved", {"sku": event.sku}, key="k")
        if event.sku == "poison":
            attempts += 1
            raise ValueError("never \x00 this")

    @shop.subscriptions.on(shop.placed)
    async def easy(event: Any, context: Context) -> None:
        await context.connection.execute("INSERT INTO effects (sku) VALUES ($1)", f"easy {event.sku}")

    await feeder.feed(*[shop.fact(1, sku) for sku in ["a", "b", "poison", "c"]])
    await feeder.feed_raw(shop.category, 0, key=b"foreign", value=b"\x00\xff")
    await feeder.feed((f"{shop.category}-1", NewEvent(type="OrderPlaced", data='{"sku": 5}')), shop.fact(1, "d"))
    async with shop.running():
        await eventually(lambda: _is(shop.applied(), 7), timeout=30)
    assert attempts == 3
    assert sorted(await shop.skus()) == sorted([*"abcd", *(f"easy {sku}" for sku in ["a", "b", "poison", "c", "d"])])
    assert await shop.store.stream_version("stock-poison") == 0
    assert await shop.store.stream_version("stock-d") == 1
    letters = {letter.error_type: letter for letter in await shop.dead_letters.list()}
    assert await shop.dead_letters.count() == 4  # poison once, foreign once, unfit for both handlers
    poison = letters["ValueError"]
    assert poison.attempts == 3
    assert poison.error_message == "never \\0 this"
    assert poison.data == feeder.sent[2].data
    assert poison.metadata == feeder.sent[2].metadata
    assert poison.recorded_at == feeder.sent[2].recorded_at
    assert (await shop.dead_letters.get(poison.dead_letter_id or 0)) == poison
    assert letters["headwater.errors.NotAnEnvelope"].raw is not None
    with pytest.raises(NotFoundError):
        await shop.dead_letters.get(10**9)


@pytest.mark.parametrize("offence", ["swallowed", "deferred", "committed", "undone", "left running"])
async def test_whoever_spoils_the_transaction_is_found_and_nobody_else_suffers(
    shop: Shop, feeder: Feeder, offence: str, lost_exceptions: list[str]
) -> None:
    @shop.subscriptions.on(shop.placed)
    async def spoiler(event: Any, context: Context) -> None:
        connection = context.connection
        if event.sku != "spoiler":
            return
        match offence:
            case "swallowed":
                with suppress(Exception):
                    await connection.execute("SELECT 1/0")
            case "deferred":
                await connection.execute("INSERT INTO strict VALUES ('same'), ('same')")
            case "committed":
                await connection.execute("COMMIT")
            case "undone":
                await connection.execute("ROLLBACK")
            case _:
                task = asyncio.create_task(connection.execute("SELECT pg_sleep(0.2)"))
                await asyncio.sleep(0.05)
                leftovers.append(task)

    leftovers: list[asyncio.Task[str]] = []
    note(shop)
    await feeder.feed(*[shop.fact(1, sku) for sku in [*"abcdefg", "spoiler", *"hij"]])
    async with shop.running():
        await eventually(lambda: _is(shop.applied(), 11), timeout=30)
    skus = await shop.skus()
    await asyncio.gather(*leftovers, return_exceptions=True)
    if offence == "committed":  # what came before it in the batch was committed by the handler itself: no framework can take that back
        skus = skus[skus.index("g") + 1 :]
    assert skus == [*"abcdefg", "spoiler", *"hij"]  # the other handler's effect on the message is kept
    (letter,) = await shop.dead_letters.list()
    assert str(letter.handler_name).endswith("spoiler")
    assert letter.error_type.endswith("EffectsRefused")
    if offence == "left running":
        lost_exceptions.clear()  # asyncpg tells the loop that it had to drop a connection in the middle of a transaction


async def test_a_deadlock_is_not_the_messages_fault(shop: Shop, feeder: Feeder) -> None:
    remaining = 5

    @shop.subscriptions.on(shop.placed)
    async def unlucky(event: Any, context: Context) -> None:
        nonlocal remaining
        await context.connection.execute("INSERT INTO effects (sku) VALUES ($1)", event.sku)
        if remaining:
            remaining -= 1
            await context.connection.execute("DO $$ BEGIN RAISE deadlock_detected; END $$")

    await feeder.feed(shop.fact(1, "a"))
    async with shop.running():
        await eventually(lambda: _is(shop.applied(), 1), timeout=30)
    assert await shop.skus() == ["a"]
    assert await shop.dead_letters.count() == 0


async def test_connections_that_postgres_ends_are_waited_out(shop: Shop, feeder: Feeder) -> None:
    note(shop)
    async with shop.running():
        for number in range(5):
            await feeder.feed(*[shop.fact(n, f"{number}.{n}") for n in range(40)])
            async with shop.database.connection() as connection:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
        await eventually(lambda: _is(shop.applied(), 200), timeout=30)
    skus = await shop.skus()
    assert len(skus) == len(set(skus)) == 200
    assert await shop.dead_letters.count() == 0


async def test_a_hole_stops_its_partition_alone(shop: Shop, feeder: Feeder) -> None:
    note(shop)
    await feeder.feed(*[shop.fact(n, f"a{n}") for n in range(30)])
    await feeder.feed(shop.fact(0, "lost"), skip=True)
    await feeder.feed(*[shop.fact(n, f"b{n}") for n in range(30)])
    async with shop.running() as consumer:
        await eventually(lambda: [s for s in consumer.status() if s.state == "stopped"], timeout=30)
        await eventually(shop.applied, timeout=30)
        before = await shop.skus()
        assert "lost" not in before
        stopped = [s for s in consumer.status() if s.state == "stopped"]
        assert len(stopped) == 1
        others = [s.partition for s in consumer.status() if s.state != "stopped"]
        assert len(others) == 2


async def test_offsets_that_are_gone_are_never_reset(shop: Shop, feeder: Feeder) -> None:
    note(shop)
    await feeder.feed(*[shop.fact(n, f"a{n}") for n in range(10)])
    async with shop.running():
        await eventually(lambda: _is(shop.applied(), 10), timeout=30)
    async with shop.database.connection() as connection:
        await connection.execute(
            "UPDATE headwater.consumer_positions SET next_offset = next_offset + 1000 WHERE group_name = $1", shop.group
        )
    async with shop.running() as consumer:
        await eventually(lambda: [s.state for s in consumer.status()] == ["stopped"] * 3, timeout=30)
        assert all("lost its tail" in str(s.reason) for s in consumer.status())
    assert len(await shop.skus()) == 10


async def test_a_slow_handler_does_not_hold_locks_for_a_whole_batch(shop: Shop, feeder: Feeder) -> None:
    @shop.subscriptions.on(shop.placed)
    async def slow(event: Any, context: Context) -> None:
        await asyncio.sleep(0.02)
        await context.connection.execute("INSERT INTO effects (sku) VALUES ($1)", event.sku)

    await feeder.feed(*[shop.fact(1, f"{n}") for n in range(30)])
    async with shop.running(limits=ConsumerLimits(batch_seconds_max=0.1)):
        await eventually(shop.applied, timeout=30)
        assert 0 < await shop.applied() < 30  # the first part is committed before the rest is done
        await eventually(lambda: _is(shop.applied(), 30), timeout=30)
    assert await shop.skus() == [f"{n}" for n in range(30)]

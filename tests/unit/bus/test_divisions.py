"""A group that begins after its topic was given more partitions: what came before is handled first, in all of them."""

from __future__ import annotations

import pytest
import structlog

from headwater.bus import ConsumerLimits, Context, TopicDivision
from headwater.kafka import Partition
from headwater.messages import ANY, LogPosition, NewEvent
from tests.unit.bus.world import OrderPlaced, World

STREAMS = 12
ROUNDS = 8


async def divided_world(*, is_known: bool = True) -> World:
    """A topic of one partition, which has three by and by."""
    world = World(partition_count=1, limits=ConsumerLimits(batch_size_max=5))
    log_id = (await world.store.identity()).log_id
    tails: dict[int, LogPosition] = {}
    for count in (1, 2, 3):
        world.topics.partition_count = count
        for number in range(ROUNDS):
            for stream in range(STREAMS):
                sku = str(100 * count + number)
                await world.store.append(f"order-{stream}", [OrderPlaced(sku=sku)], expected_version=ANY)
        await world.topics.relay()
        through = LogPosition(1, world.store.events[-1].global_position)
        if count < 3 and is_known:
            # Every partition has got something in each round, so that the last positions are those of now.
            tails |= {number: world.topics._hold(Partition("order", number)).previous for number in range(count)}
            world.effects.divisions.setdefault("order", []).append(TopicDivision(log_id, through, dict(tails)))
    return world


async def handled_by_stream(world: World, *, lanes: int) -> dict[str, list[int]]:
    @world.subscriptions.on(OrderPlaced, lanes=lanes)
    async def noting(event: OrderPlaced, context: Context) -> None:
        await context.append(f"seen-{context.stream_name}", NewEvent("Seen", f'{{"sku": "{event.sku}"}}'), expected_version=ANY)

    async with world.running():
        await world.caught_up()
    found: dict[str, list[int]] = {}
    for event in world.store.events:
        if event.category == "seen":
            found.setdefault(event.stream_name, []).append(int(OrderPlaced.model_validate_json(event.data).sku))
    return found


@pytest.mark.parametrize("lanes", [0, 4])
async def test_each_stream_is_handled_in_order_over_every_division(lanes: int) -> None:
    world = await divided_world()
    with structlog.testing.capture_logs() as facts:
        found = await handled_by_stream(world, lanes=lanes)
    wanted = [100 * count + number for count in (1, 2, 3) for number in range(ROUNDS)]
    assert found == {f"seen-order-{stream}": wanted for stream in range(STREAMS)}
    names = [fact["event"] for fact in facts]
    assert "waits_at_division" in names
    assert names.count("division_passed") >= 3


async def test_without_the_wait_they_are_not() -> None:
    """What the test above would see."""
    found = await handled_by_stream(await divided_world(is_known=False), lanes=0)
    assert any(skus != sorted(skus) for skus in found.values())


async def test_a_group_that_has_passed_it_waits_no_more() -> None:
    world = await divided_world()
    await handled_by_stream(world, lanes=0)
    await world.place("999", stream="order-1")
    with structlog.testing.capture_logs() as facts:
        async with world.running():
            await world.caught_up()
    assert "waits_at_division" not in [fact["event"] for fact in facts]

"""Handlers of everything in a category: parked, in lanes and in lists like any other, and checked at import."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headwater.bus import BatchContext, Context, Park, RetryPolicy, Subscriptions
from headwater.bus.log_records import log_topic
from headwater.errors import HeadwaterError, UsageError
from headwater.messages import ANY, Event, NewEvent, RecordedEvent
from tests.unit.bus.world import OrderCancelled, OrderPlaced, World

PARKING = RetryPolicy(attempts_max=1, then=Park(first_delay_seconds=5.0, jitter=0.0))


class OrderWithdrawn(Event):
    """A class that nothing here names."""

    sku: str


class ShippingLabel(Event, category="parcel"):
    sku: str


async def place_unknown(world: World, stream: str, sku: str) -> None:
    await world.store.append(stream, [NewEvent("OrderImported", json.dumps({"sku": sku}))], expected_version=ANY)


@pytest.mark.parametrize("lanes", [0, 4])
async def test_a_key_that_fails_is_parked_and_its_messages_follow_in_order(lanes: int) -> None:
    world = World(retry_policy=PARKING)
    failures = 1

    @world.subscriptions.on(category="order", lanes=lanes)
    async def everything(event: RecordedEvent, context: Context) -> None:
        nonlocal failures
        if event.stream_name == "order-a" and failures:
            failures -= 1
            raise ConnectionError("not now")
        await context.append("seen-all", NewEvent(f"Seen{event.type}", json.dumps([event.stream_name, json.loads(event.data)["sku"]])))

    await world.place("1", stream="order-a")
    await place_unknown(world, "order-a", "2")
    await world.place("3", stream="order-a")
    await world.place("1", stream="order-b")
    async with world.running():
        await world.caught_up()
        await world.until(lambda: len(world.stream_names("seen")) == 4)
    seen = [(event.type, *json.loads(event.data)) for event in world.store.events if event.category == "seen"]
    assert seen[0] == ("SeenOrderPlaced", "order-b", "1")
    assert seen[1:] == [("SeenOrderPlaced", "order-a", "1"), ("SeenOrderImported", "order-a", "2"), ("SeenOrderPlaced", "order-a", "3")]
    assert world.effects.letters == []


async def test_lists_of_a_category_and_handlers_of_classes_get_the_same_events_each_once_in_the_order_of_registration() -> None:
    world = World(partition_count=1)

    @world.subscriptions.on(category="order")
    async def listed(events: list[RecordedEvent], context: BatchContext) -> None:
        world.handled += [f"listed {event.type}" for event in events]

    @world.subscriptions.on(category="order")
    async def typed(event: Event, context: Context) -> None:
        world.handled.append(f"typed {type(event).__name__}")

    @world.subscriptions.on(OrderPlaced)
    async def by_class(event: OrderPlaced) -> None:
        world.handled.append(f"by class {event.sku}")

    await world.place("a")
    await world.store.append("order-b", [OrderWithdrawn(sku="b")], expected_version=ANY)
    await world.store.append("parcel-1", [ShippingLabel(sku="c")], expected_version=ANY)
    async with world.running():
        await world.caught_up()
    assert world.handled == ["typed OrderPlaced", "by class a", "typed OrderWithdrawn", "listed OrderPlaced", "listed OrderWithdrawn"]


async def test_an_event_without_a_class_is_a_dead_letter_for_whoever_wants_one() -> None:
    world = World()

    @world.subscriptions.on(category="order")
    async def typed(event: Event) -> None:
        world.handled.append("typed")

    @world.subscriptions.on(category="order")
    async def recorded(event: RecordedEvent) -> None:
        world.handled.append("recorded")

    await place_unknown(world, "order-a", "1")
    async with world.running():
        await world.caught_up()
    assert world.handled == ["recorded"]
    (letter,) = world.effects.letters
    assert str(letter.handler_name).endswith("typed")
    assert "no event class is named 'OrderImported'" in letter.error_message


def test_topics_and_routes_of_a_category_whatever_feeds_it() -> None:
    subscriptions = Subscriptions()

    @subscriptions.on(category="order")
    async def everything(event: RecordedEvent) -> None: ...

    @subscriptions.on(ShippingLabel)
    async def labels(event: ShippingLabel) -> None: ...

    assert subscriptions.topics_with("shop.") == ("shop.order", "shop.parcel")
    for topic in ("shop.order", log_topic("order")):
        assert subscriptions.routes_in(topic, "shop.").find("Anything") is not None
    for topic in ("shop.parcel", log_topic("parcel")):
        assert subscriptions.routes_in(topic, "shop.").find("Anything") is None
        assert subscriptions.routes_in(topic, "shop.").find("ShippingLabel") is not None


async def on_order(event: OrderPlaced) -> None: ...
async def on_either(event: OrderPlaced | OrderCancelled) -> None: ...
async def on_text(events: list[str]) -> None: ...


@pytest.mark.parametrize("function", [on_order, on_either, on_text])
def test_a_handler_that_wants_some_classes_alone_is_told_to_name_them(function: Any) -> None:
    with pytest.raises(UsageError, match=r"everything of the category 'order': annotate .* on\(OrderPlaced, OrderPaid\)"):
        Subscriptions().on(category="order")(function)


@pytest.mark.parametrize(
    ("classes", "category", "message"), [((OrderPlaced,), "order", "leave out one"), ((), "Or der", "has the category 'Or der'")]
)
def test_what_is_no_category_is_refused(classes: tuple[Any, ...], category: str, message: str) -> None:
    with pytest.raises(HeadwaterError, match=message):
        Subscriptions().on_category(category, classes)


def test_type_checkers_refuse_what_import_refuses() -> None:
    """Mypy fails where this need not be ignored any more."""
    with pytest.raises(UsageError):
        Subscriptions().on(category="order")(on_order)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]

"""What stands around handlers: providers, middlewares, unions and base classes."""

from __future__ import annotations

from abc import ABC
from collections.abc import AsyncIterator, Iterator

import pytest

from headwater.bus import BatchContext, CallNext, Context, HandlerCall, Subscriptions, Surroundings, named_classes
from headwater.errors import UsageError
from headwater.messages import Event
from tests.unit.bus.world import OrderCancelled, OrderPlaced, StockReserved, World


class Payments:
    def __init__(self) -> None:
        self.charged: list[str] = []
        self.is_open = True


class Rates:
    pass


class ShipmentEvent(Event, ABC):
    sku: str


class ShipmentSent(ShipmentEvent):
    pass


class ShipmentLost(ShipmentEvent):
    reason: str = ""


async def test_a_handler_is_given_what_a_provider_makes_once() -> None:
    world, surroundings, made = World(partition_count=1), Surroundings(), list[Payments]()

    async def payments() -> AsyncIterator[Payments]:
        one = Payments()
        made.append(one)
        yield one
        one.is_open = False

    surroundings.add_provider(payments)

    @world.subscriptions.on(OrderPlaced)
    async def charge(event: OrderPlaced, context: Context, *, payments: Payments) -> None:
        assert payments.is_open
        payments.charged.append(event.sku)
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))

    @world.subscriptions.on(OrderPlaced)
    async def count(events: list[OrderPlaced], context: BatchContext, *, payments: Payments) -> None:
        payments.charged.append(f"{len(events)} together")

    await world.place(*"ab")
    await world.topics.relay()
    async with surroundings.around(world.subscriptions) as world.subscriptions, world.running():
        await world.caught_up()
    assert [one.charged for one in made] == [["a", "b", "2 together"]]
    assert not made[0].is_open
    assert world.stream_names("stock") == ["stock-a", "stock-b"]


async def test_every_kind_of_function_can_provide() -> None:
    surroundings, subscriptions, given = Surroundings(), Subscriptions(), list[object]()

    def rates() -> Iterator[Rates]:
        yield Rates()
        given.append("closed")

    async def payments() -> Payments:
        return Payments()

    surroundings.add_provider(rates)
    surroundings.add_provider(payments)

    @subscriptions.on(OrderPlaced)
    async def handle(event: OrderPlaced, *, rates: Rates, payments: Payments) -> None:
        given.extend([rates, payments])

    async with surroundings.around(subscriptions) as bound:
        await bound.handlers[0].function(OrderPlaced(sku="a"))
    assert [type(one) for one in given] == [Rates, Payments, str]


async def test_a_test_gives_something_else() -> None:
    surroundings, subscriptions, fake = Surroundings(), Subscriptions(), Payments()

    @surroundings.add_provider
    def payments() -> Payments:
        raise AssertionError("the real one is not made")

    @subscriptions.on(OrderPlaced)
    async def charge(event: OrderPlaced, *, payments: Payments) -> None:
        payments.charged.append(event.sku)

    async with surroundings.around(subscriptions, {Payments: fake}) as bound:
        await bound.handlers[0].function(OrderPlaced(sku="a"))
    assert fake.charged == ["a"]


async def test_handlers_that_need_nothing_are_left_as_they_are() -> None:
    subscriptions = Subscriptions()

    @subscriptions.on(OrderPlaced)
    async def plain(event: OrderPlaced) -> None: ...

    async with Surroundings().around(subscriptions) as bound:
        assert bound is subscriptions


async def test_what_nobody_provides_is_told_when_the_service_opens() -> None:
    subscriptions = Subscriptions()

    @subscriptions.on(OrderPlaced)
    async def charge(event: OrderPlaced, *, payments: Payments) -> None: ...

    with pytest.raises(UsageError, match="needs a Payments, which nobody provides"):
        async with Surroundings().around(subscriptions):
            pass


def test_providers_that_cannot_be_meant_are_refused() -> None:
    surroundings = Surroundings()

    def silent():  # type: ignore[no-untyped-def]
        return Payments()

    def asking(url: str) -> Payments: ...  # type: ignore[empty-body]

    def twice() -> Payments:
        return Payments()

    with pytest.raises(UsageError, match="must say which class"):
        surroundings.add_provider(silent)
    with pytest.raises(UsageError, match="must take nothing"):
        surroundings.add_provider(asking)  # type: ignore[arg-type]
    surroundings.add_provider(twice)
    with pytest.raises(UsageError, match="two providers"):
        surroundings.add_provider(twice)


async def test_middlewares_stand_around_every_call_the_first_outermost() -> None:
    world, surroundings, told = World(partition_count=1), Surroundings(), list[str]()

    async def outer(call: HandlerCall, call_next: CallNext) -> None:
        told.append(f"before {call.handler_name.rsplit('.', 1)[-1]}")
        await call_next()
        told.append("after")

    async def inner(call: HandlerCall, call_next: CallNext) -> None:
        assert isinstance(call.context, Context)
        told.append("inner")
        await call_next()

    surroundings.add_middleware(outer)
    surroundings.add_middleware(inner)

    @world.subscriptions.on(OrderPlaced)
    async def reserve(event: OrderPlaced, context: Context) -> None:
        told.append(event.sku)

    await world.place("a")
    await world.topics.relay()
    async with surroundings.around(world.subscriptions) as world.subscriptions, world.running():
        await world.caught_up()
    assert told == ["before reserve", "inner", "a", "after"]


async def test_what_a_middleware_raises_fails_the_message() -> None:
    world, surroundings = World(partition_count=1), Surroundings()

    @surroundings.add_middleware
    async def refuse(call: HandlerCall, call_next: CallNext) -> None:
        await call_next()
        raise ValueError("not today")

    @world.subscriptions.on(OrderPlaced)
    async def reserve(event: OrderPlaced, context: Context) -> None:
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))

    await world.place("a")
    async with surroundings.around(world.subscriptions) as world.subscriptions, world.running():
        await world.caught_up()
    assert world.stream_names("stock") == []
    assert [letter.error_message for letter in await world.effects.dead_letters.list()] == ["not today"]


def test_a_middleware_of_another_shape_is_refused() -> None:
    async def lone(call: HandlerCall) -> None: ...

    with pytest.raises(UsageError, match="must be written as"):
        Surroundings().add_middleware(lone)  # type: ignore[arg-type]


async def test_a_union_and_a_base_class_stand_for_their_events() -> None:
    subscriptions = Subscriptions()

    @subscriptions.on(OrderPlaced | OrderCancelled)
    async def either(event: OrderPlaced | OrderCancelled) -> None: ...

    @subscriptions.on(ShipmentEvent)
    async def any_of_them(event: ShipmentEvent) -> None: ...

    assert set(subscriptions.routes) == {"OrderPlaced", "OrderCancelled", "ShipmentSent", "ShipmentLost"}
    assert subscriptions.topics == ("order", "shipment")


def test_a_base_class_without_events_is_refused() -> None:
    class LonelyEvent(Event, ABC):
        pass

    with pytest.raises(UsageError, match="nothing is derived from this base class"):
        named_classes([LonelyEvent])

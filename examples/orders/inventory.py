"""The inventory service: reserves every line of an order or none, and puts back what is given up.

Run it: headwater run orders.inventory:service

It has a database of its own and knows of orders only what Kafka brings. Each product has a stream, `stock-<id>`, which begins with a count and
goes on with what was reserved and released; each order has one, `reservation-<id>`, with the answers. Both tell what is true now when folded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from headwater import NO_STREAM, Context, Event, Projection, Service, on
from headwater.errors import WrongExpectedVersion
from headwater.eventstore import EventStore
from orders.commands import ReleaseStock, ReserveStock
from orders.events import ReservationRejected, StockCounted, StockReleased, StockReserved, Units, UnitsReleased, UnitsReserved
from orders.northwind import Product

service = Service("inventory")
for answer_class in (StockReserved, ReservationRejected, StockReleased):
    service.events.register(answer_class)


# -- pure: what a shelf holds, and what can be reserved from it -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shelf:
    """One product as its stream tells it."""

    product_name: str = ""
    units_on_hand: int = 0
    version: int = 0


def evolve(shelf: Shelf, event: Event) -> Shelf:
    """The shelf after one more event."""
    shelf = replace(shelf, version=shelf.version + 1)
    match event:
        case StockCounted():
            return replace(shelf, product_name=event.product_name, units_on_hand=event.units)
        case UnitsReserved():
            return replace(shelf, units_on_hand=shelf.units_on_hand - event.units)
        case UnitsReleased():
            return replace(shelf, units_on_hand=shelf.units_on_hand + event.units)
        case _:
            return shelf


def decide_reservation(command: ReserveStock, shelves: Mapping[int, Shelf]) -> StockReserved | ReservationRejected:
    """Every line, or none."""
    for wanted in command.units:
        shelf = shelves[wanted.product_id]
        if shelf.units_on_hand < wanted.units:
            name = shelf.product_name or f"product {wanted.product_id}"
            return ReservationRejected(
                order_id=command.order_id,
                reason=f"{wanted.units} units of {name} are wanted and {shelf.units_on_hand} are left",
                product_id=wanted.product_id,
                units_wanted=wanted.units,
                units_available=shelf.units_on_hand,
            )
    return StockReserved(order_id=command.order_id, units=command.units)


def decide_release(answers: Sequence[Event]) -> tuple[Units, ...] | None:
    """What goes back to the shelves, by the answers given so far; None when there is nothing to be said.

    Released before it was reserved means: never to be reserved.
    """
    match answers:
        case []:
            return ()
        case [StockReserved() as held]:
            return held.units
        case _:
            return None


# -- the service ------------------------------------------------------------------------------------------------------


@service.on(ReserveStock)
async def reserve_stock(command: ReserveStock, context: Context) -> None:
    """Take every line's units off the shelves, or none, and answer; all of it commits together, with the place in the topic.

    Expecting the versions that were read means: if another order got at a shelf first, nothing of this is kept and the order is decided anew.
    """
    if await answers_to(command, context):
        return
    shelves = {wanted.product_id: await load_shelf(wanted.product_id, context) for wanted in command.units}
    answer = decide_reservation(command, shelves)
    for taken in answer.units if isinstance(answer, StockReserved) else ():
        event = UnitsReserved(product_id=taken.product_id, order_id=command.order_id, units=taken.units)
        await context.append(stream_of(taken.product_id), event, expected_version=shelves[taken.product_id].version)
    await context.append(f"reservation-{command.order_id}", answer, expected_version=NO_STREAM)


@service.on(ReleaseStock)
async def release_stock(command: ReleaseStock, context: Context) -> None:
    """Put back what is reserved for the order, once."""
    answers = await answers_to(command, context)
    if (back := decide_release(answers)) is None:
        return
    for released in back:
        event = UnitsReleased(product_id=released.product_id, order_id=command.order_id, units=released.units)
        await context.append(stream_of(released.product_id), event)
    await context.append(f"reservation-{command.order_id}", StockReleased(order_id=command.order_id), expected_version=len(answers))


def stream_of(product_id: int) -> str:
    """The stream of one product."""
    return f"stock-{product_id}"


async def answers_to(command: ReserveStock | ReleaseStock, context: Context) -> list[Event]:
    """What this order was told so far."""
    return [context.decode(recorded) async for recorded in context.read_stream(f"reservation-{command.order_id}")]


async def load_shelf(product_id: int, context: Context) -> Shelf:
    """The shelf as this transaction sees it."""
    shelf = Shelf()
    async for recorded in context.read_stream(stream_of(product_id)):
        shelf = evolve(shelf, context.decode(recorded))
    return shelf


@service.projection
class StockLevel(Projection, key="product_id"):
    """How many units of a product there are, and how many are promised or gone."""

    product_name: str = ""
    units_on_hand: int = 0
    units_reserved: int = 0

    @on(StockCounted)
    def counted(self, event: StockCounted) -> None:
        self.product_name = event.product_name
        self.units_on_hand = event.units

    @on(UnitsReserved)
    def reserved(self, event: UnitsReserved) -> None:
        self.units_on_hand -= event.units
        self.units_reserved += event.units

    @on(UnitsReleased)
    def released(self, event: UnitsReleased) -> None:
        self.units_on_hand += event.units
        self.units_reserved -= event.units


async def count_stock(store: EventStore, products: Iterable[Product]) -> None:
    """Begin each product's stream with what lies on its shelf. Safe to repeat: a stream that has begun keeps its count."""
    for product in products:
        count = StockCounted(product_id=product.product_id, product_name=product.name, units=product.units_in_stock)
        with suppress(WrongExpectedVersion):
            await store.append(stream_of(product.product_id), [count], expected_version=NO_STREAM)

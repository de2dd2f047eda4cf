"""The inventory service: reserves every line of an order or none, and answers.

Run it: headwater run orders.inventory:service

It has a database of its own and knows of orders only what Kafka brings. Each product has a stream, `stock-<id>`, which begins with a count and
goes on with what was reserved; how many units are left is the fold of that stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from headwater import NO_STREAM, Context, Event, Projection, Service, on
from headwater.errors import WrongExpectedVersion
from headwater.eventstore import EventStore
from orders.events import OrderPlaced, ReservationRejected, StockCounted, StockReserved, UnitsReserved
from orders.northwind import Product

service = Service("inventory")


# -- pure: what a shelf holds, and what can be reserved from it -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shelf:
    """One product as its stream tells it."""

    product_name: str = ""
    units_on_hand: int = 0
    version: int = 0


def evolve(shelf: Shelf, event: Event) -> Shelf:
    """The shelf after one more event."""
    version = shelf.version + 1
    match event:
        case StockCounted():
            return replace(shelf, product_name=event.product_name, units_on_hand=event.units, version=version)
        case UnitsReserved():
            return replace(shelf, units_on_hand=shelf.units_on_hand - event.units, version=version)
        case _:
            return replace(shelf, version=version)


def decide(order: OrderPlaced, shelves: Mapping[int, Shelf]) -> tuple[list[UnitsReserved], StockReserved | ReservationRejected]:
    """Reserve every line or none: what leaves which shelf, and the answer to the order."""
    wanted = order.units_by_product()
    for product_id, units in wanted.items():
        shelf = shelves[product_id]
        if shelf.units_on_hand < units:
            return [], ReservationRejected(
                order_id=order.order_id,
                reason=f"{units} units of {shelf.product_name or f'product {product_id}'} are wanted and {shelf.units_on_hand} are left",
                product_id=product_id,
                units_wanted=units,
                units_available=shelf.units_on_hand,
            )
    reserved = [UnitsReserved(product_id=product_id, order_id=order.order_id, units=units) for product_id, units in wanted.items()]
    return reserved, StockReserved(order_id=order.order_id, units=sum(wanted.values()))


# -- the service ------------------------------------------------------------------------------------------------------


def stream_of(product_id: int) -> str:
    """The stream of one product."""
    return f"stock-{product_id}"


@service.on(OrderPlaced)
async def reserve_stock(order: OrderPlaced, context: Context) -> None:
    """Take every line's units off the shelves, or none, and answer; all of it commits together, with the place in the topic.

    Expecting the versions that were read means: if another order got at a shelf first, nothing of this is kept and the order is decided anew.
    """
    shelves = {product_id: await load_shelf(product_id, context) for product_id in order.units_by_product()}
    reserved, answer = decide(order, shelves)
    for units in reserved:
        await context.append(stream_of(units.product_id), units, expected_version=shelves[units.product_id].version)
    await context.append(f"reservation-{order.order_id}", answer, expected_version=NO_STREAM)


async def load_shelf(product_id: int, context: Context) -> Shelf:
    """The shelf as this transaction sees it."""
    shelf = Shelf()
    async for recorded in context.read_stream(stream_of(product_id)):
        shelf = evolve(shelf, context.decode(recorded))
    return shelf


@service.projection
class StockLevel(Projection, key="product_id"):
    """How many units of a product there are and where they went."""

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


async def count_stock(store: EventStore, products: Iterable[Product]) -> None:
    """Begin each product's stream with what lies on its shelf. Safe to repeat: a stream that has begun keeps its count."""
    for product in products:
        count = StockCounted(product_id=product.product_id, product_name=product.name, units=product.units_in_stock)
        with suppress(WrongExpectedVersion):
            await store.append(stream_of(product.product_id), [count], expected_version=NO_STREAM)

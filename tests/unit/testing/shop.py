"""A service under chaos: right handlers, and wrong ones."""

from __future__ import annotations

from headwater import ANY, Context, Event, Service


class ItemOrdered(Event, category="basket"):
    number: int
    sku: str


class ItemReserved(Event, category="reserved"):
    number: int
    sku: str


class ItemShipped(Event, category="shipped"):
    number: int


class ItemLogged(Event, category="logged"):
    number: int


SKUS = ("chai", "tea", "milk")


def right_shop() -> Service:
    """Every effect is in the transaction: two handlers in a row, one that reads before it appends, and one in lanes."""
    service = Service("shop")

    @service.on(ItemOrdered)
    async def reserve(event: ItemOrdered, context: Context) -> None:
        if event.sku == "poison":
            raise ValueError("nobody sells this")
        await context.append(f"reserved-{event.sku}", ItemReserved(number=event.number, sku=event.sku))

    @service.on(ItemReserved)
    async def ship(event: ItemReserved, context: Context) -> None:
        shipped = [context.decode(recorded) async for recorded in context.read_stream(f"shipped-{event.sku}")]
        assert ItemShipped(number=event.number) not in shipped, "shipped already"
        await context.append(f"shipped-{event.sku}", ItemShipped(number=event.number))

    @service.on(ItemOrdered, lanes=4)
    async def log(event: ItemOrdered, context: Context) -> None:
        await context.append(f"logged-{event.sku}", ItemLogged(number=event.number))

    return service


def counting_shop(counted: list[int]) -> Service:
    """Keeps its effect in a list of the process, which no transaction undoes."""
    service = Service("shop")

    @service.on(ItemOrdered)
    async def count(event: ItemOrdered) -> None:
        counted.append(event.number)

    return service


def hasty_shop() -> Service:
    """Appends past its transaction."""
    service = Service("shop")

    @service.on(ItemOrdered)
    async def reserve(event: ItemOrdered) -> None:
        await service.store.append(f"reserved-{event.sku}", [ItemReserved(number=event.number, sku=event.sku)], expected_version=ANY)

    return service


async def order(service: Service, count: int) -> None:
    """So many orders, in three streams."""
    for number in range(count):
        sku = SKUS[number % len(SKUS)]
        await service.store.append(f"basket-{sku}", [ItemOrdered(number=number, sku=sku)], expected_version=number // len(SKUS))

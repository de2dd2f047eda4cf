"""Given, when, then for handlers."""

from __future__ import annotations

import pytest

from headwater import Context, Event, Service
from headwater.errors import HandlerFailed, UsageError
from headwater.testing import Chaos, memory_service


class JarOrdered(Event, category="order"):
    sku: str


class JarReturned(Event, category="order"):
    sku: str


class JarReserved(Event, category="stock"):
    sku: str


class JarReleased(Event, category="stock"):
    sku: str


class JarNoted(Event, category="notes"):
    text: str


def stock() -> Service:
    service = Service("stock")

    @service.on(JarOrdered)
    async def reserve(event: JarOrdered, context: Context) -> None:
        if event.sku == "poison":
            raise ValueError("nobody sells this")
        await context.append(f"stock-{event.sku}", JarReserved(sku=event.sku))

    @service.on(JarReturned)
    async def release(event: JarReturned, context: Context) -> None:
        await context.append(f"stock-{event.sku}", JarReleased(sku=event.sku))
        await context.append("notes-1", JarNoted(text="released"))
        await context.append("notes-1", JarNoted(text="told"))

    return service


NOTES = (JarNoted(text="released"), JarNoted(text="told"))


@pytest.mark.parametrize("chaos", [None, Chaos(seed=5)], ids=["calm", "chaos"])
async def test_then_tells_what_handlers_appended_since_when(chaos: Chaos | None) -> None:
    async with memory_service(stock(), chaos=chaos) as memory:
        await memory.given("order-1", JarOrdered(sku="chai"))
        await memory.when("order-1", JarReturned(sku="chai"))
        memory.then(JarReleased(sku="chai"), *NOTES).then(NOTES[0], JarReleased(sku="chai"), NOTES[1])
        memory.then("stock-chai", JarReleased(sku="chai")).then("notes-1", *NOTES).then("stock-tea")
        await memory.when("order-2", JarOrdered(sku="tea"), JarOrdered(sku="tea"))
        memory.then(JarReserved(sku="tea"), JarReserved(sku="tea"))


async def test_another_order_in_a_stream_one_less_and_one_more_fail_and_are_listed() -> None:
    async with memory_service(stock()) as memory:
        await memory.when("order-1", JarReturned(sku="chai"))
        with pytest.raises(AssertionError, match="handlers appended"):
            memory.then(JarReleased(sku="chai"), NOTES[1], NOTES[0])
        with pytest.raises(AssertionError):
            memory.then(*NOTES)
        with pytest.raises(AssertionError, match="in the stream 'notes-1'"):
            memory.then("notes-1", *NOTES, NOTES[0])
        with pytest.raises(AssertionError) as caught:
            memory.then_nothing()
        assert str(caught.value) == (
            "expected:\n  nothing\nhandlers appended, since when(…):\n  stock-chai: JarReleased(sku='chai')\n"
            "  notes-1: JarNoted(text='released')\n  notes-1: JarNoted(text='told')"
        )
        with pytest.raises(AssertionError, match="no handler gave up"):
            memory.then_dead_letter()


async def test_a_handler_that_gave_up_is_told_unless_it_is_expected() -> None:
    async with memory_service(stock()) as memory:
        await memory.when("order-1", JarOrdered(sku="poison"))
        with pytest.raises(
            AssertionError, match=r"(?s)as expected, but.*reserve on JarOrdered: ValueError: nobody sells this.*then_dead_letter"
        ):
            memory.then_nothing()
        with pytest.raises(AssertionError, match="'KeyError' in its error"):
            memory.then_dead_letter(match="KeyError")
        memory.then_dead_letter(match="nobody sells").then_nothing()
        with pytest.raises(HandlerFailed):
            await memory.given("order-2", JarOrdered(sku="poison"))
        # What given left behind is not told of what happens then.
        await memory.when("order-3", JarOrdered(sku="tea"))
        memory.then(JarReserved(sku="tea"))


async def test_then_before_when_says_what_to_write() -> None:
    async with memory_service(stock()) as memory:
        await memory.given("order-1", JarOrdered(sku="tea"))
        with pytest.raises(UsageError, match=r"await memory\.when"):
            memory.then_nothing()

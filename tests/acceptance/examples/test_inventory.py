"""The inventory's pure decision: every line or none."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from orders.events import OrderLine, OrderPlaced, ReservationRejected, StockCounted, StockReserved, UnitsReserved
from orders.inventory import Shelf, decide, evolve

ORDER_ID = UUID(int=7)


def order(*lines: tuple[int, int]) -> OrderPlaced:
    return OrderPlaced(
        order_id=ORDER_ID,
        order_number=1,
        customer_id="ALFKI",
        ordered_at=datetime(1996, 7, 4, tzinfo=UTC),
        ship_country="Germany",
        lines=tuple(OrderLine(product_id=product_id, quantity=quantity, unit_price=Decimal("9.80")) for product_id, quantity in lines),
    )


def shelf(units: int) -> Shelf:
    return evolve(Shelf(), StockCounted(product_id=1, product_name="Chai", units=units))


def test_every_line_is_reserved_when_every_shelf_has_enough() -> None:
    reserved, answer = decide(order((1, 3), (2, 5)), {1: shelf(3), 2: shelf(9)})
    assert [(event.product_id, event.units) for event in reserved] == [(1, 3), (2, 5)]
    assert answer == StockReserved(order_id=ORDER_ID, units=8)


def test_no_line_is_reserved_when_one_shelf_is_short() -> None:
    reserved, answer = decide(order((1, 3), (2, 5)), {1: shelf(3), 2: shelf(4)})
    assert reserved == []
    assert isinstance(answer, ReservationRejected)
    assert (answer.product_id, answer.units_wanted, answer.units_available) == (2, 5, 4)
    assert answer.reason == "5 units of Chai are wanted and 4 are left"


def test_lines_of_one_product_are_taken_together() -> None:
    assert decide(order((1, 2), (1, 2)), {1: shelf(3)})[0] == []
    assert [event.units for event in decide(order((1, 2), (1, 2)), {1: shelf(4)})[0]] == [4]


def test_a_product_that_was_never_counted_is_short() -> None:
    _, answer = decide(order((1, 1)), {1: Shelf()})
    assert isinstance(answer, ReservationRejected)
    assert answer.units_available == 0


def test_a_reservation_takes_units_off_the_shelf() -> None:
    after = evolve(shelf(5), UnitsReserved(product_id=1, order_id=ORDER_ID, units=2))
    assert (after.units_on_hand, after.version) == (3, 2)

"""The inventory's pure decisions: every line or none, and back to the shelves once."""

from __future__ import annotations

from uuid import UUID

from orders.commands import ReserveStock
from orders.events import ReservationRejected, StockCounted, StockReleased, StockReserved, Units, UnitsReleased, UnitsReserved
from orders.inventory import Shelf, decide_release, decide_reservation, evolve

ORDER_ID = UUID(int=7)


def units(*wanted: tuple[int, int]) -> tuple[Units, ...]:
    return tuple(Units(product_id=product_id, units=count) for product_id, count in wanted)


def reserve(*wanted: tuple[int, int]) -> ReserveStock:
    return ReserveStock(order_id=ORDER_ID, units=units(*wanted))


def shelf(count: int) -> Shelf:
    return evolve(Shelf(), StockCounted(product_id=1, product_name="Chai", units=count))


def test_every_line_is_reserved_when_every_shelf_has_enough() -> None:
    answer = decide_reservation(reserve((1, 3), (2, 5)), {1: shelf(3), 2: shelf(9)})
    assert answer == StockReserved(order_id=ORDER_ID, units=units((1, 3), (2, 5)))


def test_no_line_is_reserved_when_one_shelf_is_short() -> None:
    answer = decide_reservation(reserve((1, 3), (2, 5)), {1: shelf(3), 2: shelf(4)})
    assert isinstance(answer, ReservationRejected)
    assert (answer.product_id, answer.units_wanted, answer.units_available) == (2, 5, 4)
    assert answer.reason == "5 units of Chai are wanted and 4 are left"


def test_a_product_that_was_never_counted_is_short() -> None:
    answer = decide_reservation(reserve((1, 1)), {1: Shelf()})
    assert isinstance(answer, ReservationRejected)
    assert answer.units_available == 0


def test_what_is_released_can_be_sold_again() -> None:
    taken = evolve(shelf(5), UnitsReserved(product_id=1, order_id=ORDER_ID, units=5))
    assert isinstance(decide_reservation(reserve((1, 1)), {1: taken}), ReservationRejected)
    back = evolve(taken, UnitsReleased(product_id=1, order_id=ORDER_ID, units=5))
    assert isinstance(decide_reservation(reserve((1, 1)), {1: back}), StockReserved)
    assert (back.units_on_hand, back.version) == (5, 3)


def test_what_is_reserved_goes_back_once() -> None:
    held = StockReserved(order_id=ORDER_ID, units=units((1, 3)))
    assert decide_release([held]) == held.units
    assert decide_release([held, StockReleased(order_id=ORDER_ID)]) is None


def test_nothing_goes_back_that_was_never_taken() -> None:
    rejected = ReservationRejected(order_id=ORDER_ID, reason="", product_id=1, units_wanted=2, units_available=1)
    assert decide_release([rejected]) is None
    assert decide_release([]) == (), "and what comes later finds it released"

"""The payment's pure decision, in every order in which bill, money and cancellation can meet."""

from __future__ import annotations

from decimal import Decimal
from itertools import permutations
from uuid import UUID

import pytest
from orders.commands import CancelPayment, Decline, Pay, RequestPayment, ShipOrder
from orders.events import PaymentCancelled, PaymentReceived, PaymentRefunded
from orders.payment import Command, Payment, decide, evolve
from orders.shipping import SHIPMENT

from headwater import Event

ORDER_ID, AMOUNT = UUID(int=7), Decimal("14.50")
REQUEST = RequestPayment(order_id=ORDER_ID, customer_id="ALFKI", amount=AMOUNT)
PAY, DECLINE, CANCEL = Pay(order_id=ORDER_ID), Decline(order_id=ORDER_ID), CancelPayment(order_id=ORDER_ID)


def story(*commands: Command) -> list[Event]:
    payment, told = Payment(), list[Event]()
    for command in commands:
        for event in decide(command, payment):
            payment = evolve(payment, event)
            told.append(event)
    return told


def kept(events: list[Event]) -> Decimal:
    taken = sum((event.amount for event in events if isinstance(event, PaymentReceived)), Decimal(0))
    return taken - sum((event.amount for event in events if isinstance(event, PaymentRefunded)), Decimal(0))


def names(events: list[Event]) -> list[str]:
    return [event.event_type for event in events]


def test_money_for_a_bill_is_kept() -> None:
    assert names(story(REQUEST, PAY)) == ["PaymentRequested", "PaymentReceived"]
    assert kept(story(REQUEST, PAY)) == AMOUNT


def test_money_that_comes_after_the_cancellation_goes_back() -> None:
    assert names(story(REQUEST, CANCEL, PAY)) == ["PaymentRequested", "PaymentCancelled", "PaymentReceived", "PaymentRefunded"]


def test_a_cancellation_that_comes_after_the_money_gives_it_back() -> None:
    assert names(story(REQUEST, PAY, CANCEL)) == ["PaymentRequested", "PaymentReceived", "PaymentRefunded"]


def test_a_bill_that_was_cancelled_before_it_came_is_never_sent() -> None:
    assert story(CANCEL, REQUEST, PAY) == [PaymentCancelled(order_id=ORDER_ID)]


@pytest.mark.parametrize("commands", list(permutations([REQUEST, PAY, CANCEL, DECLINE])), ids=lambda c: " ".join(names(list(c))))
def test_a_cancelled_payment_keeps_no_money_in_whatever_order_things_come(commands: tuple[Command, ...]) -> None:
    assert kept(story(*commands)) == 0


@pytest.mark.parametrize("commands", [(REQUEST, PAY), (REQUEST, CANCEL, PAY), (REQUEST, DECLINE), (REQUEST, PAY, CANCEL), (CANCEL,)])
def test_a_command_that_comes_twice_says_nothing_new(commands: tuple[Command, ...]) -> None:
    once = story(*commands)
    assert kept(story(*(command for command in commands for _ in range(2)))) == kept(once)
    assert names(story(*commands, commands[-1])) == names(once)


def test_a_shipment_leaves_once() -> None:
    command = ShipOrder(order_id=ORDER_ID, ship_country="France", units=())
    assert names(list(SHIPMENT.decide(command, SHIPMENT.initial_state))) == ["ShipmentSent"]
    assert list(SHIPMENT.decide(command, True)) == []

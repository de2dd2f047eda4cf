"""Every check of the demo holds for what the pure parts of the services decide, and fails when that is broken on purpose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast
from uuid import UUID, uuid5

import orjson
import pytest
from orders import inventory, payment, shipping
from orders.checks import run_checks, summarize
from orders.commands import CancelPayment, Decline, Pay, RequestPayment, ReserveStock, ShipOrder
from orders.customers import Behaviour, behaviour_of
from orders.events import (
    Cause,
    OrderCancelled,
    OrderConfirmed,
    OrderPaid,
    OrderPlaced,
    ReservationRejected,
    StockCounted,
    StockReleased,
    StockReserved,
    UnitsReleased,
    UnitsReserved,
)
from orders.evidence import Evidence, KafkaRecord, Log, LoggedEvent
from orders.northwind import load_orders, load_products
from orders.orders import OrderStatus

from headwater import Event
from headwater.kafka import partition_of

LOG_IDS = {name: UUID(int=number) for number, name in enumerate(("orders", "inventory", "payment", "shipping"), start=1)}
PARTITIONS = 6
RECORDED_AT = datetime(2026, 1, 1, tzinfo=UTC)


class Journal:
    """A log in memory, as the checks see one."""

    def __init__(self, log_id: UUID) -> None:
        self.log_id, self.events, self._versions = log_id, list[LoggedEvent](), defaultdict[str, int](int)

    def append(self, stream_name: str, event: Event) -> None:
        position = len(self.events) + 1
        self._versions[stream_name] += 1
        data = orjson.loads(event.model_dump_json())
        event_id = str(uuid5(self.log_id, str(position)))
        self.events.append(LoggedEvent(position, stream_name, self._versions[stream_name], event.event_type, data, event_id, RECORDED_AT))

    def log(self) -> Log:
        return Log(str(self.log_id), tuple(self.events))


class Play:
    """One order after another, decided by the services' pure functions as if no time passed between a message and its answer."""

    def __init__(self) -> None:
        self.journals = {name: Journal(log_id) for name, log_id in LOG_IDS.items()}
        self.shelves: dict[int, inventory.Shelf] = defaultdict(inventory.Shelf)
        self.statuses: dict[str, OrderStatus] = defaultdict(OrderStatus)
        self.confirmed: list[OrderPlaced] = []
        for product in load_products():
            self.stock(StockCounted(product_id=product.product_id, product_name=product.name, units=product.units_in_stock))

    def stock(self, event: StockCounted | UnitsReserved | UnitsReleased) -> None:
        self.journals["inventory"].append(f"stock-{event.product_id}", event)
        self.shelves[event.product_id] = inventory.evolve(self.shelves[event.product_id], event)

    def order(self, placed: OrderPlaced) -> None:
        self.tell(placed)
        answer = inventory.decide_reservation(ReserveStock(order_id=placed.order_id, units=placed.units()), self.shelves)
        self.journals["inventory"].append(f"reservation-{placed.order_id}", answer)
        if isinstance(answer, ReservationRejected):
            self.tell(OrderCancelled(order_id=placed.order_id, cause=Cause.NO_STOCK, reason=answer.reason))
            return
        for taken in answer.units:
            self.stock(UnitsReserved(product_id=taken.product_id, order_id=placed.order_id, units=taken.units))
        cause = self.pay(placed)
        if cause is None:
            self.ship(placed)
        else:
            self.release(answer)
            self.tell(OrderCancelled(order_id=placed.order_id, cause=cause, reason="because"))

    def pay(self, placed: OrderPlaced) -> Cause | None:
        """The payment's stream; the cause for which the order ends, if it does."""
        order_id, behaviour = placed.order_id, behaviour_of(placed.order_id)
        request = RequestPayment(order_id=order_id, customer_id=placed.customer_id, amount=placed.amount)
        story: dict[Behaviour, tuple[list[payment.Command], Cause | None]] = {
            Behaviour.PAYS: ([request, Pay(order_id=order_id)], None),
            Behaviour.IS_DECLINED: ([request, Decline(order_id=order_id)], Cause.DECLINED),
            Behaviour.NEVER_PAYS: ([request, CancelPayment(order_id=order_id)], Cause.UNPAID),
            Behaviour.PAYS_LATE: ([request, CancelPayment(order_id=order_id), Pay(order_id=order_id)], Cause.UNPAID),
        }
        commands, cause = story[behaviour]
        state = payment.Payment()
        for command in commands:
            for event in payment.decide(command, state):
                state = payment.evolve(state, event)
                self.journals["payment"].append(f"payment-{order_id}", event)
        return cause

    def ship(self, placed: OrderPlaced) -> None:
        self.tell(OrderPaid(order_id=placed.order_id))
        command = ShipOrder(order_id=placed.order_id, ship_country=placed.ship_country, units=placed.units())
        for event in shipping.decide(command, is_sent=False):
            self.journals["shipping"].append(f"shipment-{placed.order_id}", event)
        self.tell(
            OrderConfirmed(order_id=placed.order_id, customer_id=placed.customer_id, ordered_at=placed.ordered_at, amount=placed.amount)
        )
        self.confirmed.append(placed)

    def release(self, held: StockReserved) -> None:
        for units in inventory.decide_release([held]) or ():
            self.stock(UnitsReleased(product_id=units.product_id, order_id=held.order_id, units=units.units))
        self.journals["inventory"].append(f"reservation-{held.order_id}", StockReleased(order_id=held.order_id))

    def tell(self, event: OrderPlaced | OrderPaid | OrderConfirmed | OrderCancelled) -> None:
        self.journals["orders"].append(f"order-{event.order_id}", event)
        status = self.statuses[str(event.order_id)]
        match event:
            case OrderPlaced():
                status.placed(event)
            case OrderPaid():
                status.paid(event)
            case OrderConfirmed():
                status.confirmed(event)
            case OrderCancelled():
                status.cancelled(event)


def play(order_count: int) -> Evidence:
    """What a run without any fault leaves behind."""
    run = Play()
    for order in load_orders(order_count):
        run.order(order)
    logs = {name: journal.log() for name, journal in run.journals.items()}
    return Evidence(
        initial_stock={product.product_id: product.units_in_stock for product in load_products()},
        order_count=order_count,
        logs=logs,
        records=tuple(record for log in logs.values() for record in relayed(log)),
        order_status={key: row.model_dump() for key, row in run.statuses.items()},
        stock_level=stock_rows(logs["inventory"]),
        revenue=revenue_rows(run.confirmed),
        differences={"order_status": [], "revenue": [], "stock_level": []},
        sagas={"running": 0, "completed": len(run.confirmed), "compensated": order_count - len(run.confirmed)},
        dead_letters=(),
    )


def stock_rows(log: Log) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for event in log.events:
        if event.type == "StockCounted":
            rows[str(event.data["product_id"])] = {"units_on_hand": event.data["units"], "units_reserved": 0}
        elif event.type in ("UnitsReserved", "UnitsReleased"):
            taken = event.data["units"] if event.type == "UnitsReserved" else -event.data["units"]
            row = rows[str(event.data["product_id"])]
            row["units_on_hand"] -= taken
            row["units_reserved"] += taken
    return rows


def revenue_rows(confirmed: list[OrderPlaced]) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for order in confirmed:
        row = rows.setdefault(f"{order.customer_id} {order.ordered_at:%Y-%m}", {"orders": 0, "amount": Decimal(0)})
        row["orders"] += 1
        row["amount"] += order.amount
    return rows


def relayed(log: Log) -> list[KafkaRecord]:
    """The records that a faultless relay writes."""
    records, offsets, last = list[KafkaRecord](), defaultdict[tuple[str, int], int](int), dict[tuple[str, int], int]()
    for event in log.events:
        topic, partition = place = (event.category, partition_of(event.stream_name.encode(), PARTITIONS))
        records.append(
            KafkaRecord(
                topic=topic,
                partition=partition,
                offset=offsets[place],
                stream_name=event.stream_name,
                log_id=log.log_id,
                event_id=event.event_id,
                type=event.type,
                position=(1, event.global_position),
                previous=(1, last.get(place, 0)),
                version=event.version,
                data=event.data,
            )
        )
        offsets[place], last[place] = offsets[place] + 1, event.global_position
    return records


# -- faults, each with the checks that must notice it ------------------------------------------------------------------

Fault = Callable[[Evidence], Evidence]
Change = Callable[[list[LoggedEvent]], list[LoggedEvent]]


def in_log(service: str, change: Change) -> Fault:
    """A fault in one service's log. Kafka has what the log has, so that only the story itself is wrong."""

    def changed(evidence: Evidence) -> Evidence:
        log = evidence.logs[service]
        logs = {**evidence.logs, service: renumbered(replace(log, events=tuple(change(list(log.events)))))}
        return replace(evidence, logs=logs, records=tuple(record for each in logs.values() for record in relayed(each)))

    return changed


def renumbered(log: Log) -> Log:
    """The same events in a log without holes."""
    versions: dict[str, int] = defaultdict(int)
    events: list[LoggedEvent] = []
    for position, event in enumerate(log.events, start=1):
        versions[event.stream_name] += 1
        events.append(replace(event, global_position=position, version=versions[event.stream_name]))
    return replace(log, events=tuple(events))


def without_last(event_type: str) -> Change:
    def change(events: list[LoggedEvent]) -> list[LoggedEvent]:
        index = max(i for i, event in enumerate(events) if event.type == event_type)
        return events[:index] + events[index + 1 :]

    return change


def repeated(event_type: str) -> Change:
    """The first event of this type comes again, at the end of its stream."""

    def change(events: list[LoggedEvent]) -> list[LoggedEvent]:
        first = next(event for event in events if event.type == event_type)
        version = sum(event.stream_name == first.stream_name for event in events) + 1
        return [*events, replace(first, version=version, global_position=len(events) + 1, event_id=str(UUID(int=99)))]

    return change


def with_data(event_type: str, **changes: object) -> Change:
    """Other data in the first event of this type."""

    def change(events: list[LoggedEvent]) -> list[LoggedEvent]:
        index = next(i for i, event in enumerate(events) if event.type == event_type)
        return [*events[:index], replace(events[index], data={**events[index].data, **changes}), *events[index + 1 :]]

    return change


def wrong_row(rows: Mapping[str, Any], **changes: object) -> dict[str, Any]:
    first = next(iter(rows))
    return {**rows, first: {**rows[first], **changes}}


def swapped(evidence: Evidence) -> Evidence:
    """Two records of one stream have changed places."""
    records = list(evidence.records)
    first = next(i for i, record in enumerate(records) if record.topic == "order" and record.version == 1)
    second = next(i for i, record in enumerate(records) if record.stream_name == records[first].stream_name and record.version == 2)
    records[first], records[second] = (
        replace(records[first], offset=records[second].offset),
        replace(records[second], offset=records[first].offset),
    )
    return replace(evidence, records=tuple(records))


def damaged(**changes: object) -> Fault:
    return lambda e: replace(e, records=(replace(e.records[0], **cast("dict[str, Any]", changes)), *e.records[1:]))


ENDED, STOCK, NEVER, LINES = (
    "every order ended once",
    "stock adds up",
    "stock is never negative",
    "confirmed orders have every unit, cancelled ones none",
)
MONEY, CAUSES, SAGAS, LETTERS = "money adds up", "cancellations are right", "no saga is open", "no message was given up"
STATUS, REVENUE, LEVEL, VERIFY = "order_status is right", "revenue is right", "stock_level is right", "read models verify"
ONCE, ORDER = "every event is in Kafka once", "Kafka keeps the order of every stream"

FAULTS: list[tuple[str, Fault, set[str]]] = [
    ("an order was not placed", lambda e: replace(e, order_count=e.order_count + 1), {ENDED, SAGAS}),
    ("an end is missing", in_log("orders", without_last("OrderConfirmed")), {ENDED, LINES, MONEY, STATUS, REVENUE}),
    ("an order ended twice", in_log("orders", repeated("OrderCancelled")), {ENDED}),
    ("a reservation is lost", in_log("inventory", without_last("UnitsReserved")), {STOCK, LINES, LEVEL}),
    ("a reservation is repeated", in_log("inventory", repeated("UnitsReserved")), {STOCK, NEVER, LINES, LEVEL}),
    ("a release is lost", in_log("inventory", without_last("UnitsReleased")), {STOCK, NEVER, LINES, LEVEL}),  # its units were sold again
    ("a release is repeated", in_log("inventory", repeated("UnitsReleased")), {STOCK, LINES, LEVEL}),
    ("a shelf is oversold", in_log("inventory", with_data("UnitsReserved", units=1_000)), {NEVER, STOCK, LINES, LEVEL, CAUSES}),
    ("a count is wrong", in_log("inventory", with_data("StockCounted", units=1_000)), {STOCK, LEVEL, CAUSES}),
    ("a shipment is lost", in_log("shipping", without_last("ShipmentSent")), {STOCK, LINES}),
    ("a shipment went out twice", in_log("shipping", repeated("ShipmentSent")), {STOCK, LINES}),
    ("a payment is lost", in_log("payment", without_last("PaymentReceived")), {MONEY}),
    ("a payment was taken twice", in_log("payment", repeated("PaymentReceived")), {MONEY}),
    ("late money was kept", in_log("payment", without_last("PaymentRefunded")), {MONEY}),
    ("late money was given back twice", in_log("payment", repeated("PaymentRefunded")), {MONEY}),
    ("a payment is too small", in_log("payment", with_data("PaymentReceived", amount="0.01")), {MONEY}),
    ("nobody declined", in_log("payment", without_last("PaymentDeclined")), {CAUSES}),
    ("the inventory never said no", in_log("inventory", without_last("ReservationRejected")), {CAUSES}),
    ("a rejection without want", in_log("inventory", with_data("ReservationRejected", units_wanted=0)), {CAUSES}),
    ("a saga is open", lambda e: replace(e, sagas={**e.sagas, "completed": e.sagas["completed"] - 1, "running": 1}), {SAGAS}),
    ("a saga waits for a person", lambda e: replace(e, sagas={**e.sagas, "stuck": 1}), {SAGAS}),
    ("a message was given up", lambda e: replace(e, dead_letters=("orders: gave up",)), {LETTERS}),
    ("an order's status is wrong", lambda e: replace(e, order_status=wrong_row(e.order_status, status="placed")), {STATUS}),
    ("an order has no status", lambda e: replace(e, order_status={}), {STATUS}),
    ("a customer's revenue is wrong", lambda e: replace(e, revenue=wrong_row(e.revenue, amount=Decimal(1))), {REVENUE}),
    ("a customer nobody knows", lambda e: replace(e, revenue={**e.revenue, "NOBODY 1996-07": {}}), {REVENUE}),
    ("a stock level is wrong", lambda e: replace(e, stock_level=wrong_row(e.stock_level, units_on_hand=-1)), {LEVEL}),
    ("verification found something", lambda e: replace(e, differences={"order_status": ["row 1"]}), {VERIFY}),
    ("nothing was verified", lambda e: replace(e, differences={}), {VERIFY}),
    ("a record is missing", lambda e: replace(e, records=e.records[:-1]), {ONCE}),
    ("a record is repeated", lambda e: replace(e, records=(*e.records, replace(e.records[0], offset=10_000))), {ONCE, ORDER}),
    ("a record is damaged", damaged(data={}), {ONCE}),
    ("a record belongs to nobody", damaged(event_id="?"), {ONCE}),
    ("records changed places", swapped, {ORDER}),
    ("a hole in a partition", lambda e: replace(e, records=e.records[1:]), {ONCE, ORDER}),
]


@pytest.fixture(scope="module")
def faultless() -> Evidence:
    return play(200)


def test_every_check_holds_for_a_faultless_run(faultless: Evidence) -> None:
    assert [check for check in run_checks(faultless) if not check.ok] == []
    assert {behaviour_of(UUID(order_id)) for order_id in faultless.by_order("payment", "payment")} == set(Behaviour), "every story is told"


@pytest.mark.parametrize(("fault", "noticed_by"), [pytest.param(fault, names, id=name) for name, fault, names in FAULTS])
def test_fault_is_noticed_by_exactly_its_checks(faultless: Evidence, fault: Fault, noticed_by: set[str]) -> None:
    failed = {check.name: check.detail for check in run_checks(fault(faultless)) if not check.ok}
    assert failed.keys() == noticed_by
    assert all(failed.values()), "a failed check says what is wrong"


def test_every_check_has_a_fault_that_it_notices(faultless: Evidence) -> None:
    assert {check.name for check in run_checks(faultless)} == set().union(*(names for _, _, names in FAULTS))


def test_all_real_orders_meet_the_shortage() -> None:
    evidence = play(830)
    summary = summarize(evidence)
    assert [check for check in run_checks(evidence) if not check.ok] == []
    assert summary.orders == 830 == summary.confirmed + summary.out_of_stock + summary.declined + summary.unpaid
    assert (summary.units_demanded, summary.units_in_stock) == (51_317, 3_119)
    assert summary.units_in_stock == summary.units_shipped + summary.units_left
    assert min(summary.confirmed, summary.declined, summary.unpaid, summary.units_released, summary.refunded) > 0


def test_orders_beyond_the_real_ones_repeat_them_with_new_ids() -> None:
    orders = load_orders(1_000)
    assert len({order.order_id for order in orders}) == 1_000
    assert [order.lines for order in orders[830:]] == [order.lines for order in orders[:170]]
    assert orders == load_orders(1_000)


def test_a_tenth_of_the_payments_is_declined_in_every_run_alike() -> None:
    behaviours = [behaviour_of(order.order_id) for order in load_orders(4_000)]
    assert behaviours == [behaviour_of(order.order_id) for order in load_orders(4_000)]
    shares = {behaviour: round(behaviours.count(behaviour) / len(behaviours), 2) for behaviour in Behaviour}
    assert shares[Behaviour.IS_DECLINED] == pytest.approx(0.1, abs=0.02)
    assert shares[Behaviour.NEVER_PAYS] == pytest.approx(0.05, abs=0.02)
    assert shares[Behaviour.PAYS_LATE] == pytest.approx(0.05, abs=0.02)

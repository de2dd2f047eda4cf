"""Every check of the demo holds for what the pure parts of the services decide, and fails when that is broken on purpose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

import orjson
import pytest
from orders import inventory
from orders.checks import run_checks, summarize
from orders.events import OrderConfirmed, OrderPlaced, OrderRejected, ReservationRejected, StockCounted, StockReserved
from orders.evidence import Evidence, KafkaRecord, Log, LoggedEvent
from orders.northwind import load_orders, load_products
from orders.orders import CustomerOrders, OrderStatus

from headwater import Event
from headwater.kafka import partition_of

ORDERS_LOG, INVENTORY_LOG = UUID(int=1), UUID(int=2)
PARTITIONS = 6


class Journal:
    """A log in memory, as the checks see one."""

    def __init__(self, log_id: UUID) -> None:
        self.log_id, self.events, self._versions = log_id, list[LoggedEvent](), defaultdict[str, int](int)

    def append(self, stream_name: str, event: Event) -> None:
        position = len(self.events) + 1
        self._versions[stream_name] += 1
        data = orjson.loads(event.model_dump_json())
        event_id = str(uuid5(self.log_id, str(position)))
        self.events.append(LoggedEvent(position, stream_name, self._versions[stream_name], event.event_type, data, event_id))

    def log(self) -> Log:
        return Log(str(self.log_id), tuple(self.events))


def play(order_count: int) -> Evidence:
    """What a run without any fault leaves behind, decided by the inventory's pure functions."""
    orders, stock = Journal(ORDERS_LOG), Journal(INVENTORY_LOG)
    shelves: dict[int, inventory.Shelf] = defaultdict(inventory.Shelf)
    statuses: dict[str, OrderStatus] = defaultdict(OrderStatus)
    for product in load_products():
        counted = StockCounted(product_id=product.product_id, product_name=product.name, units=product.units_in_stock)
        stock.append(f"stock-{product.product_id}", counted)
        shelves[product.product_id] = inventory.evolve(shelves[product.product_id], counted)
    for order in load_orders(order_count):
        status = statuses[str(order.order_id)]
        orders.append(f"order-{order.order_id}", order)
        status.placed(order)
        reserved, answer = inventory.decide(order, shelves)
        for units in reserved:
            stock.append(f"stock-{units.product_id}", units)
            shelves[units.product_id] = inventory.evolve(shelves[units.product_id], units)
        stock.append(f"reservation-{order.order_id}", answer)
        outcome = answer_to(answer)
        orders.append(f"order-{order.order_id}", outcome)
        (status.confirmed if isinstance(outcome, OrderConfirmed) else status.rejected)(outcome)
    return Evidence(
        initial_stock={product.product_id: product.units_in_stock for product in load_products()},
        order_count=order_count,
        orders=orders.log(),
        inventory=stock.log(),
        records=(*relayed(orders.log()), *relayed(stock.log())),
        order_status={key: row.model_dump() for key, row in statuses.items()},
        stock_level=stock_rows(stock.log()),
        customer_orders=customer_rows(orders.log()),
        differences={OrderStatus.projection_name: [], CustomerOrders.projection_name: [], "stock_level": []},
    )


def answer_to(answer: StockReserved | ReservationRejected) -> OrderConfirmed | OrderRejected:
    if isinstance(answer, StockReserved):
        return OrderConfirmed(order_id=answer.order_id)
    return OrderRejected(order_id=answer.order_id, reason=answer.reason)


def stock_rows(log: Log) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for event in log.events:
        if event.type == "StockCounted":
            rows[str(event.data["product_id"])] = {"units_on_hand": event.data["units"], "units_reserved": 0}
        elif event.type == "UnitsReserved":
            row = rows[str(event.data["product_id"])]
            row["units_on_hand"] -= event.data["units"]
            row["units_reserved"] += event.data["units"]
    return rows


def customer_rows(log: Log) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for event in log.events:
        if event.type == "OrderPlaced":
            order = OrderPlaced.model_validate(event.data)
            row = rows.setdefault(order.customer_id, {"orders": 0, "units": 0, "amount": Decimal(0)})
            row["orders"] += 1
            row["units"] += sum(line.quantity for line in order.lines)
            row["amount"] += order.amount
    return rows


def relayed(log: Log) -> list[KafkaRecord]:
    """The records that a faultless relay writes."""
    records, offsets, last = list[KafkaRecord](), defaultdict[tuple[str, int], int](int), dict[tuple[str, int], int]()
    for event in log.events:
        place = (event.category, partition_of(event.stream_name.encode(), PARTITIONS))
        position, previous = (1, event.global_position), (1, last.get(place, 0))
        records.append(
            KafkaRecord(
                *place,
                offsets[place],
                event.stream_name,
                log.log_id,
                event.event_id,
                event.type,
                position,
                previous,
                event.version,
                event.data,
            )
        )
        offsets[place], last[place] = offsets[place] + 1, event.global_position
    return records


# -- faults, each with the checks that must notice it ------------------------------------------------------------------

Fault = Callable[[Evidence], Evidence]


def index_of(log: Log, event_type: str) -> int:
    return next(i for i, event in enumerate(log.events) if event.type == event_type)


def without(log: Log, event_type: str) -> Log:
    """The log without the last event of this type."""
    index = max(i for i, event in enumerate(log.events) if event.type == event_type)
    return replace(log, events=log.events[:index] + log.events[index + 1 :])


def with_data(log: Log, event_type: str, **changes: object) -> Log:
    """The log with other data in the first event of this type."""
    index = index_of(log, event_type)
    event = log.events[index]
    return replace(log, events=(*log.events[:index], replace(event, data={**event.data, **changes}), *log.events[index + 1 :]))


def reserved_twice(evidence: Evidence) -> Evidence:
    """A delivery that was repeated: its units left the shelf twice."""
    event = evidence.inventory.events[index_of(evidence.inventory, "UnitsReserved")]
    stream = [e for e in evidence.inventory.events if e.stream_name == event.stream_name]
    again = replace(event, version=len(stream) + 1, global_position=len(evidence.inventory.events) + 1, event_id=str(UUID(int=99)))
    return replace(evidence, inventory=replace(evidence.inventory, events=(*evidence.inventory.events, again)))


def answered_twice(evidence: Evidence) -> Evidence:
    event = evidence.orders.events[index_of(evidence.orders, "OrderRejected")]
    again = replace(event, version=3, global_position=len(evidence.orders.events) + 1, event_id=str(UUID(int=98)))
    return replace(evidence, orders=replace(evidence.orders, events=(*evidence.orders.events, again)))


def oversold(evidence: Evidence) -> Evidence:
    return replace(evidence, inventory=with_data(evidence.inventory, "UnitsReserved", units=1_000))


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


def duplicated(evidence: Evidence) -> Evidence:
    return replace(evidence, records=(*evidence.records, replace(evidence.records[0], offset=10_000)))


FAULTS: list[tuple[str, Fault, set[str]]] = [
    (
        "a reservation is lost",
        lambda e: replace(e, inventory=without(e.inventory, "UnitsReserved")),
        {"stock adds up", "confirmed orders have every unit, rejected ones none"},
    ),
    ("a reservation is repeated", reserved_twice, {"stock adds up", "confirmed orders have every unit, rejected ones none"}),
    ("a shelf is oversold", oversold, {"stock is never negative", "stock adds up"}),
    ("a count is wrong", lambda e: replace(e, inventory=with_data(e.inventory, "StockCounted", units=40)), {"stock adds up"}),
    ("an answer is missing", lambda e: replace(e, orders=without(e.orders, "OrderRejected")), {"every order is answered once"}),
    ("an answer is repeated", answered_twice, {"every order is answered once"}),
    (
        "the inventory never answered",
        lambda e: replace(e, inventory=without(e.inventory, "ReservationRejected")),
        {"every order is answered once"},
    ),
    ("an order was not placed", lambda e: replace(e, order_count=e.order_count + 1), {"every order is answered once"}),
    (
        "a rejection without want",
        lambda e: replace(e, inventory=with_data(e.inventory, "ReservationRejected", units_wanted=0)),
        {"rejections are right"},
    ),
    (
        "an order's status is wrong",
        lambda e: replace(e, order_status=wrong_row(e.order_status, status="placed")),
        {"order_status is right"},
    ),
    ("an order has no status", lambda e: replace(e, order_status={}), {"order_status is right"}),
    (
        "a customer's sum is wrong",
        lambda e: replace(e, customer_orders=wrong_row(e.customer_orders, amount=Decimal(1))),
        {"customer_orders is right"},
    ),
    ("a customer nobody knows", lambda e: replace(e, customer_orders={**e.customer_orders, "NOBODY": {}}), {"customer_orders is right"}),
    ("a stock level is wrong", lambda e: replace(e, stock_level=wrong_row(e.stock_level, units_on_hand=-1)), {"stock_level is right"}),
    ("verification found something", lambda e: replace(e, differences={"order_status": ["row 1"]}), {"read models verify"}),
    ("nothing was verified", lambda e: replace(e, differences={}), {"read models verify"}),
    ("a record is missing", lambda e: replace(e, records=e.records[:-1]), {"every event is in Kafka once"}),
    ("a record is repeated", duplicated, {"every event is in Kafka once", "Kafka keeps the order of every stream"}),
    (
        "a record is damaged",
        lambda e: replace(e, records=(replace(e.records[0], data={}), *e.records[1:])),
        {"every event is in Kafka once"},
    ),
    (
        "a record belongs to nobody",
        lambda e: replace(e, records=(replace(e.records[0], event_id="?"), *e.records[1:])),
        {"every event is in Kafka once"},
    ),
    ("records changed places", swapped, {"Kafka keeps the order of every stream"}),
    (
        "a hole in a partition",
        lambda e: replace(e, records=e.records[1:]),
        {"every event is in Kafka once", "Kafka keeps the order of every stream"},
    ),
]


@pytest.fixture(scope="module")
def faultless() -> Evidence:
    return play(200)


def test_every_check_holds_for_a_faultless_run(faultless: Evidence) -> None:
    assert [check for check in run_checks(faultless) if not check.ok] == []


@pytest.mark.parametrize(("fault", "noticed_by"), [pytest.param(fault, names, id=name) for name, fault, names in FAULTS])
def test_fault_is_noticed_by_its_check(faultless: Evidence, fault: Fault, noticed_by: set[str]) -> None:
    failed = {check.name: check.detail for check in run_checks(fault(faultless)) if not check.ok}
    assert noticed_by <= failed.keys()
    assert all(failed.values()), "a failed check says what is wrong"


def test_every_check_has_a_fault_that_it_notices(faultless: Evidence) -> None:
    assert {check.name for check in run_checks(faultless)} == set().union(*(names for _, _, names in FAULTS))


def test_all_real_orders_meet_the_known_shortage() -> None:
    """Counted with another program: in the order of the real orders, 95 of 830 can be met, with 2,059 of 3,119 units."""
    evidence = play(830)
    summary = summarize(evidence)
    assert [check for check in run_checks(evidence) if not check.ok] == []
    assert (summary.orders, summary.confirmed, summary.rejected) == (830, 95, 735)
    assert (summary.units_demanded, summary.units_in_stock, summary.units_reserved, summary.units_left) == (51_317, 3_119, 2_059, 1_060)


def test_orders_beyond_the_real_ones_repeat_them_with_new_ids() -> None:
    orders = load_orders(1_000)
    assert len({order.order_id for order in orders}) == 1_000
    assert [order.lines for order in orders[830:]] == [order.lines for order in orders[:170]]
    assert orders == load_orders(1_000)

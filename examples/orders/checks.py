"""Did it work? Every promise of the case, tried on the evidence of one run.

A check folds the logs in its own plain way and uses none of the services' code, so that a fault there cannot hide itself here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final

from orders.evidence import Evidence, KafkaRecord, LoggedEvent, Row

PROBLEMS_SHOWN_MAX: Final = 3
LOG_START: Final = (1, 0)
CONFIRMED: Final = ["OrderPlaced", "OrderPaid", "OrderConfirmed"]
CANCELLED: Final = ["OrderPlaced", "OrderCancelled"]
"""The only two stories that an order's stream may tell."""
UNITS_SIGN: Final = {"StockCounted": 1, "UnitsReserved": -1, "UnitsReleased": 1}
MONEY_SIGN: Final = {"PaymentReceived": 1, "PaymentRefunded": -1}


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, and whether it held."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What happened to the orders, the stock and the money, from the logs."""

    orders: int
    confirmed: int
    out_of_stock: int
    declined: int
    unpaid: int
    units_demanded: int
    units_in_stock: int
    units_shipped: int
    units_left: int
    units_released: int
    """Reserved, then given back."""
    revenue: Decimal
    refunded: Decimal
    events: int

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "revenue": str(self.revenue), "refunded": str(self.refunded)}


def run_checks(evidence: Evidence) -> list[Check]:
    """Every check, in the order a reader wants them."""
    rows = "{:,} rows against a fold of the log".format
    return [
        _check("every order ended once", _endings_amiss(evidence), f"{evidence.order_count:,} orders, each confirmed or cancelled"),
        _check("stock adds up", _stock_adds_up(evidence), _stock_detail(evidence)),
        _check("stock is never negative", _stock_below_zero(evidence), "every version of every product's stream"),
        _check("confirmed orders have every unit, cancelled ones none", _lines_amiss(evidence), "order lines against stock and shipments"),
        _check("money adds up", _money_amiss(evidence), _money_detail(evidence)),
        _check("cancellations are right", _cancellations_amiss(evidence), "each for what happened in the other services"),
        _check("no saga is open", _sagas_amiss(evidence), f"{sum(evidence.sagas.values()):,} sagas, all completed or compensated"),
        _check("no message was given up", evidence.dead_letters, "no dead letters and no parked keys in any service"),
        _check("order_status is right", _order_status_amiss(evidence), rows(len(evidence.order_status))),
        _check("revenue is right", _revenue_amiss(evidence), rows(len(evidence.revenue))),
        _check("stock_level is right", _stock_level_amiss(evidence), rows(len(evidence.stock_level))),
        _check("read models verify", _verification_amiss(evidence), f"service.verify on {', '.join(sorted(evidence.differences))}"),
        _check("every event is in Kafka once", _kafka_amiss(evidence), f"{len(evidence.records):,} records of {len(evidence.logs)} logs"),
        _check(
            "Kafka keeps the order of every stream", _kafka_order_amiss(evidence), "positions, versions and the chain of each partition"
        ),
    ]


def summarize(evidence: Evidence) -> Summary:
    """The run in numbers."""
    endings = [events[-1] for events in evidence.orders.values()]
    causes = Counter(event.data["cause"] for event in endings if event.type == "OrderCancelled")
    placed = [event for events in evidence.orders.values() for event in events if event.type == "OrderPlaced"]
    return Summary(
        orders=len(placed),
        confirmed=sum(event.type == "OrderConfirmed" for event in endings),
        out_of_stock=causes["no stock"],
        declined=causes["payment declined"],
        unpaid=causes["not paid in time"],
        units_demanded=sum(line["quantity"] for event in placed for line in event.data["lines"]),
        units_in_stock=sum(evidence.initial_stock.values()),
        units_shipped=sum(_shipped(evidence).values()),
        units_left=sum(_shelves(evidence).values()),
        units_released=sum(e.data["units"] for e in evidence.logs["inventory"].events if e.type == "UnitsReleased"),
        revenue=sum((_amount(events) for events in evidence.orders.values() if _is_confirmed(events)), Decimal(0)),
        refunded=sum((Decimal(e.data["amount"]) for e in evidence.logs["payment"].events if e.type == "PaymentRefunded"), Decimal(0)),
        events=sum(len(log.events) for log in evidence.logs.values()),
    )


def _check(name: str, problems: Iterable[str], detail: str) -> Check:
    found = list(problems)
    if not found:
        return Check(name, ok=True, detail=detail)
    more = f"; and {len(found) - PROBLEMS_SHOWN_MAX:,} more" if len(found) > PROBLEMS_SHOWN_MAX else ""
    return Check(name, ok=False, detail="; ".join(found[:PROBLEMS_SHOWN_MAX]) + more)


# -- orders -----------------------------------------------------------------------------------------------------------


def _endings_amiss(evidence: Evidence) -> Iterator[str]:
    orders = evidence.orders
    if len(orders) != evidence.order_count:
        yield f"{evidence.order_count:,} orders were to be placed, the log has {len(orders):,}"
    for order_id, events in orders.items():
        if (story := [event.type for event in events]) not in (CONFIRMED, CANCELLED):
            yield f"order {order_id} is {', '.join(story)}"


def _is_confirmed(order_events: list[LoggedEvent]) -> bool:
    return any(event.type == "OrderConfirmed" for event in order_events)


def _units(order_events: list[LoggedEvent]) -> Counter[int]:
    """Units by product that an order asks for."""
    wanted: Counter[int] = Counter()
    for event in order_events:
        for line in event.data["lines"] if event.type == "OrderPlaced" else ():
            wanted[line["product_id"]] += line["quantity"]
    return wanted


def _amount(order_events: list[LoggedEvent]) -> Decimal:
    """What an order costs."""
    lines = [line for event in order_events if event.type == "OrderPlaced" for line in event.data["lines"]]
    return sum((_line_amount(line) for line in lines), Decimal(0))


def _line_amount(line: Mapping[str, Any]) -> Decimal:
    exact = Decimal(line["quantity"]) * Decimal(line["unit_price"]) * (1 - Decimal(line["discount"]))
    return exact.quantize(Decimal("0.01"), ROUND_HALF_UP)


def _cancellations_amiss(evidence: Evidence) -> Iterator[str]:
    """Every cause is what happened: a shelf that was short, a bank that said no, a bill that was never paid."""
    levels = _levels(evidence)
    reservations = evidence.by_order("inventory", "reservation")
    payments = evidence.by_order("payment", "payment")
    for order_id, events in evidence.orders.items():
        cause = events[-1].data.get("cause")
        answers = [event.type for event in reservations.get(order_id, [])]
        paid = [event.type for event in payments.get(order_id, [])]
        if (cause == "no stock") != (answers == ["ReservationRejected"]):
            yield f"order {order_id} was cancelled for {cause!r}, and the inventory said {', '.join(answers) or 'nothing'}"
        elif (cause == "payment declined") != ("PaymentDeclined" in paid and cause != "not paid in time"):
            yield f"order {order_id} was cancelled for {cause!r}, and its payment tells {', '.join(paid) or 'nothing'}"
        elif cause == "no stock":
            yield from _rejection_amiss(reservations[order_id][0], levels)
    for order_id in (reservations.keys() | payments.keys()) - evidence.orders.keys():
        yield f"other services know an order {order_id}, which nobody placed"


def _rejection_amiss(event: LoggedEvent, levels: Mapping[int, set[int]]) -> Iterator[str]:
    """A rejection saw a level that the shelf really had, and wanted more."""
    wanted, available, product_id = event.data["units_wanted"], event.data["units_available"], event.data["product_id"]
    if available >= wanted or available not in levels[product_id]:
        yield f"{event.stream_name} wanted {wanted} of product {product_id} and found {available}; it had {sorted(levels[product_id])}"


def _sagas_amiss(evidence: Evidence) -> Iterator[str]:
    if sum(evidence.sagas.values()) != evidence.order_count:
        yield f"{sum(evidence.sagas.values()):,} sagas for {evidence.order_count:,} orders"
    for status, count in evidence.sagas.items():
        if count and status not in ("completed", "compensated"):
            yield f"{count:,} sagas are {status}"


# -- stock ------------------------------------------------------------------------------------------------------------


def _stock_adds_up(evidence: Evidence) -> Iterator[str]:
    """The catalogue's stock is what the shelves hold now plus what was shipped."""
    now, shipped = _shelves(evidence), _shipped(evidence)
    for product_id, initial in evidence.initial_stock.items():
        if product_id not in now:
            yield f"product {product_id} was never counted"
        elif now[product_id] + shipped[product_id] != initial:
            yield f"product {product_id} began with {initial}, has {now[product_id]} left, and {shipped[product_id]} were shipped"
    for product_id in now.keys() - evidence.initial_stock.keys():
        yield f"product {product_id} has a stream but is in no catalogue"


def _stock_detail(evidence: Evidence) -> str:
    initial, left = sum(evidence.initial_stock.values()), sum(_shelves(evidence).values())
    return f"{initial:,} units at first = {left:,} now + {initial - left:,} shipped, product by product"


def _stock_below_zero(evidence: Evidence) -> Iterator[str]:
    for stream_name, events in evidence.logs["inventory"].streams("stock").items():
        on_hand = 0
        for event in events:
            on_hand += _units_change(event)
            if on_hand < 0:
                yield f"{stream_name} has {on_hand} units at version {event.version}"


def _units_change(event: LoggedEvent) -> int:
    change: int = UNITS_SIGN[event.type] * event.data["units"]
    return change


def _shelves(evidence: Evidence) -> dict[int, int]:
    """Units on hand by product, at the end of the log."""
    on_hand: dict[int, int] = defaultdict(int)
    for event in evidence.logs["inventory"].events:
        if event.category == "stock":
            on_hand[event.data["product_id"]] += _units_change(event)
    return on_hand


def _levels(evidence: Evidence) -> dict[int, set[int]]:
    """Every level that a product's shelf ever had."""
    levels: dict[int, set[int]] = defaultdict(set)
    for events in evidence.logs["inventory"].streams("stock").values():
        on_hand = 0
        for event in events:
            on_hand += _units_change(event)
            levels[event.data["product_id"]].add(on_hand)
    return levels


def _shipped(evidence: Evidence) -> Counter[int]:
    """Units by product that left the house."""
    shipped: Counter[int] = Counter()
    for event in evidence.logs["shipping"].events:
        if event.type == "ShipmentSent":
            shipped.update(_units_sent(event))
    return shipped


def _units_sent(shipment: LoggedEvent) -> Counter[int]:
    return Counter({units["product_id"]: units["units"] for units in shipment.data["units"]})


def _lines_amiss(evidence: Evidence) -> Iterator[str]:
    """What is off the shelves for an order, and what was sent, are its lines when it is confirmed, and nothing when it is not."""
    reserved: dict[str, Counter[int]] = defaultdict(Counter)
    for event in evidence.logs["inventory"].events:
        if event.type in ("UnitsReserved", "UnitsReleased"):
            reserved[event.data["order_id"]][event.data["product_id"]] -= _units_change(event)
    orders, shipments = evidence.orders, evidence.by_order("shipping", "shipment")
    for order_id in orders.keys() | reserved.keys() | shipments.keys():
        events = orders.get(order_id, [])
        wanted = _units(events) if _is_confirmed(events) else Counter[int]()
        sent = [_units_sent(event) for event in shipments.get(order_id, [])]
        if +reserved[order_id] != wanted or min(reserved[order_id].values(), default=0) < 0:
            yield f"order {order_id} has {dict(reserved[order_id])} reserved; {dict(wanted)} would be right"
        if sent != ([wanted] if wanted else []):
            yield f"order {order_id} was sent {[dict(units) for units in sent]}; {dict(wanted)} once would be right"


# -- money ------------------------------------------------------------------------------------------------------------


def _money_amiss(evidence: Evidence) -> Iterator[str]:
    """Payment by payment: money taken and kept is what a confirmed order costs; of any other order, nothing is kept."""
    orders, payments = evidence.orders, evidence.by_order("payment", "payment")
    for order_id in orders.keys() | payments.keys():
        events = orders.get(order_id, [])
        due = _amount(events) if _is_confirmed(events) else Decimal(0)
        kept = Decimal(0)
        for event in payments.get(order_id, []):
            kept += MONEY_SIGN.get(event.type, 0) * Decimal(event.data.get("amount", 0))
            if kept < 0:
                yield f"{event.stream_name} gave back more than it took, at version {event.version}"
        if kept != due:
            yield f"order {order_id} took {kept}; {due} would be right"


def _money_detail(evidence: Evidence) -> str:
    revenue = sum((_amount(events) for events in evidence.orders.values() if _is_confirmed(events)), Decimal(0))
    return f"{revenue:,} taken and kept = what the confirmed orders cost, order by order"


# -- read models ------------------------------------------------------------------------------------------------------


def _order_status_amiss(evidence: Evidence) -> Iterator[str]:
    status = {"OrderPlaced": "placed", "OrderPaid": "paid", "OrderConfirmed": "confirmed", "OrderCancelled": "cancelled"}
    expected: dict[str, dict[str, Any]] = {}
    for order_id, events in evidence.orders.items():
        last = events[-1]
        expected[order_id] = {
            "customer_id": events[0].data.get("customer_id"),
            "amount": _amount(events),
            "status": status[last.type],
            "cause": last.data.get("cause"),
            "reason": last.data.get("reason"),
        }
    yield from _rows_amiss("order", expected, evidence.order_status)


def _revenue_amiss(evidence: Evidence) -> Iterator[str]:
    expected: dict[str, dict[str, Any]] = {}
    for events in evidence.orders.values():
        if _is_confirmed(events):
            placed = events[0].data
            key = f"{placed['customer_id']} {datetime.fromisoformat(placed['ordered_at']):%Y-%m}"
            row = expected.setdefault(key, {"orders": 0, "amount": Decimal(0)})
            row["orders"] += 1
            row["amount"] += _amount(events)
    yield from _rows_amiss("customer and month", expected, evidence.revenue)


def _stock_level_amiss(evidence: Evidence) -> Iterator[str]:
    expected: dict[str, dict[str, Any]] = {}
    for events in evidence.logs["inventory"].streams("stock").values():
        for event in events:
            row = expected.setdefault(str(event.data["product_id"]), {"units_on_hand": 0, "units_reserved": 0})
            row["units_on_hand"] += _units_change(event)
            row["units_reserved"] -= _units_change(event) if event.type != "StockCounted" else 0
    yield from _rows_amiss("product", expected, evidence.stock_level)


def _rows_amiss(what: str, expected: Mapping[str, Mapping[str, Any]], actual: Mapping[str, Row]) -> Iterator[str]:
    for key, row in expected.items():
        if key not in actual:
            yield f"{what} {key} has no row"
        elif wrong := {name: actual[key].get(name) for name, value in row.items() if actual[key].get(name) != value}:
            yield f"{what} {key} shows {wrong}; { ({name: row[name] for name in wrong}) } would be right"
    for key in actual.keys() - expected.keys():
        yield f"{what} {key} has a row that no event explains"


def _verification_amiss(evidence: Evidence) -> Iterator[str]:
    if not evidence.differences:
        yield "nothing was verified"
    for name, differences in evidence.differences.items():
        yield from (f"{name}: {difference}" for difference in differences)


# -- Kafka ------------------------------------------------------------------------------------------------------------


def _kafka_amiss(evidence: Evidence) -> Iterator[str]:
    """The topics hold the events of every log, each once and word for word, and nothing else."""
    by_id: dict[tuple[str, str], list[KafkaRecord]] = defaultdict(list)
    for record in evidence.records:
        by_id[record.log_id, record.event_id].append(record)
    for log in evidence.logs.values():
        for event in log.events:
            found = by_id.pop((log.log_id, event.event_id), [])
            if len(found) != 1:
                yield f"{event.type} at position {event.global_position} of {event.stream_name} is in Kafka {len(found)} times"
            elif wrong := _differences(event, found[0]):
                yield f"{event.type} at position {event.global_position} of {event.stream_name} differs in Kafka: {wrong}"
    for (_, event_id), records in by_id.items():
        yield f"the event {event_id} is in topic {records[0].topic} and in no log"


def _differences(event: LoggedEvent, record: KafkaRecord) -> str:
    pairs: dict[str, tuple[object, object]] = {
        "topic": (event.category, record.topic),
        "stream": (event.stream_name, record.stream_name),
        "type": (event.type, record.type),
        "version": (event.version, record.version),
        "position": (event.global_position, record.position[1]),
        "data": (event.data, record.data),
    }
    return ", ".join(f"{name} {there!r}, not {here!r}" for name, (here, there) in pairs.items() if here != there)


def _kafka_order_amiss(evidence: Evidence) -> Iterator[str]:
    """In each partition positions grow and name the one before; each stream lives in one partition, with its versions in order."""
    last_position: dict[tuple[str, int, str], tuple[int, int]] = {}
    last_of_stream: dict[tuple[str, str], tuple[int, int]] = {}
    for record in sorted(evidence.records, key=lambda record: (record.topic, record.partition, record.offset)):
        where = f"{record.topic}/{record.partition} at offset {record.offset}"
        chain = (record.topic, record.partition, record.log_id)
        before = last_position.get(chain, LOG_START)
        if record.position <= before:
            yield f"{where}: position {record.position} after {before}"
        elif record.previous != before:
            yield f"{where}: says that {record.previous} came before it, but it was {before}"
        last_position[chain] = max(before, record.position)
        partition, version = last_of_stream.get((record.log_id, record.stream_name), (record.partition, 0))
        if partition != record.partition:
            yield f"{where}: {record.stream_name} is in partition {partition} as well"
        if record.version != version + 1:
            yield f"{where}: version {record.version} of {record.stream_name} after {version}"
        last_of_stream[record.log_id, record.stream_name] = (record.partition, max(version, record.version))

"""Did it work? Every promise of the case, tried on the evidence of one run.

A check folds the logs in its own plain way and uses none of the services' code, so that a fault there cannot hide itself here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final

from orders.evidence import Evidence, KafkaRecord, Log, LoggedEvent, Row

PROBLEMS_SHOWN_MAX: Final = 3
LOG_START: Final = (1, 0)
ANSWERS: Final = {"OrderConfirmed": "confirmed", "OrderRejected": "rejected"}
RESERVATION_ANSWERS: Final = {"StockReserved": "confirmed", "ReservationRejected": "rejected"}


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, and whether it held."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What happened to the orders and the stock, from the logs."""

    orders: int
    confirmed: int
    rejected: int
    units_demanded: int
    units_in_stock: int
    units_reserved: int
    units_left: int
    events: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_checks(evidence: Evidence) -> list[Check]:
    """Every check, in the order a reader wants them."""
    return [
        _check("stock adds up", _stock_adds_up(evidence), _stock_detail(evidence)),
        _check("stock is never negative", _stock_below_zero(evidence), "every version of every product's stream"),
        _check("every order is answered once", _answers_amiss(evidence), f"{evidence.order_count:,} orders, in both services"),
        _check("confirmed orders have every unit, rejected ones none", _lines_amiss(evidence), "order lines against stock streams"),
        _check("rejections are right", _rejections_amiss(evidence), "each names a product that was short"),
        _check("order_status is right", _order_status_amiss(evidence), f"{len(evidence.order_status):,} rows against a fold of the log"),
        _check(
            "customer_orders is right",
            _customer_orders_amiss(evidence),
            f"{len(evidence.customer_orders):,} rows against a fold of the log",
        ),
        _check("stock_level is right", _stock_level_amiss(evidence), f"{len(evidence.stock_level):,} rows against a fold of the log"),
        _check("read models verify", _verification_amiss(evidence), f"service.verify on {', '.join(sorted(evidence.differences))}"),
        _check("every event is in Kafka once", _kafka_amiss(evidence), f"{len(evidence.records):,} records"),
        _check(
            "Kafka keeps the order of every stream", _kafka_order_amiss(evidence), "positions, versions and the chain of each partition"
        ),
    ]


def summarize(evidence: Evidence) -> Summary:
    """The run in numbers."""
    types = Counter(event.type for event in evidence.orders.events)
    placed = [event for event in evidence.orders.events if event.type == "OrderPlaced"]
    left = _shelves(evidence.inventory)
    return Summary(
        orders=types["OrderPlaced"],
        confirmed=types["OrderConfirmed"],
        rejected=types["OrderRejected"],
        units_demanded=sum(line["quantity"] for event in placed for line in event.data["lines"]),
        units_in_stock=sum(evidence.initial_stock.values()),
        units_reserved=sum(event.data["units"] for event in evidence.inventory.events if event.type == "UnitsReserved"),
        units_left=sum(left.values()),
        events=len(evidence.orders.events) + len(evidence.inventory.events),
    )


def _check(name: str, problems: Iterable[str], detail: str) -> Check:
    found = list(problems)
    if not found:
        return Check(name, ok=True, detail=detail)
    more = f"; and {len(found) - PROBLEMS_SHOWN_MAX:,} more" if len(found) > PROBLEMS_SHOWN_MAX else ""
    return Check(name, ok=False, detail="; ".join(found[:PROBLEMS_SHOWN_MAX]) + more)


# -- stock ------------------------------------------------------------------------------------------------------------


def _stock_adds_up(evidence: Evidence) -> Iterator[str]:
    """The catalogue's stock is what the shelves hold now plus what confirmed orders asked for."""
    now, promised = _shelves(evidence.inventory), _promised_units(evidence)
    for product_id, initial in evidence.initial_stock.items():
        if product_id not in now:
            yield f"product {product_id} was never counted"
        elif now[product_id] + promised[product_id] != initial:
            yield f"product {product_id} began with {initial}, has {now[product_id]} left and {promised[product_id]} reserved for confirmed orders"
    for product_id in now.keys() - evidence.initial_stock.keys():
        yield f"product {product_id} has a stream but is in no catalogue"


def _stock_detail(evidence: Evidence) -> str:
    initial, left = sum(evidence.initial_stock.values()), sum(_shelves(evidence.inventory).values())
    return f"{initial:,} units at first = {left:,} now + {initial - left:,} reserved, product by product"


def _stock_below_zero(evidence: Evidence) -> Iterator[str]:
    for stream_name, events in evidence.inventory.streams("stock").items():
        on_hand = 0
        for event in events:
            on_hand += _units_change(event)
            if on_hand < 0:
                yield f"{stream_name} has {on_hand} units at version {event.version}"


def _shelves(inventory: Log) -> dict[int, int]:
    """Units on hand by product, at the end of the log."""
    on_hand: dict[int, int] = defaultdict(int)
    for event in inventory.events:
        if event.category == "stock":
            on_hand[event.data["product_id"]] += _units_change(event)
    return on_hand


def _units_change(event: LoggedEvent) -> int:
    units: int = event.data["units"]
    return units if event.type == "StockCounted" else -units


def _promised_units(evidence: Evidence) -> Counter[int]:
    """Units by product that the confirmed orders asked for."""
    promised: Counter[int] = Counter()
    for events in evidence.orders.streams("order").values():
        if any(event.type == "OrderConfirmed" for event in events):
            promised.update(_wanted_units(events))
    return promised


def _wanted_units(order_events: list[LoggedEvent]) -> Counter[int]:
    wanted: Counter[int] = Counter()
    for event in order_events:
        for line in event.data["lines"] if event.type == "OrderPlaced" else ():
            wanted[line["product_id"]] += line["quantity"]
    return wanted


# -- answers ----------------------------------------------------------------------------------------------------------


def _answers_amiss(evidence: Evidence) -> Iterator[str]:
    orders, reservations = evidence.orders.streams("order"), evidence.inventory.streams("reservation")
    if len(orders) != evidence.order_count:
        yield f"{evidence.order_count:,} orders were to be placed, the log has {len(orders):,}"
    for stream_name, events in orders.items():
        order_id = stream_name.removeprefix("order-")
        outcomes = [ANSWERS[event.type] for event in events if event.type in ANSWERS]
        answers = [RESERVATION_ANSWERS.get(event.type, event.type) for event in reservations.get(f"reservation-{order_id}", [])]
        if [event.type for event in events][:1] != ["OrderPlaced"] or len(events) != 2 or len(outcomes) != 1:
            yield f"{stream_name} holds {', '.join(event.type for event in events)}"
        elif answers != outcomes:
            yield f"{stream_name} is {outcomes[0]}, but the inventory answered: {', '.join(answers) or 'nothing'}"
    for stream_name in reservations.keys() - {f"reservation-{name.removeprefix('order-')}" for name in orders}:
        yield f"{stream_name} answers an order that nobody placed"


def _lines_amiss(evidence: Evidence) -> Iterator[str]:
    """The units that left the shelves for an order are those of its lines when it is confirmed, and none when it is not."""
    taken: dict[str, Counter[int]] = defaultdict(Counter)
    for event in evidence.inventory.events:
        if event.type == "UnitsReserved":
            taken[event.data["order_id"]][event.data["product_id"]] += event.data["units"]
    for stream_name, events in evidence.orders.streams("order").items():
        confirmed = any(event.type == "OrderConfirmed" for event in events)
        wanted = _wanted_units(events) if confirmed else Counter[int]()
        found = taken.pop(stream_name.removeprefix("order-"), Counter[int]())
        if found != wanted:
            yield f"{stream_name} is {'' if confirmed else 'not '}confirmed and has {dict(found)} reserved; {dict(wanted)} would be right"
    for order_id, units in taken.items():
        yield f"{dict(units)} are reserved for {order_id}, which nobody placed"


def _rejections_amiss(evidence: Evidence) -> Iterator[str]:
    """A rejection saw a level that the shelf really had, and wanted more."""
    levels: dict[int, set[int]] = defaultdict(set)
    for events in evidence.inventory.streams("stock").values():
        on_hand = 0
        for event in events:
            on_hand += _units_change(event)
            levels[event.data["product_id"]].add(on_hand)
    for event in evidence.inventory.events:
        if event.type == "ReservationRejected":
            wanted, available, product_id = event.data["units_wanted"], event.data["units_available"], event.data["product_id"]
            if available >= wanted or available not in levels[product_id]:
                yield f"{event.stream_name} wanted {wanted} of product {product_id} and found {available}; it had {sorted(levels[product_id])}"


# -- read models ------------------------------------------------------------------------------------------------------


def _order_status_amiss(evidence: Evidence) -> Iterator[str]:
    expected: dict[str, dict[str, Any]] = {}
    for stream_name, events in evidence.orders.streams("order").items():
        row: dict[str, Any] = {}
        for event in events:
            if event.type == "OrderPlaced":
                amount = sum((_line_amount(line) for line in event.data["lines"]), Decimal(0))
                row |= {"customer_id": event.data["customer_id"], "amount": amount, "status": "placed", "reason": None}
            elif event.type in ANSWERS:
                row |= {"status": ANSWERS[event.type], "reason": event.data.get("reason")}
        expected[stream_name.removeprefix("order-")] = row
    yield from _rows_amiss("order", expected, evidence.order_status)


def _customer_orders_amiss(evidence: Evidence) -> Iterator[str]:
    expected: dict[str, dict[str, Any]] = {}
    for event in evidence.orders.events:
        if event.type == "OrderPlaced":
            row = expected.setdefault(event.data["customer_id"], {"orders": 0, "units": 0, "amount": Decimal(0)})
            row["orders"] += 1
            row["units"] += sum(line["quantity"] for line in event.data["lines"])
            row["amount"] += sum((_line_amount(line) for line in event.data["lines"]), Decimal(0))
    yield from _rows_amiss("customer", expected, evidence.customer_orders)


def _stock_level_amiss(evidence: Evidence) -> Iterator[str]:
    expected: dict[str, dict[str, Any]] = {}
    for events in evidence.inventory.streams("stock").values():
        for event in events:
            row = expected.setdefault(str(event.data["product_id"]), {"units_on_hand": 0, "units_reserved": 0})
            row["units_on_hand"] += _units_change(event)
            row["units_reserved"] += event.data["units"] if event.type == "UnitsReserved" else 0
    yield from _rows_amiss("product", expected, evidence.stock_level)


def _rows_amiss(what: str, expected: Mapping[str, Mapping[str, Any]], actual: Mapping[str, Row]) -> Iterator[str]:
    for key, row in expected.items():
        if key not in actual:
            yield f"{what} {key} has no row"
        elif wrong := {name: actual[key].get(name) for name, value in row.items() if actual[key].get(name) != value}:
            yield f"{what} {key} shows {wrong}; { ({name: row[name] for name in wrong}) } would be right"
    for key in actual.keys() - expected.keys():
        yield f"{what} {key} has a row that no event explains"


def _line_amount(line: Mapping[str, Any]) -> Decimal:
    exact = Decimal(line["quantity"]) * Decimal(line["unit_price"]) * (1 - Decimal(line["discount"]))
    return exact.quantize(Decimal("0.01"), ROUND_HALF_UP)


def _verification_amiss(evidence: Evidence) -> Iterator[str]:
    if not evidence.differences:
        yield "nothing was verified"
    for name, differences in evidence.differences.items():
        yield from (f"{name}: {difference}" for difference in differences)


# -- Kafka ------------------------------------------------------------------------------------------------------------


def _kafka_amiss(evidence: Evidence) -> Iterator[str]:
    """The topics hold the events of both logs, each once and word for word, and nothing else."""
    by_id: dict[tuple[str, str], list[KafkaRecord]] = defaultdict(list)
    for record in evidence.records:
        by_id[record.log_id, record.event_id].append(record)
    for log in (evidence.orders, evidence.inventory):
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

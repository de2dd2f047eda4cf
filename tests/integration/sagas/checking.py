"""What must be true once every saga ended, looked for in the log alone."""

from __future__ import annotations

from collections import defaultdict

from headwater.eventstore import EventStore
from tests.integration.sagas.shop import fate_of

ENDS = {
    "paid": "OrderConfirmed",
    "short": "OrderCancelled",
    "fails": "OrderCancelled",
    "unpaid": "OrderCancelled",
    "late": "OrderCancelled",
}


async def types_by_order(store: EventStore) -> dict[str, list[str]]:
    """The types of events about each order, in the order of the log."""
    found: dict[str, list[str]] = defaultdict(list)
    position = 0
    while events := (await store.read_log(after=position)).events:
        for event in events:
            found[event.stream_name.replace("outbox:", "").partition("-")[2]].append(event.type)
        position = events[-1].global_position
    return found


def amiss(order_id: str, types: list[str]) -> str:
    """What is wrong with an order's story; empty when nothing is."""
    fate = fate_of(order_id)
    end = [found for found in types if found in {"OrderConfirmed", "OrderCancelled"}]
    if (fate == "paid" and end == ["OrderCancelled"]) or (fate == "fails" and "RefundPayment" in types):
        fate = "late"  # slow for longer than the deadline: the answer was overtaken
    if end != [ENDS[fate]]:
        return f"{order_id} ({fate}) ended {end}"
    if types.count("ReserveStock") != 1 or types.count("TakePayment") != (fate != "short"):
        return f"{order_id}: commands were sent twice or not at all: {types}"
    undone = [found for found in types if found in {"RefundPayment", "ReleaseStock"}]
    expected = {"paid": [], "short": [], "fails": ["ReleaseStock"], "unpaid": ["RefundPayment", "ReleaseStock"]}
    # A compensation may go out again while its confirmation is on the way, but the next one only afterwards.
    in_order = undone == sorted(undone, key=["RefundPayment", "ReleaseStock"].index)
    if list(dict.fromkeys(undone)) != expected.get(fate, expected["unpaid"]) or not in_order:
        return f"{order_id} ({fate}) was undone by {undone}"
    return ""

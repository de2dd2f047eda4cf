"""Records of other producers: translated whatever they hold, read by their class, and dead-lettered with a cause where they cannot be."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import fastavro
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.bus import Context, DeadLetterIt, Park, RetryPolicy
from headwater.bus.foreign import FOREIGN_VALUE_BYTES_MAX, ForeignTopic, ForeignValues, stream_of, translated
from headwater.errors import UsageError
from headwater.kafka import JSON_DECODER, Partition, decode_headers
from headwater.messages import Event, NewEvent, check_stream_name
from headwater.schemas import frame
from headwater.testing.memory_bus import MemoryRecord
from tests.unit.bus.world import OrderPlaced, StockReserved, World

TOPIC = "legacy-orders"
BAD: dict[str, tuple[bytes | None, str]] = {
    "tombstone": (None, "tombstone"),
    "empty": (b"", "empty"),
    "not JSON": (b"<order/>", "Invalid JSON"),
    "wrong encoding": ('{"sku": "Käse"}'.encode("latin-1"), "not UTF-8"),
    "cut off": (b'{"sku": "te', "Invalid JSON"),
    "deeply nested": (b'{"sku": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "recursion limit"),
    "another shape": (b'{"article": 7}', "sku"),
    "a list": (b"[1, 2]", "object"),
    "huge": (b'{"sku": "' + b"x" * FOREIGN_VALUE_BYTES_MAX + b'"}', "at most"),
    "NUL": (b'{"sku": "\x00"}', "control character"),
}
SCHEMA = {
    "type": "record",
    "name": "Order",
    "namespace": "com.example.legacy",
    "fields": [
        {"name": "sku", "type": "string"},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
        {"name": "placed_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {
            "name": "note",
            "type": ["null", {"type": "record", "name": "Note", "fields": [{"name": "text", "type": "string"}]}],
            "default": None,
        },
        {"name": "unknown_here", "type": {"type": "map", "values": "double"}},
    ],
}


class LegacyOrder(Event, category="never"):
    sku: str
    quantity: int = 1


class Note(Event):
    text: str


class LegacyAvroOrder(Event):
    sku: str
    price: Decimal
    placed_at: datetime
    note: Note | None = None


class Registry:
    """Knows one schema, and counts the questions."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {17: orjson.dumps(SCHEMA).decode()}
        self.asked: list[int] = []

    async def find(self, schema_id: int) -> str | None:
        self.asked.append(schema_id)
        return self.texts.get(schema_id)


def avro(schema_id: int = 17, **changes: Any) -> bytes:
    datum = {
        "sku": "tea",
        "price": Decimal("9.50"),
        "placed_at": datetime(2026, 1, 2, tzinfo=UTC),
        "note": {"text": "hi"},
        "unknown_here": {"a": 1.5},
    }
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(SCHEMA), {**datum, **changes})
    return frame(schema_id) + out.getvalue()


# -- translating


@given(
    st.one_of(st.none(), st.binary(max_size=700), st.text(max_size=600).map(str.encode)),
    st.lists(
        st.tuples(
            st.sampled_from(["ce_type", "ce_id", "headwater-position", "correlation_id", "traceparent", "headwater_sealed", "x"])
            | st.text(max_size=20),
            st.none() | st.binary(max_size=50) | st.text(max_size=9_000).map(lambda text: text.encode()),
        ),
        max_size=6,
    ),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**62),
    st.sampled_from([TOPIC, "_x", "-.-", "a" * 249, "__consumer"]),
)
def test_whatever_a_record_holds_it_is_translated_and_can_be_read(
    key: bytes | None, headers: list[tuple[str, Any]], timestamp: int, offset: int, name: str
) -> None:
    topic = ForeignTopic.of(name, LegacyOrder, "json", None)
    record = translated(topic, MemoryRecord(name, 3, offset, timestamp, key, b"{}", tuple(headers)))
    envelope = decode_headers(record.key, record.headers, record.timestamp)
    assert check_stream_name(envelope.event.stream_name)
    assert (envelope.event.type, envelope.position) == (f"LegacyOrder@{name}", (1, offset + 1))
    assert "headwater_sealed" not in envelope.event.metadata
    assert sum(len(text) for item in envelope.event.metadata.items() for text in item) <= 16 * 1024
    assert len(envelope.event.correlation_id) <= 200
    again = translated(topic, MemoryRecord(name, 3, offset, 0, None, None))
    assert decode_headers(again.key, again.headers, 0).event.event_id == envelope.event.event_id


def test_the_key_tells_the_stream() -> None:
    assert stream_of("legacy-orders", b"A/7", 2) == "legacy_orders-A/7"
    assert stream_of("legacy-orders", None, 2) == "legacy_orders-partition:2"
    assert stream_of("legacy-orders", b"\xff\x01", 2) == "legacy_orders-hex:ff01"
    assert stream_of("legacy-orders", b"k" * 600, 2).startswith("legacy_orders-hash:")


# -- handling


def put(world: World, value: bytes | None, *, key: bytes | None = b"k", topic: str = TOPIC, headers: Any = ()) -> None:
    world.topics.put(Partition(topic, 0), key=key, value=value, headers=headers)


async def test_records_are_handled_in_order_once_with_their_key_and_headers() -> None:
    world = World(partition_count=1)

    @world.subscriptions.on_topic(TOPIC, LegacyOrder)
    async def take(event: LegacyOrder, context: Context) -> None:
        world.handled.append(f"{context.stream_name}: {event.quantity} {event.sku} {context.metadata.get('source')}")
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))

    for number in range(5):
        put(world, orjson.dumps({"sku": f"s{number}", "more": [1]}), headers=[("source", b"mainframe"), ("correlation_id", b"story")])
    async with world.running():
        await world.caught_up()
    assert world.handled == [f"legacy_orders-k: 1 s{number} mainframe" for number in range(5)]
    async with world.running():
        put(world, b'{"sku": "last"}', key=None)
        await world.caught_up()
    assert world.handled[5:] == ["legacy_orders-partition:0: 1 last None"]
    appended = [event for event in world.store.events if event.category == "stock"]
    assert len(appended) == 6
    assert [event.metadata["correlation_id"] for event in appended[:5]] == ["story"] * 5


async def test_each_kind_of_bad_input_becomes_a_dead_letter_with_its_cause_and_nothing_stops() -> None:
    world = World(partition_count=1)

    @world.subscriptions.on_topic(TOPIC, LegacyOrder)
    async def take(event: LegacyOrder, context: Context) -> None:
        await context.append("stock-all", StockReserved(sku=event.sku))

    for name, (value, _) in BAD.items():
        put(world, value)
        put(world, orjson.dumps({"sku": f"after {name}"}))
    async with world.running():
        await world.caught_up()
    assert [orjson.loads(event.data)["sku"] for event in world.store.events] == [f"after {name}" for name in BAD]
    causes = {name: letter.error_message for name, letter in zip(BAD, await world.effects.dead_letters.list(), strict=True)}
    for name, (_, says) in BAD.items():
        assert says in causes[name], f"{name}: {causes[name][:200]}"


async def test_foreign_avro_is_read_by_the_schema_its_registry_knows() -> None:
    registry = Registry()
    world = World(partition_count=1)

    @world.subscriptions.on_topic(TOPIC, LegacyAvroOrder, format="avro", schemas=registry)
    async def take(event: LegacyAvroOrder, context: Context) -> None:
        note = event.note.text if event.note else "-"
        await context.append("stock-all", StockReserved(sku=f"{event.sku} {event.price} {event.placed_at:%Y-%m-%d} {note}"))

    bad = {
        "tombstone": (None, "tombstone"),
        "empty": (b"", "wire format"),
        "plain JSON": (b'{"sku": "tea"}', "wire format"),
        "unknown schema": (avro(18), "schema 18, which its registry does not know"),
        "cut off": (avro()[:-3], "damaged"),
        "left over": (avro() + b"!", "left over"),
        "no content": (frame(17), "damaged"),
        "huge": (frame(17) + b"\x00" * FOREIGN_VALUE_BYTES_MAX, "at most"),
        "a schema that is none": (avro(19), "cannot be used"),
    }
    registry.texts[19] = '{"type": "nonsense"}'
    put(world, avro())
    for value, _ in bad.values():
        put(world, value)
    put(world, avro(note=None, sku="coffee"))
    async with world.running():
        await world.caught_up()
    taken = [orjson.loads(event.data)["sku"] for event in world.store.events]
    assert taken == ["tea 9.50 2026-01-02 hi", "coffee 9.50 2026-01-02 -"]
    letters = await world.effects.dead_letters.list()
    for (name, (_, says)), letter in zip(bad.items(), letters, strict=True):
        assert says in letter.error_message, f"{name}: {letter.error_message}"
    assert sorted(registry.asked) == [17, 18, 19], "each id is asked for once"


async def test_a_dead_letter_whose_schema_turns_up_can_be_read() -> None:
    registry = Registry()
    topic = ForeignTopic.of(TOPIC, LegacyAvroOrder, "avro", registry)
    values = ForeignValues.around(JSON_DECODER, {TOPIC: topic})
    value = avro(23)
    await values.prepare([value], again=True)
    registry.texts[23] = registry.texts[17]
    await values.prepare([value], again=True)
    assert orjson.loads(values.decode(value, topic.content_type))["sku"] == "tea"


async def test_options_say_what_becomes_of_failures_as_those_of_on_do() -> None:
    """Lanes run keys at once, a key that fails is parked, and another error is a dead letter at once."""
    world = World(partition_count=1)
    failures = 1

    @world.subscriptions.on_topic(
        TOPIC,
        LegacyOrder,
        lanes=4,
        retry=RetryPolicy(attempts_max=1, then=Park(first_delay_seconds=5.0, jitter=0.0)),
        on_error={ValueError: DeadLetterIt()},
    )
    async def take(event: LegacyOrder, context: Context) -> None:
        nonlocal failures
        if event.sku == "bad":
            raise ValueError("never")
        if context.stream_name == "legacy_orders-a" and failures:
            failures -= 1
            raise ConnectionError("not now")
        await context.append("stock-all", NewEvent("Taken", f'["{context.stream_name[-1]}", "{event.sku}"]'))

    for key, sku in [("a", "1"), ("a", "2"), ("b", "3"), ("b", "bad"), ("b", "4")]:
        put(world, orjson.dumps({"sku": sku}), key=key.encode())
    async with world.running():
        await world.caught_up()
        await world.until(lambda: len(world.stream_names("stock")) == 4)
    taken = [orjson.loads(event.data) for event in world.store.events if event.category == "stock"]
    assert [one for one in taken if one[0] == "a"] == [["a", "1"], ["a", "2"]]
    assert taken[:2] == [["b", "3"], ["b", "4"]], "which waited for nobody"
    (letter,) = world.effects.letters
    assert letter.error_type == "ValueError"


def test_what_cannot_be_declared_is_refused() -> None:
    world = World()
    with pytest.raises(UsageError, match=r"on_topic\(..., lanes=True\)"):
        world.subscriptions.on_topic(TOPIC, LegacyOrder, lanes=True)
    with pytest.raises(UsageError, match="on_topic\\(\\) knows no option retries"):
        world.subscriptions.on_topic(TOPIC, LegacyOrder, retries=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with pytest.raises(UsageError, match="249"):
        world.subscriptions.on_topic("no spaces", LegacyOrder)
    with pytest.raises(UsageError, match="'json' or 'avro'"):
        world.subscriptions.on_topic(TOPIC, LegacyOrder, format="xml")
    with pytest.raises(UsageError, match="only Avro"):
        world.subscriptions.on_topic(TOPIC, LegacyOrder, schemas=Registry())
    world.subscriptions.on_topic(TOPIC, LegacyOrder)
    with pytest.raises(UsageError, match="declared before as LegacyOrder in json"):
        world.subscriptions.on_topic(TOPIC, LegacyAvroOrder)

    @world.subscriptions.on(OrderPlaced)
    async def own(event: OrderPlaced) -> None: ...

    @world.subscriptions.on_topic("order", LegacyOrder)
    async def foreign(event: LegacyOrder) -> None: ...

    with pytest.raises(UsageError, match="Headwater's own"):
        _ = world.subscriptions.topics

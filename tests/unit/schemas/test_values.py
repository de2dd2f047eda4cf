"""From one service's log to another service's handler, without a common database."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from headwater import Event
from headwater.errors import SchemaError, SchemaMismatch, UnknownSchema
from headwater.kafka import AVRO_CONTENT, JSON_CONTENT
from headwater.messages import EventRegistry, RecordedEvent
from headwater.schemas import AvroCodec, AvroDecoder, AvroEncoder, SchemaRegistry, candidate_ids, frame, schema_id_of
from headwater.schemas.values import LOOK_AGAIN_SECONDS
from headwater.testing import FakeClock
from headwater.testing.memory_schemas import MemorySchemaBoard, MemorySchemas


class StockCounted(Event):
    sku: str
    count: int


def recorded(data: str, event_type: str = "StockCounted") -> RecordedEvent:
    return RecordedEvent(1, "stock-1", 1, event_type, data, {}, uuid4(), datetime.now(UTC))


class Pair:
    """A writer and a reader who share nothing but the topic."""

    def __init__(self) -> None:
        self.board = MemorySchemaBoard()
        self.encoder = AvroEncoder(EventRegistry([StockCounted]), MemorySchemas(), self.board)
        self.reader_board = MemorySchemaBoard(self.board.topic)
        self.decoder = AvroDecoder(self.reader_board)

    async def carry(self, event: RecordedEvent) -> tuple[str, bytes]:
        await self.encoder.prepare([event.type])
        value, content_type = self.encoder.encode(event)
        await self.decoder.prepare([value])
        return self.decoder.decode(value, content_type), content_type


async def test_reader_with_another_database_finds_the_schema() -> None:
    text, content_type = await Pair().carry(recorded('{"sku": "chai", "count": 3}'))
    assert json.loads(text) == {"sku": "chai", "count": 3}
    assert content_type == AVRO_CONTENT


@pytest.mark.parametrize(
    "data",
    [
        '{"sku": "chai", "count": 18446744073709551616}',
        '{"sku": "chai", "count": 3, "coupon": "written by a newer version"}',
        '{"nothing": "that fits"}',
    ],
)
async def test_what_the_schema_does_not_carry_exactly_travels_as_json(data: str) -> None:
    assert await Pair().carry(recorded(data)) == (data, JSON_CONTENT)


async def test_events_without_a_class_travel_as_json() -> None:
    assert await Pair().carry(recorded('{"a": 1}', event_type="NobodyKnows")) == ('{"a": 1}', JSON_CONTENT)


async def test_schema_is_published_before_it_is_used_and_once() -> None:
    pair = Pair()
    for _ in range(3):
        await pair.carry(recorded('{"sku": "chai", "count": 3}'))
    assert [schema_id for schema_id, _ in pair.board.topic] == [schema_id_of(pair.encoder.encode(recorded('{"sku": "c", "count": 3}'))[0])]
    assert pair.reader_board.refresh_count == 1


async def test_ids_agree_between_databases_that_know_nothing_of_each_other() -> None:
    one, other = MemorySchemas(), MemorySchemas()
    await other.register("else", '"string"')
    assert (await one.register("s", '"long"')).schema_id == (await other.register("s", '"long"')).schema_id


async def test_registering_is_idempotent_and_counts_versions() -> None:
    await check_registry(MemorySchemas())


async def check_registry(registry: SchemaRegistry) -> None:
    """What every registry promises."""
    first = await registry.register("stock-stock.StockCounted", '"long"')
    assert first.version == 1
    assert await registry.register("stock-stock.StockCounted", '"long"') == first
    second = await registry.register("stock-stock.StockCounted", '"string"')
    assert (second.version, second.schema_id == first.schema_id) == (2, False)
    elsewhere = await registry.register("other-stock.StockCounted", '"string"')
    assert (elsewhere.version, elsewhere.schema_id) == (1, second.schema_id)
    assert await registry.find(first.schema_id) == '"long"'
    assert await registry.find(12345) is None


async def test_id_that_is_taken_gives_way_to_the_next() -> None:
    fingerprint = bytes(range(32))
    first, second, *_ = candidate_ids(fingerprint)
    assert first != second
    assert next(candidate_ids(bytes(32))) > 0


async def test_id_that_means_two_schemas_is_refused_on_both_sides() -> None:
    board = MemorySchemaBoard()
    assert await board.publish({7: '"long"'}) == {}
    clashes = await board.publish({7: '"string"', 8: '"bytes"'})
    assert list(clashes) == [7]
    assert "another schema" in str(clashes[7])
    board.topic.append((7, '"string"'))  # both at the same moment
    reader = AvroDecoder(MemorySchemaBoard(board.topic))
    await reader.prepare([frame(7) + b"\x02"])
    with pytest.raises(UnknownSchema):
        reader.decode(frame(7) + b"\x02", AVRO_CONTENT)


async def test_class_whose_id_is_taken_in_the_cluster_travels_as_json() -> None:
    first = Pair()
    await first.carry(recorded('{"sku": "chai", "count": 3}'))
    second = Pair()
    second.board.topic.append((first.board.topic[0][0], '"somebody else was first"'))
    assert await second.carry(recorded('{"sku": "chai", "count": 3}')) == ('{"sku": "chai", "count": 3}', JSON_CONTENT)


async def test_unknown_schema_is_looked_for_again_after_a_while() -> None:
    clock, pair = FakeClock(), Pair()
    decoder = AvroDecoder(pair.reader_board, clock=clock)
    codec = AvroCodec(StockCounted)
    value = codec.own.encode_json('{"sku": "chai", "count": 3}', prefix=frame(99))
    await decoder.prepare([value])
    pair.board.topic.append((99, codec.schema_text))
    await decoder.prepare([value])
    with pytest.raises(UnknownSchema):
        decoder.decode(value, AVRO_CONTENT)
    await clock.advance(LOOK_AGAIN_SECONDS)
    await decoder.prepare([value])
    assert json.loads(decoder.decode(value, AVRO_CONTENT)) == {"sku": "chai", "count": 3}


async def test_unknown_schema_is_looked_for_once() -> None:
    pair = Pair()
    for _ in range(3):
        await pair.decoder.prepare([frame(99) + b"x", None, b"", b"\x00", b"{}"])
    assert pair.reader_board.refresh_count == 1
    with pytest.raises(UnknownSchema, match="99"):
        pair.decoder.decode(frame(99) + b"x", AVRO_CONTENT)


@pytest.mark.parametrize("value", [b"", b"\x01abcdef", b"\x00\x00", b"{}"])
async def test_value_that_is_no_avro_is_told(value: bytes) -> None:
    with pytest.raises(SchemaMismatch):
        Pair().decoder.decode(value, AVRO_CONTENT)


async def test_garbage_on_the_schemas_topic_harms_only_its_own_id() -> None:
    pair = Pair()
    pair.board.topic += [(5, "no json"), (6, '{"type": "record"}'), (7, "[1]")]
    await pair.decoder.prepare([frame(number) + b"x" for number in (5, 6, 7)])
    with pytest.raises(UnknownSchema):
        pair.decoder.decode(frame(6) + b"x", AVRO_CONTENT)
    await pair.carry(recorded('{"sku": "chai", "count": 3}'))


def test_service_start_names_the_class_that_has_no_schema() -> None:
    class Unwritable(Event):
        call: type

    with pytest.raises(SchemaError, match=r"Unwritable\.call"):
        AvroEncoder(EventRegistry([Unwritable]), MemorySchemas(), MemorySchemaBoard()).check()

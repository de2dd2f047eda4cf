"""The codec: refusing what it would change, and reading what other versions of a class wrote."""

from __future__ import annotations

import contextlib
import io
import json
from datetime import datetime
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater import Event
from headwater.errors import InvalidEvent, SchemaMismatch
from headwater.schemas import AvroCodec, SchemaCodec, frame, schema_id_of
from headwater.schemas.logical import LOGICAL


class PriceSet(Event):
    sku: str
    cents: int
    is_final: bool
    rate: float = 0.5
    note: str | None = None
    at: datetime | None = None


GOOD: dict[str, Any] = {"sku": "chai", "cents": 5, "is_final": True, "rate": 1.5, "note": None, "at": None}
codec = AvroCodec(PriceSet)


@pytest.mark.parametrize(
    "change",
    [
        {"cents": 1.5}, {"cents": 1.0}, {"cents": True}, {"cents": "5"}, {"cents": None}, {"cents": 2**63}, {"cents": -(2**63) - 1},
        {"is_final": 1}, {"is_final": None}, {"is_final": "yes"}, {"rate": True}, {"rate": "nan"}, {"rate": None}, {"sku": 5}, {"sku": None},
        {"note": 5}, {"note": ["x"]}, {"at": 5}, {"coupon": "from a newer version"},
    ],
)  # fmt: skip
def test_json_that_the_schema_would_change_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SchemaMismatch, match=next(iter(change))):
        codec.encode_json(json.dumps({**GOOD, **change}))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '"x"'])
def test_text_that_is_no_event_is_refused(text: str) -> None:
    with pytest.raises(SchemaMismatch):
        codec.encode_json(text)


def test_missing_fields_take_their_defaults() -> None:
    content = codec.encode_json('{"sku": "chai", "cents": 5, "is_final": false}')
    assert codec.decode(content) == PriceSet(sku="chai", cents=5, is_final=False)


@pytest.mark.parametrize(
    "moment",
    [
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05.000001Z",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
        "1969-12-31T23:59:59.999999Z",
    ],
)
def test_moment_in_utc_is_a_number(moment: str) -> None:
    content = codec.encode_json(json.dumps({**GOOD, "at": moment}))
    assert moment.encode() not in content
    assert json.loads(codec.own.decode_json(content))["at"] == moment


@pytest.mark.parametrize(
    "moment",
    ["2026-01-02T03:04:05+02:00", "2026-01-02T03:04:05", "2026-01-02T03:04:05.000000Z", "2026-01-02T03:04:05.5Z", "2026-01-02T24:00:00Z",
     "2026-01-02T03:04:60Z", "2026-02-30T03:04:05Z", "٢٠٢٦-01-02T03:04:05Z", "2026-W01-1T03:04:05Z", "2026-01-02t03:04:05Z", "x"],
)  # fmt: skip
def test_moment_written_in_another_way_stays_as_it_is(moment: str) -> None:
    content = codec.encode_json(json.dumps({**GOOD, "at": moment}))
    assert json.loads(codec.own.decode_json(content))["at"] == moment


@given(st.sampled_from(sorted(LOGICAL)), st.text(st.sampled_from("0123456789-.:TZ+ _eE"), max_size=12))
def test_conversions_are_exact_or_refuse(name: str, text: str) -> None:
    conversion = LOGICAL[name]({"precision": 6, "scale": 2})
    try:
        native = conversion.to_avro(text)
    except ValueError:
        return
    assert conversion.to_json(native) == text


def test_reader_takes_what_another_version_of_the_class_wrote() -> None:
    def as_it_was() -> type[Event]:
        class PriceSet(Event):
            sku: str
            cents: int
            gone: str

        return PriceSet

    older = AvroCodec(as_it_was())
    content = older.encode_json('{"sku": "chai", "cents": 5, "gone": "x"}')

    class Newer(Event):
        sku: str
        cents: float
        came: int = 7

    writer = SchemaCodec(json.loads(older.schema_text))
    assert AvroCodec(Newer).decode(content, writer) == Newer(sku="chai", cents=5.0)
    with pytest.raises(InvalidEvent, match="is_final"):
        codec.decode(content, writer)


def test_other_avro_readers_see_the_usual_types() -> None:
    content = codec.encode_json(json.dumps({**GOOD, "at": "2026-01-02T03:04:05.000006Z"}))
    read: Any = fastavro.schemaless_reader(io.BytesIO(content), fastavro.parse_schema(json.loads(codec.schema_text)), None)
    assert read["cents"] == 5
    assert read["at"] == datetime.fromisoformat("2026-01-02T03:04:05.000006+00:00")


@given(st.binary(max_size=60))
def test_damaged_bytes_are_told_or_read_never_worse(content: bytes) -> None:
    with contextlib.suppress(SchemaMismatch):
        json.loads(codec.own.decode_json(content))


@given(st.data())
def test_value_cut_short_or_with_more_behind_is_damaged(data: st.DataObject) -> None:
    content = codec.encode_json(json.dumps(GOOD))
    cut = data.draw(st.integers(0, len(content) - 1))
    for damaged in (content[:cut], content + b"\x00"):
        with pytest.raises(SchemaMismatch):
            codec.own.decode_json(damaged)


def test_frame_is_the_confluent_one() -> None:
    assert frame(258) == b"\x00\x00\x00\x01\x02"
    assert schema_id_of(frame(2**31 - 1) + b"x") == 2**31 - 1
    for value in (None, b"", b"\x00\x00", b"\x01\x00\x00\x00\x01", b'{"a": 1}'):
        with pytest.raises(SchemaMismatch):
            schema_id_of(value)

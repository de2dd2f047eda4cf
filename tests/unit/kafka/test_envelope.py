"""One event as a Kafka record, and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import NotAnEnvelope, SchemaMismatch
from headwater.kafka import (
    AVRO_CONTENT,
    JSON_CONTENT,
    Envelope,
    Provenance,
    decode_headers,
    decode_record,
    encode_envelope,
    event_topic,
    kind_of,
    partition_of,
    provenance_of,
    topic_of,
)
from headwater.messages import LOG_START, LogPosition, RecordedEvent

LOG_ID = UUID("6f1c3f5e-0d52-4f53-9a3f-0d4f5a3a9a11")
EVENT_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")


def recorded(**changes: object) -> RecordedEvent:
    fields: dict[str, object] = {
        "global_position": 42,
        "stream_name": "order-7",
        "version": 3,
        "type": "OrderPlaced",
        "data": '{"sku": "chai"}',
        "metadata": {"correlation_id": "c", "causation_id": "d", "traceparent": "00-ab-cd-01", "tenant": "nord"},
        "event_id": EVENT_ID,
        "recorded_at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    }
    return RecordedEvent(**{**fields, **changes})  # type: ignore[arg-type]


def envelope(**changes: object) -> Envelope:
    return Envelope(event=recorded(**changes), log_id=LOG_ID, position=LogPosition(2, 42), previous=LogPosition(1, 40))


def test_a_record_has_cloudevents_headers_in_binary_mode() -> None:
    key, value, headers, timestamp_ms = encode_envelope(envelope(), source="/services/orders")
    assert (key, value, timestamp_ms) == (b"order-7", b'{"sku": "chai"}', 1767323045678)
    assert dict(headers) == {
        "ce_specversion": b"1.0",
        "ce_id": str(EVENT_ID).encode(),
        "ce_type": b"OrderPlaced",
        "ce_source": b"/services/orders",
        "ce_time": b"2026-01-02T03:04:05.678901+00:00",
        "ce_subject": b"order-7",
        "content-type": b"application/json",
        "headwater-log": str(LOG_ID).encode(),
        "headwater-position": b"2:42",
        "headwater-previous": b"1:40",
        "headwater-version": b"3",
        "correlation_id": b"c",
        "causation_id": b"d",
        "traceparent": b"00-ab-cd-01",
        "headwater-meta-tenant": b"nord",
    }


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    stream=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40),
    metadata=st.dictionaries(ANY_TEXT, ANY_TEXT),
    recorded_at=st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2200, 1, 1), timezones=st.just(UTC)),
)
def test_an_envelope_comes_back_as_it_was_sent(stream: str, metadata: dict[str, str], recorded_at: datetime) -> None:
    sent = envelope(stream_name=f"order-{stream}", metadata=metadata, recorded_at=recorded_at)
    assert decode_record(*encode_envelope(sent, source="/s")) == sent


def test_recorded_at_comes_back_in_utc() -> None:
    east = envelope(recorded_at=datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))))
    assert decode_record(*encode_envelope(east, source="/s")).event.recorded_at == datetime(2026, 1, 2, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "missing",
    ["ce_id", "ce_type", "ce_time", "ce_subject", "headwater-log", "headwater-position", "headwater-previous", "headwater-version"],
)
def test_a_record_without_a_header_is_no_envelope(missing: str) -> None:
    key, value, headers, timestamp_ms = encode_envelope(envelope(), source="/s")
    with pytest.raises(NotAnEnvelope, match=missing):
        decode_record(key, value, [h for h in headers if h[0] != missing], timestamp_ms)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("headwater-position", b"x"),
        ("headwater-position", b"2:40"),
        ("ce_id", b"1"),
        ("ce_time", b"soon"),
        ("ce_type", b"\xff"),
        ("headwater-previous", None),
    ],
)
def test_a_damaged_header_is_no_envelope(name: str, value: bytes) -> None:
    key, data, headers, timestamp_ms = encode_envelope(envelope(), source="/s")
    damaged = [(n, value if n == name else v) for n, v in headers]
    if name == "headwater-position" and value == b"2:40":
        damaged = [(n, b"2:41" if n == "headwater-previous" else v) for n, v in damaged]
    with pytest.raises(NotAnEnvelope):
        decode_record(key, data, damaged, timestamp_ms)


@pytest.mark.parametrize("key", [None, b"order-8"])
def test_a_foreign_key_is_no_envelope(key: bytes | None) -> None:
    _, value, headers, timestamp_ms = encode_envelope(envelope(), source="/s")
    with pytest.raises(NotAnEnvelope):
        decode_record(key, value, headers, timestamp_ms)


@pytest.mark.parametrize("value", [None, b"", b"\xff"])
def test_a_value_that_cannot_be_read_leaves_the_headers_readable(value: bytes | None) -> None:
    key, _, headers, timestamp_ms = encode_envelope(envelope(), source="/s")
    with pytest.raises(SchemaMismatch):
        decode_record(key, value, headers, timestamp_ms)
    assert decode_headers(key, headers, timestamp_ms).position == envelope().position


def test_the_content_type_says_what_the_value_is() -> None:
    record = encode_envelope(envelope(), source="/s", encoded=(b"\x00...", AVRO_CONTENT))
    assert kind_of(record[2]) == (envelope().event.type, AVRO_CONTENT)
    assert kind_of(encode_envelope(envelope(), source="/s")[2])[1] == JSON_CONTENT
    with pytest.raises(SchemaMismatch, match="AvroDecoder"):
        decode_record(*record)


def test_the_position_of_a_foreign_record_is_none() -> None:
    assert provenance_of([("x", b"y")]) is None
    assert provenance_of(encode_envelope(envelope(), source="/s")[2]) == Provenance(LOG_ID, LogPosition(2, 42), EVENT_ID)


def test_a_topic_is_named_by_the_category() -> None:
    assert topic_of("order") == "order"
    assert event_topic(recorded(stream_name="stock-a-b")) == "stock"


@pytest.mark.parametrize(
    ("key", "positive_hash"), [(b"21", 1173551340), (b"foobar", 1357151166), (b"a-little-bit-long-string", 1161502112)]
)
def test_partitions_are_those_of_the_java_client(key: bytes, positive_hash: int) -> None:
    """Values of the Java client's own test (-973932308, -790332482, -985981536), without the sign."""
    assert [partition_of(key, count) for count in (1, 6, 1000)] == [0, positive_hash % 6, positive_hash % 1000]


def test_the_first_record_names_the_start_of_the_log() -> None:
    first = Envelope(event=recorded(), log_id=LOG_ID, position=LogPosition(1, 42), previous=LOG_START)
    assert decode_record(*encode_envelope(first, source="/s")).previous == LOG_START

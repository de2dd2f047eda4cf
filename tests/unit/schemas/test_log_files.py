"""Files of a log: what goes in comes out, digit by digit, and what is damaged is named by its line."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from headwater.errors import LogFileDamaged
from headwater.schemas import FileEvent, LogFileFormat, LogFileHeader, format_of, open_reader, open_writer

MOMENT = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
HEADER = LogFileHeader(log_id=UUID(int=7), epochs=((1, 0), (2, 40)), after=3, through=90, categories=("order", "stock"), exported_at=MOMENT)
EVENT: dict[str, Any] = {
    "position": 5,
    "stream_name": "order-1",
    "version": 1,
    "type": "OrderPlaced",
    "event_id": "0199a6c0-5b1e-7c3a-9d4e-0c9b6a1f2e3d",
    "recorded_at": "2026-01-31T12:00:00.123456Z",
    "tags": [],
    "metadata": {},
    "data": {"sku": "chai"},
}
DATA = [
    '{"sku": "chai"}',
    '{"price": 1.50, "huge": 123456789012345678901234567890.10, "data": 1}',
    "1" + "0" * 5_000,
    '"é€😀 \\u2028 \\" ,\\"data\\":"',
    "[]",
    "null",
]
FORMATS = [(LogFileFormat.JSONL, False), (LogFileFormat.JSONL, True), (LogFileFormat.AVRO, False), (LogFileFormat.AVRO, True)]


def events() -> list[FileEvent]:
    return [
        FileEvent(
            line=0,
            position=10 + number,
            stream_name=f"order-é{number}",
            version=number + 1,
            type="OrderPlaced",
            event_id=str(UUID(int=number)),
            recorded_at=MOMENT,
            metadata='{"correlation_id":"é","data":"x"}' if number else "{}",
            tags=("a", "é") if number % 2 else (),
            data=data,
        )
        for number, data in enumerate(DATA)
    ]


def written(file_format: LogFileFormat = LogFileFormat.JSONL, *, is_gzip: bool = False, given: Iterable[FileEvent] | None = None) -> bytes:
    stream = io.BytesIO()
    with open_writer(stream, HEADER, file_format, is_gzip=is_gzip) as writer:
        writer.write(events() if given is None else given)
        writer.finish()
    return stream.getvalue()


def read(content: bytes, batch: int = 2) -> list[FileEvent]:
    reader, found = open_reader(io.BytesIO(content)), []
    while events := reader.read(batch, 1_000_000):
        found += events
    return found


def lines(*members: dict[str, Any] | str, count: int | None = None) -> bytes:
    """A file of these events, by hand."""
    body = [member if isinstance(member, str) else json.dumps(member) for member in members]
    end = {"end_of_log": True, "event_count": len(body) if count is None else count}
    return "\n".join(['{"headwater_log": 1}', *body, json.dumps(end), ""]).encode()


@pytest.mark.parametrize(("file_format", "is_gzip"), FORMATS)
def test_what_is_written_is_read_again_digit_by_digit(file_format: LogFileFormat, is_gzip: bool) -> None:
    content = written(file_format, is_gzip=is_gzip)
    assert file_format is LogFileFormat.AVRO or content == written(file_format, is_gzip=is_gzip), "the same log gives the same bytes"
    assert open_reader(io.BytesIO(content)).header == HEADER
    assert [event._replace(line=0) for event in read(content)] == events()


@pytest.mark.parametrize(("file_format", "is_gzip"), FORMATS)
def test_log_without_events_is_a_whole_file(file_format: LogFileFormat, is_gzip: bool) -> None:
    assert read(written(file_format, is_gzip=is_gzip, given=[])) == []


@pytest.mark.parametrize(("file_format", "is_gzip"), FORMATS)
def test_file_cut_off_anywhere_is_refused(file_format: LogFileFormat, is_gzip: bool) -> None:
    content = written(file_format, is_gzip=is_gzip)
    for length in {0, 1, 3, 20, len(content) // 3, len(content) // 2, len(content) - 30, len(content) - 9, len(content) - 2}:
        with pytest.raises(LogFileDamaged):
            read(content[:length])


@pytest.mark.parametrize("file_format", LogFileFormat)
def test_altered_bytes_of_a_compressed_file_are_refused(file_format: LogFileFormat) -> None:
    content = written(file_format, is_gzip=True)
    for at in range(len(content) - 200, len(content), 7):
        with pytest.raises(LogFileDamaged):
            read(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])


def test_members_come_in_any_order_with_any_spaces() -> None:
    shuffled = dict(reversed(EVENT.items()))
    (event,) = read(lines(json.dumps(shuffled, indent=None, separators=(" , ", " : "))))
    assert (event.line, event.position, event.data, event.metadata, event.tags) == (2, 5, '{"sku" : "chai"}', "{}", ())
    assert event.event_id == EVENT["event_id"]


def test_position_metadata_and_tags_may_be_left_out() -> None:
    (event,) = read(lines({name: value for name, value in EVENT.items() if name not in ("position", "metadata", "tags")}))
    assert (event.position, event.metadata, event.tags) == (None, "{}", ())


@pytest.mark.parametrize(
    ("content", "says", "line"),
    [
        pytest.param(b"", "header", 1, id="empty"),
        pytest.param(b"hello\n", "header", 1, id="no log"),
        pytest.param(b'{"headwater_log": 2}\n', "version 2", 1, id="later format"),
        pytest.param(b'{"headwater_log": 1, "log_id": "x"}\n', "header", 1, id="bad header"),
        pytest.param(b'{"headwater_log": 1}\n', "cut off", 2, id="no end"),
        pytest.param(lines(EVENT, count=2), "2", 3, id="wrong count"),
        pytest.param(lines(EVENT) + b"{}\n", "after the line that ends", 4, id="something after the end"),
        pytest.param(lines("{"), "no JSON object", 2, id="no JSON"),
        pytest.param(lines("[]"), "no JSON object", 2, id="no object"),
        pytest.param(lines('{"a": NaN}'), "no JSON", 2, id="NaN"),
        pytest.param(lines("\udcff".encode("utf-8", "surrogateescape").decode("latin1")), "no JSON", 2, id="no object in latin-1"),
        pytest.param(lines(json.dumps(EVENT)[:-1] + ', "data": 3}'), "twice", 2, id="data twice"),
        pytest.param(lines("[" * 100_000), "no JSON object", 2, id="nested without end"),
        pytest.param(lines(EVENT, {**EVENT, "position": 5}), "positions must grow", 3, id="positions"),
        *(
            pytest.param(lines(EVENT, {**EVENT, "position": 6, name: value}), says, 3, id=f"{name} {value!r}"[:40])
            for name, value, says in [
                ("version", 0, "version"),
                ("version", True, "version"),
                ("version", 1.5, "version"),
                ("version", 2**63, "version"),
                ("position", "7", "position"),
                ("stream_name", "", "stream name is empty"),
                ("stream_name", "-1", "category"),
                ("stream_name", None, "stream_name"),
                ("stream_name", "a-\x00", "control"),
                ("type", "", "event type"),
                ("type", "x" * 201, "event type"),
                ("event_id", "x", "UUID"),
                ("event_id", 5, "UUID"),
                ("recorded_at", "yesterday", "moment"),
                ("recorded_at", "2026-01-31T12:00:00", "time zone"),
                ("metadata", [1], "metadata"),
                ("metadata", {"a": 1}, "metadata"),
                ("metadata", {"a": "x" * 17_000}, "16,384"),
                ("metadata", {"a": "\x00"}, "NUL"),
                ("tags", "a", "tags"),
                ("tags", ["a", "a"], "tags"),
                ("tags", [""], "tags"),
                ("surprise", 1, "surprise"),
            ]
        ),
        *(
            pytest.param(lines({n: v for n, v in EVENT.items() if n != name}), f"lacks {name}", 2, id=f"without {name}")
            for name in ("stream_name", "version", "type", "event_id", "recorded_at", "data")
        ),
    ],
)
def test_damaged_file_is_refused_with_the_line(content: bytes, says: str, line: int) -> None:
    with pytest.raises(LogFileDamaged, match=says) as caught:
        read(content)
    assert caught.value.line == line


def test_line_without_end_is_not_read_into_memory() -> None:
    with pytest.raises(LogFileDamaged, match="longer than"):
        read(lines(json.dumps({**EVENT, "data": "x" * 9_000_000})))


def test_avro_file_of_something_else_is_refused() -> None:
    import fastavro

    stream = io.BytesIO()
    fastavro.writer(stream, {"type": "record", "name": "Other", "fields": []}, [{}])
    with pytest.raises(LogFileDamaged, match="something else"):
        read(stream.getvalue())


def test_gzip_of_two_members_is_one_file() -> None:
    content = lines(EVENT)
    assert len(read(gzip.compress(content[:40]) + gzip.compress(content[40:]))) == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("log.jsonl", (LogFileFormat.JSONL, False)),
        ("log.jsonl.gz", (LogFileFormat.JSONL, True)),
        ("log.avro", (LogFileFormat.AVRO, False)),
        ("log.avro.gz", (LogFileFormat.AVRO, True)),
        ("log", (LogFileFormat.JSONL, False)),
    ],
)
def test_format_is_told_by_the_name(name: str, expected: tuple[LogFileFormat, bool]) -> None:
    assert format_of(name) == expected

"""A log as JSON lines: a header, one event a line, and a last line that counts them.

    {"headwater_log": 1, "log_id": "…", "epochs": […], "after": 0, "through": 2, "categories": null, "exported_at": "…"}
    {"position": 1, "stream_name": "order-1", "version": 1, "type": "OrderPlaced", "event_id": "…", "recorded_at": "…", "tags": [], "metadata": {}, "data": {…}}
    {"end_of_log": true, "event_count": 1}

An event's data is kept as text, digit by digit: a number that no float holds comes through as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, BinaryIO, Final, NoReturn

import orjson
from pydantic import ValidationError

from headwater.checks import METADATA_BYTES_MAX, check_type
from headwater.errors import InvalidEvent, InvalidStreamName, LogFileDamaged
from headwater.schemas.file_events import VERSION_MAX, FileEvent, LogFileHeader, checked_stream_name, damaged, event_from_json

LINE_BYTES_MAX: Final = 8 * 1024 * 1024
"""The longest line: an event of the largest size, with every character escaped."""
_OPTIONS: Final = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE
_TEXT: Final = rb'"[^"\\\x00-\x1f]*"'
# Whatever does not match, such as an escaped character in a name, is read in full.
_USUAL: Final = re.compile(
    rb'\{"position":([1-9][0-9]{0,18}),"stream_name":"([^"\\\x00-\x1f]+)","version":([1-9][0-9]{0,18}),"type":"([^"\\\x00-\x1f]+)",'
    rb'"event_id":"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})",'
    rb'"recorded_at":"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:Z|[+-][0-9]{2}:[0-9]{2}))",'
    rb'"tags":\[((?:"[^"\\\x00-\x1f]+"(?:,"[^"\\\x00-\x1f]+")*)?)\],'
    rb'"metadata":(\{(?:' + _TEXT + rb": ?" + _TEXT + rb"(?:, ?" + _TEXT + rb": ?" + _TEXT + rb')*)?\}),"data":'
)
_SPACE = re.compile(r"[ \t\r\n]*")


class LineWriter:
    """Writes a log as JSON lines."""

    def __init__(self, stream: BinaryIO, header: LogFileHeader) -> None:
        self._stream, self._count = stream, 0
        stream.write(orjson.dumps(header.as_json(), option=_OPTIONS))

    def write(self, events: Iterable[FileEvent]) -> None:
        """Add events."""
        for event in events:
            self._count += 1
            members: dict[str, Any] = {
                "position": event.position,
                "stream_name": event.stream_name,
                "version": event.version,
                "type": event.type,
                "event_id": event.event_id,
                "recorded_at": event.recorded_at,
                "tags": event.tags,
                "metadata": orjson.Fragment(event.metadata),
                "data": orjson.Fragment(event.data),
            }
            self._stream.write(orjson.dumps(members, option=_OPTIONS))

    def finish(self) -> None:
        """Say that this was all."""
        self._stream.write(orjson.dumps({"end_of_log": True, "event_count": self._count}, option=_OPTIONS))


class LineReader:
    """Reads a log from JSON lines."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._line, self._count = stream, 0, 0
        self.header = LogFileHeader.from_json(_object(self._next_line(), 1))

    def read(self) -> FileEvent | None:
        """The next event; None after the last."""
        text = self._next_line()
        if not text:
            raise LogFileDamaged(
                f"the file ends after line {self._line - 1} without its last line, which counts the events: it was cut off; export it again",
                line=self._line,
            )
        event = _usual_event(self._line, text)
        if event is None:
            members, data = split_line(text, self._line)
            if "end_of_log" in members:
                self._check_end(members)
                return None
            event = _any_event(self._line, members, data)
        self._count += 1
        return event

    def _check_end(self, members: dict[str, Any]) -> None:
        if members.get("event_count") != self._count:
            raise LogFileDamaged(
                f"the file has {self._count:,} events, but its last line counts {members.get('event_count')!r}: lines are missing or were added",
                line=self._line,
            )
        if self._next_line():
            raise LogFileDamaged(f"line {self._line} comes after the line that ends the log", line=self._line)

    def _next_line(self) -> bytes:
        self._line += 1
        text = self._stream.readline(LINE_BYTES_MAX + 1)
        if len(text) > LINE_BYTES_MAX:
            raise LogFileDamaged(f"line {self._line} is longer than {LINE_BYTES_MAX:,} bytes", line=self._line)
        return text


def _usual_event(line: int, text: bytes) -> FileEvent | None:
    """An event as we write it, unless something about it is rare; None for any other line. In a third of the time that a JSON parser takes."""
    found = _USUAL.match(text)
    if found is None or not text.endswith(b"}\n"):
        return None
    position, stream_name, version, event_type, event_id, moment, tags, metadata = found.groups()
    try:
        event = FileEvent(
            line,
            int(position),
            checked_stream_name(stream_name.decode()),
            int(version),
            check_type(event_type.decode()),
            event_id.decode(),
            datetime.fromisoformat(moment.decode()),
            metadata.decode(),
            tuple(tags.decode()[1:-1].split('","')) if tags else (),
            text[found.end() : -2].decode(),
        )
    except (ValueError, InvalidEvent, InvalidStreamName):
        return None
    is_small = len(metadata) <= METADATA_BYTES_MAX and int(position) <= VERSION_MAX and event.version <= VERSION_MAX
    return event if is_small and (not tags or len(set(event.tags)) == len(event.tags)) else None


def _any_event(line: int, members: dict[str, Any], data: str | None) -> FileEvent:
    """An event whose members came in another order, or one that is wrong, to be told how."""
    try:
        event = event_from_json(line, json.dumps(members).encode(), data or "")
    except ValidationError as error:
        raise damaged(line, error) from None
    if data is None:
        raise LogFileDamaged(f"line {line} lacks data", line=line)
    return event


def split_line(text: bytes, line: int) -> tuple[dict[str, Any], str | None]:
    """The members of a line's object without `data`, and the text of its data, as it stands there.

    Values are passed over, not understood, so that no number loses a digit.

    Raises:
        LogFileDamaged: it is no JSON object in UTF-8.
    """
    try:
        decoded = text.decode()
        end, members, data = _past(decoded, 0, "{"), dict[str, Any](), None
        is_first = True
        while not decoded.startswith("}", end):
            end = end if is_first else _past(decoded, end, ",")
            name, end = _DECODER.raw_decode(decoded, end)
            begin = _past(decoded, _skip(decoded, end), ":")
            value, end = _DECODER.raw_decode(decoded, begin)
            if not isinstance(name, str) or name in members or (name == "data" and data is not None):
                raise ValueError(f"a member {name!r} that is no text or stands there twice")
            if name == "data":
                data = decoded[begin:end]
            else:
                members[name] = value
            end, is_first = _skip(decoded, end), False
        if decoded[end + 1 :].strip():
            raise ValueError("something after the object")
    except (ValueError, RecursionError) as error:
        raise LogFileDamaged(f"line {line} is no JSON object: {error}", line=line) from None
    return members, data


def _object(text: bytes, line: int) -> dict[str, Any] | None:
    try:
        members, _ = split_line(text, line)
    except LogFileDamaged:
        return None
    return members


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None, "it matches nothing, too"
    return found.end()


def _past(text: str, at: int, mark: str) -> int:
    at = _skip(text, at)
    if not text.startswith(mark, at):
        raise ValueError(f"{mark!r} is missing at character {at}")
    return _skip(text, at + 1)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


# Long numbers stay text: Python refuses to read them, and nobody here needs them.
_DECODER: Final = json.JSONDecoder(
    parse_int=lambda digits: int(digits) if len(digits) < 20 else digits, parse_float=str, parse_constant=_refuse
)

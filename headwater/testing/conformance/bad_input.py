"""Appends that every event store refuses, each with a clear error, without storing anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast
from uuid import UUID

from headwater.checks import METADATA_BYTES_MAX
from headwater.errors import DuplicateEvent, HeadwaterError, InvalidEvent, InvalidStreamName, UsageError
from headwater.messages import EVENT_BYTES_MAX, EVENTS_PER_APPEND_MAX, Event, NewEvent

_MEGABYTE = f'"{"x" * (1024 * 1024 - 2)}"'
_SOME_ID = UUID("01900000-0000-7000-8000-000000000001")


class Noted(Event, category="conformance"):
    """An event with one text."""

    text: str = ""


class Measured(Event, category="conformance"):
    """An event with anything in it."""

    value: Any = None


class Elsewhere(Event, category="another"):
    """An event of another category."""


@dataclass(frozen=True, slots=True)
class BadAppend:
    """One append to refuse: how it is made, the error it meets, and a word that the message must have."""

    name: str
    events: Callable[[], Sequence[Event | NewEvent]]
    error: type[HeadwaterError]
    says: str = ""
    stream_name: str = "conformance-1"


def _noted() -> Sequence[Event | NewEvent]:
    return [Noted()]


def _raw(data: str = "{}", *, event_type: str = "Noted", metadata: dict[str, Any] | None = None) -> Callable[[], Sequence[NewEvent]]:
    return lambda: [NewEvent(type=event_type, data=data, metadata=metadata or {})]


BAD_APPENDS: Final = (
    BadAppend("no events", list, InvalidEvent, "1 to"),
    BadAppend("too many events", lambda: [Noted()] * (EVENTS_PER_APPEND_MAX + 1), InvalidEvent, "1000"),
    BadAppend("too much at once", lambda: [NewEvent("Noted", data) for data in [_MEGABYTE] * 65], InvalidEvent, "divide"),
    BadAppend("one event instead of a list", lambda: cast("Any", Noted()), UsageError, r"\[event\]"),
    BadAppend("text instead of a list", lambda: cast("Any", "Noted"), UsageError, r"\[event\]"),
    BadAppend("nothing instead of a list", lambda: cast("Any", None), UsageError, r"\[event\]"),
    BadAppend("something that is no event", lambda: cast("Any", [{"text": ""}]), UsageError, "no event"),
    BadAppend("a class instead of an event", lambda: cast("Any", [Noted]), UsageError, "no event"),
    BadAppend("event over the limit", lambda: [Noted(text="x" * EVENT_BYTES_MAX)], InvalidEvent, "bytes"),
    BadAppend("encoded event over the limit", _raw(f'"{"x" * EVENT_BYTES_MAX}"'), InvalidEvent, "bytes"),
    BadAppend("number that is long when printed", _raw("[" + ", ".join(["1e131000"] * 9) + "]"), InvalidEvent, "bytes"),
    BadAppend("second of two events bad", lambda: [Noted(), Noted(text="\x00")], InvalidEvent, "NUL"),
    BadAppend("NUL in text", lambda: [Noted(text="a\x00b")], InvalidEvent, "Noted.text"),
    BadAppend("NUL in a nested text", lambda: [Measured(value={"a": [1, "\x00"]})], InvalidEvent, "NUL"),
    BadAppend("NUL in encoded text", _raw('{"a": "\\u0000"}'), InvalidEvent, "NUL"),
    BadAppend("NUL in an encoded key", _raw('{"\\u0000": 1}'), InvalidEvent, "NUL"),
    BadAppend("NUL byte in encoded text", _raw('{"a": "\x00"}'), InvalidEvent),
    BadAppend("half a surrogate pair", lambda: [Noted(text="\ud800")], InvalidEvent),
    BadAppend("half a surrogate pair, encoded", _raw('{"a": "\\ud800"}'), InvalidEvent),
    BadAppend("half a surrogate pair in encoded text", _raw('{"a": "\ud800"}'), InvalidEvent),
    BadAppend("number out of range", _raw('{"a": 1e200000}'), InvalidEvent, "range"),
    BadAppend("too many digits after the point", _raw('{"a": 1e-20000}'), InvalidEvent, "range"),
    BadAppend("broken JSON", _raw('{"a":'), InvalidEvent, "JSON"),
    BadAppend("no JSON at all", _raw(""), InvalidEvent, "JSON"),
    BadAppend("not a number", _raw('{"a": NaN}'), InvalidEvent, "JSON"),
    BadAppend("nested too deeply", _raw("[" * 100_000 + "]" * 100_000), InvalidEvent, "deep"),
    BadAppend("field that JSON lacks", lambda: [Measured(value=object())], InvalidEvent, "JSON"),
    BadAppend("empty type", _raw(event_type=""), InvalidEvent, "type"),
    BadAppend("long type", _raw(event_type="T" * 201), InvalidEvent, "200"),
    BadAppend("control character in the type", _raw(event_type="a\nb"), InvalidEvent, "control"),
    BadAppend("NUL in metadata", _raw(metadata={"a": "\x00"}), InvalidEvent, "NUL"),
    BadAppend("NUL in a metadata name", _raw(metadata={"\x00": "a"}), InvalidEvent, "NUL"),
    BadAppend("half a surrogate pair in metadata", _raw(metadata={"a": "\ud800"}), InvalidEvent, "Unicode"),
    BadAppend("metadata that is no text", _raw(metadata={"a": 1}), InvalidEvent, "text"),
    BadAppend("metadata over the limit", _raw(metadata={"a": "x" * METADATA_BYTES_MAX}), InvalidEvent, "metadata"),
    BadAppend("same id twice", lambda: [NewEvent("Noted", "{}", event_id=_SOME_ID)] * 2, DuplicateEvent, str(_SOME_ID)),
    BadAppend("event of another category", lambda: [Elsewhere()], UsageError, "another"),
    BadAppend("stream name that is no text", _noted, InvalidStreamName, "text", stream_name=cast("Any", 7)),
    BadAppend("empty stream name", _noted, InvalidStreamName, "empty", stream_name=""),
    BadAppend("stream name of 10,000 characters", _noted, InvalidStreamName, "10,000", stream_name="conformance-" + "x" * 9_988),
    BadAppend("stream name with NUL", _noted, InvalidStreamName, "control", stream_name="conformance-\x00"),
    BadAppend("stream name with half a surrogate pair", _noted, InvalidStreamName, "surrogate", stream_name="conformance-\ud800"),
    BadAppend("stream name without category", _noted, InvalidStreamName, "category", stream_name="-1"),
    BadAppend("quote in the category", _noted, InvalidStreamName, "category", stream_name="con'formance-1"),
    BadAppend("long category", _noted, InvalidStreamName, "200", stream_name="c" * 201 + "-1"),
)

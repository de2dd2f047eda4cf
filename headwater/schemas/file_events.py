"""What a file of a log holds: its header, its events, its end; and what they must be like to be believed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol, cast
from uuid import UUID

import orjson

from headwater.checks import METADATA_BYTES_MAX, check_metadata, check_type
from headwater.errors import InvalidEvent, InvalidStreamName, LogFileDamaged
from headwater.messages import check_stream_name

FILE_VERSION: Final = 1
"""Of the format; a file of a later one is refused."""
VERSION_MAX: Final = 2**63 - 1
"""The highest version or position."""
_REQUIRED: Final = frozenset({"stream_name", "version", "type", "event_id", "recorded_at"})
_KNOWN: Final = _REQUIRED | {"position", "metadata", "tags"}
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_ANY_ID: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class LogFileHeader:
    """Which log a file was exported from, and which part of it."""

    log_id: UUID | None = None
    """None where no log was: a file that something else wrote."""
    epochs: tuple[tuple[int, int], ...] = ()
    """The lives of that log: number, and the position after which each began."""
    after: int = 0
    """Events at or below this position are not in the file."""
    through: int | None = None
    """How far the log was exported; None where nobody says."""
    categories: tuple[str, ...] | None = None
    """The categories exported; None for all."""
    exported_at: datetime | None = None

    def as_json(self) -> dict[str, Any]:
        """The header's members, `headwater_log` with the format's version among them."""
        return {
            "headwater_log": FILE_VERSION,
            "log_id": None if self.log_id is None else str(self.log_id),
            "epochs": [{"epoch": epoch, "began_after": began_after} for epoch, began_after in self.epochs],
            "after": self.after,
            "through": self.through,
            "categories": self.categories,
            "exported_at": self.exported_at,
        }

    @classmethod
    def from_json(cls, members: object) -> LogFileHeader:
        """The header that these members say.

        Raises:
            LogFileDamaged: they are no header, or one of a later version.
        """
        if not isinstance(members, dict) or "headwater_log" not in members:
            raise LogFileDamaged('the file does not begin with the header of a log: {"headwater_log": 1, …}', line=1)
        found = cast("dict[str, Any]", members)
        if found["headwater_log"] != FILE_VERSION:
            raise LogFileDamaged(
                f"the file has version {found['headwater_log']!r} of the format, this Headwater reads {FILE_VERSION}: use the one that wrote it",
                line=1,
            )
        try:
            return cls(
                log_id=UUID(found["log_id"]) if found.get("log_id") else None,
                epochs=tuple((int(epoch["epoch"]), int(epoch["began_after"])) for epoch in found.get("epochs") or ()),
                after=int(found.get("after") or 0),
                through=None if found.get("through") is None else int(found["through"]),
                categories=None if found.get("categories") is None else tuple(map(str, found["categories"])),
                exported_at=datetime.fromisoformat(found["exported_at"]) if found.get("exported_at") else None,
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise LogFileDamaged(f"the file's header cannot be read: {error}", line=1) from None


class FileEvent(NamedTuple):
    """One event of a file."""

    line: int
    """Where it stands, counted from 1; 0 for one on its way into a file."""
    position: int | None
    """In the log it came from."""
    stream_name: str
    version: int
    type: str
    event_id: str
    """A UUID, in lower case."""
    recorded_at: datetime
    metadata: str
    """JSON text, an object whose values are text."""
    tags: tuple[str, ...]
    data: str
    """JSON text."""


class FileCodec(Protocol):
    """One format, reading: yields each event with its members, ends after the file's end was read."""

    header: LogFileHeader

    def read(self) -> FileEvent | None:
        """The next event; None after the last.

        Raises:
            LogFileDamaged: this line, or the end, is not what it should be.
        """
        ...


def checked_event(line: int, members: Mapping[str, Any], data: str) -> FileEvent:
    """The event that these members make.

    Args:
        members: all but `data`; ids and moments as text or as what they are.
        data: JSON text, not checked here.
    Raises:
        LogFileDamaged: a member is missing, unknown, or not what it should be.
    """
    version, position, metadata, tags = members.get("version"), members.get("position"), members.get("metadata"), members.get("tags")
    if len(members) != len(_KNOWN) or position is None or metadata is None or tags is None or not members.keys() >= _REQUIRED:
        _check_members(members.keys(), line)
    if type(version) is not int or not 1 <= version <= VERSION_MAX:
        raise _wrong("version", version, "a number from 1 on", line)
    if position is not None and (type(position) is not int or not 1 <= position <= VERSION_MAX):
        raise _wrong("position", position, "a number from 1 on", line)
    try:
        return FileEvent(
            line,
            position,
            check_stream_name(_text(members["stream_name"], "stream_name", line)),
            version,
            _checked_type(_text(members["type"], "type", line)),
            _event_id(members["event_id"], line),
            _moment(members["recorded_at"], line),
            _metadata(metadata, line) if metadata else "{}",
            _tags(tags, line) if tags else (),
            data,
        )
    except (InvalidEvent, InvalidStreamName) as error:
        raise LogFileDamaged(f"line {line}: {error}", line=line) from None


def _wrong(name: str, value: object, wanted: str, line: int) -> LogFileDamaged:
    return LogFileDamaged(f"line {line} has {name} {str(value)[:60]!r}; it must be {wanted}", line=line)


def _check_members(keys: AbstractSet[str], line: int) -> None:
    if missing := _REQUIRED - keys:
        raise LogFileDamaged(f"line {line} lacks {', '.join(sorted(missing))}", line=line)
    if unknown := keys - _KNOWN:
        raise LogFileDamaged(f"line {line} has {', '.join(sorted(unknown))}, which no event has", line=line)


def _text(value: object, name: str, line: int) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "text", line)
    return value


@lru_cache(maxsize=1_024)
def _checked_type(event_type: str) -> str:
    check_type(event_type)
    return event_type


def _event_id(value: object, line: int) -> str:
    text = str(value) if isinstance(value, UUID) else value
    if not isinstance(text, str) or not _UUID.fullmatch(text):
        raise _wrong("event_id", value, "a UUID", line)
    return text.lower()


def _moment(value: object, line: int) -> datetime:
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(_text(value, "recorded_at", line))
    except ValueError:
        raise _wrong("recorded_at", value, "a moment like 2026-01-31T12:00:00Z", line) from None
    if moment.tzinfo is None:
        raise _wrong("recorded_at", value, "a moment with its time zone, like 2026-01-31T12:00:00Z", line)
    return moment


def _metadata(value: object, line: int) -> str:
    metadata, text = cast("dict[str, str]", value), None
    if isinstance(value, dict):
        with suppress(TypeError):
            text = "".join(metadata) + "".join(metadata.values())
    if text is None:
        raise _wrong("metadata", metadata, "an object whose values are text", line)
    if len(text) > METADATA_BYTES_MAX or not text.isascii() or "\0" in text:
        check_metadata("imported", metadata)
    return orjson.dumps(metadata).decode()


def _tags(value: object, line: int) -> tuple[str, ...]:
    tags = cast("list[str]", value)
    if not isinstance(value, list) or not all(map(_is_tag, tags)) or len(set(tags)) != len(tags):
        raise _wrong("tags", tags, "a list of different texts", line)
    return tuple(tags)


def _is_tag(value: object) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value

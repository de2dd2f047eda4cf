"""What a file of a log holds: its header, its events, its end; and what they must be like to be believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Final, NamedTuple, Protocol, TypeAlias, cast
from uuid import UUID

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from headwater.checks import METADATA_BYTES_MAX, check_metadata, check_type
from headwater.errors import InvalidEvent, InvalidStreamName, LogFileDamaged
from headwater.messages import check_stream_name

FILE_VERSION: Final = 1
"""Of the format; a file of a later one is refused."""
VERSION_MAX: Final = 2**63 - 1
"""The highest version or position."""
_Number: TypeAlias = Annotated[int, Field(ge=1, le=VERSION_MAX)]
_EventId: TypeAlias = Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$")]
_Tag: TypeAlias = Annotated[str, Field(pattern=r"^[^\x00]+$")]
_WANTED: Final = {
    "position": "a number from 1 on",
    "version": "a number from 1 on",
    "event_id": "a UUID",
    "recorded_at": "a moment with its time zone, like 2026-01-31T12:00:00Z",
    "metadata": "an object whose values are text",
    "tags": "a list of different texts",
}


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


class _Head(BaseModel):
    """An event's members but its data."""

    model_config = ConfigDict(extra="forbid", strict=True)

    position: _Number | None = None
    stream_name: str
    version: _Number
    type: str
    event_id: _EventId
    recorded_at: AwareDatetime
    metadata: dict[str, str] | None = None
    tags: list[_Tag] | None = None


_from_json: Final = _Head.__pydantic_validator__.validate_json
_from_values: Final = _Head.__pydantic_validator__.validate_python


def event_from_json(line: int, head: bytes, data: str) -> FileEvent:
    """The event that this JSON object and its data make.

    Args:
        head: the object without its member `data`.
        data: JSON text, not checked here.
    Raises:
        ValidationError: it is no JSON, or a member is missing, unknown, or not what it should be: `damaged` says so.
        LogFileDamaged: a name or the metadata breaks a limit.
    """
    return _event(line, _from_json(head), data)


def event_from_values(line: int, members: Mapping[str, Any], data: str) -> FileEvent:
    """The same from members that are read already, as Avro has them.

    Raises:
        LogFileDamaged: a member is missing, unknown, or not what it should be.
    """
    try:
        return _event(line, _from_values({**members, "event_id": str(members.get("event_id"))}), data)
    except ValidationError as error:
        raise damaged(line, error) from None


def damaged(line: int, error: ValidationError) -> LogFileDamaged:
    """What is wrong with a line, in our words."""
    found = error.errors(include_url=False, include_context=False)[0]
    name = str(found["loc"][0]) if found["loc"] else "something"
    if found["type"] == "missing":
        return LogFileDamaged(f"line {line} lacks {name}", line=line)
    if found["type"] == "extra_forbidden":
        return LogFileDamaged(f"line {line} has {name}, which no event has", line=line)
    return LogFileDamaged(f"line {line} has {name} {str(found['input'])[:60]!r}; it must be {_WANTED.get(name, 'text')}", line=line)


def _event(line: int, head: _Head, data: str) -> FileEvent:
    if head.tags and len(set(head.tags)) < len(head.tags):
        raise LogFileDamaged(f"line {line} has tags twice; they must be {_WANTED['tags']}", line=line)
    try:
        return FileEvent(
            line,
            head.position,
            checked_stream_name(head.stream_name),
            head.version,
            check_type(head.type),
            head.event_id.lower(),
            head.recorded_at,
            _metadata(head.metadata) if head.metadata else "{}",
            tuple(head.tags) if head.tags else (),
            data,
        )
    except (InvalidEvent, InvalidStreamName) as error:
        raise LogFileDamaged(f"line {line}: {error}", line=line) from None


@lru_cache(maxsize=65_536)
def checked_stream_name(stream_name: str) -> str:
    """Return the name, if it may name a stream; `InvalidStreamName` if not. Streams come again and again in a file."""
    return check_stream_name(stream_name)


def _metadata(metadata: Mapping[str, str]) -> str:
    packed = orjson.dumps(metadata)
    if len(packed) > METADATA_BYTES_MAX or b"\\u0000" in packed:
        check_metadata("imported", metadata)
    return packed.decode()

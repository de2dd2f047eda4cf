"""An append as the append functions take it: units of parts in arrays, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from headwater.errors import ConcurrencyError, DuplicateEvent, InvalidEvent, StreamClosed, UsageError, WrongExpectedVersion
from headwater.eventstore.store import StreamAppend, expected_in_words, expected_number
from headwater.messages import EVENTS_PER_APPEND_MAX, AppendResult, Event, ExpectedVersion, NewEvent, prepare

STREAMS_PER_APPEND_MAX: Final = 100
"""The most streams one append may go to."""


class Part(NamedTuple):
    """What one stream gets."""

    stream_name: str
    expected: int | None
    """As the SQL functions take it: None for any, -1 for an existing stream."""
    events: Sequence[NewEvent]


Unit = Sequence[Part]
"""Parts that are stored together or not at all."""


def one_part(stream_name: str, events: Sequence[Event | NewEvent], expected_version: ExpectedVersion) -> Part:
    """An append to one stream, encoded and checked.

    Raises:
        InvalidEvent, InvalidStreamName, UsageError: refused input.
        DuplicateEvent: an id stands twice in it.
    """
    expected = expected_number(expected_version)
    part = Part(stream_name, expected, prepare(events, stream_name=stream_name))
    if len(part.events) > 1:
        _refuse_repeated_ids((part,))
    return part


def several_parts(appends: Sequence[StreamAppend]) -> tuple[Part, ...]:
    """An append to several streams, encoded and checked; raises as `one_part`."""
    if not 1 <= len(appends) <= STREAMS_PER_APPEND_MAX:
        raise UsageError(f"an append goes to 1 to {STREAMS_PER_APPEND_MAX} streams, not {len(appends)}")
    parts = tuple(one_part(append.stream_name, append.events, append.expected_version) for append in appends)
    names = [part.stream_name for part in parts]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"the stream {twice!r} stands twice in this append; give it all its events at once")
    if (event_count := sum(len(part.events) for part in parts)) > EVENTS_PER_APPEND_MAX:
        raise InvalidEvent(f"an append carries at most {EVENTS_PER_APPEND_MAX} events, not {event_count}")
    _refuse_repeated_ids(parts)
    return parts


def _refuse_repeated_ids(parts: Sequence[Part]) -> None:
    seen: set[UUID] = set()
    for part in parts:
        for event in part.events:
            if event.event_id in seen:
                raise DuplicateEvent(
                    f"the event id {event.event_id} stands twice in this append; give each its own", event_id=event.event_id
                )
            seen.add(event.event_id)


@dataclass(frozen=True, slots=True)
class Arrays:
    """Units as the arrays that the SQL functions take."""

    stream_names: list[str]
    part_units: list[int]
    part_streams: list[int]
    expected_versions: list[int | None]
    event_counts: list[int]
    types: list[str]
    data: list[str]
    metadata: list[str]
    event_ids: list[UUID]
    tag_events: list[int] | None
    tags: list[str] | None

    @classmethod
    def of(cls, units: Sequence[Unit]) -> Arrays:
        """All parts of all units, in order; the streams each once, in the order in which they are locked."""
        parts = [part for unit in units for part in unit]
        stream_names = sorted({part.stream_name for part in parts})
        places = {name: place for place, name in enumerate(stream_names, start=1)}
        events = [event for part in parts for event in part.events]
        tagged = [(place, tag) for place, event in enumerate(events, start=1) for tag in event.tags]
        return cls(
            stream_names=stream_names,
            part_units=[number for number, unit in enumerate(units, start=1) for _ in unit],
            part_streams=[places[part.stream_name] for part in parts],
            expected_versions=[part.expected for part in parts],
            event_counts=[len(part.events) for part in parts],
            types=[event.type for event in events],
            data=[event.data for event in events],
            metadata=[metadata_text(event.metadata) for event in events],
            event_ids=[event.event_id for event in events],
            tag_events=[place for place, _ in tagged] or None,
            tags=[tag for _, tag in tagged] or None,
        )

    def for_group(self) -> tuple[Any, ...]:
        """The arguments of append_group."""
        return (self.stream_names, self.part_units, *self.for_unit()[1:])

    def for_unit(self) -> tuple[Any, ...]:
        """The arguments of append_unit."""
        return (
            self.stream_names,
            self.part_streams,
            self.expected_versions,
            self.event_counts,
            self.types,
            self.data,
            self.metadata,
            self.event_ids,
            self.tag_events,
            self.tags,
        )


def metadata_text(metadata: Mapping[str, str]) -> str:
    """Metadata as JSON text."""
    return orjson.dumps(metadata).decode()


Outcome = tuple[str, int | None, int | None, UUID | None]
"""What became of a part, as append_parts says it: the outcome, version, position, and the id found."""


def results_of(unit: Unit, outcomes: Sequence[Outcome]) -> tuple[AppendResult, ...] | ConcurrencyError | None:
    """What the unit's caller gets: results, or the error of the first part that failed; None when it was blocked."""
    if any(outcome == "blocked" for outcome, *_ in outcomes):
        return None
    for outcome, _, _, found_id in outcomes:
        if outcome == "duplicate":
            return DuplicateEvent(
                f"the event id {found_id} is stored already, but not by this very append; give new ids, or repeat the first append exactly",
                event_id=found_id,
            )
    for part, (outcome, _, position, _) in zip(unit, outcomes, strict=True):
        if outcome == "closed":
            closed_at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=position or 0)
            return StreamClosed(
                f"stream {part.stream_name!r} was closed at {closed_at} and takes no further events",
                stream_name=part.stream_name,
                closed_at=closed_at,
            )
    for part, (outcome, version, _, _) in zip(unit, outcomes, strict=True):
        if outcome == "conflict":
            return WrongExpectedVersion(
                stream_name=part.stream_name, expected=expected_in_words(part.expected), actual_version=version or 0
            )
    return results(unit, [version for _, version, _, _ in outcomes], [position for _, _, position, _ in outcomes])


def results(unit: Unit, versions: Sequence[int | None], positions: Sequence[int | None]) -> tuple[AppendResult, ...]:
    """One result for each part."""
    return tuple(
        AppendResult(stream_name=part.stream_name, version=version or 0, global_position=position or 0)
        for part, version, position in zip(unit, versions, positions, strict=True)
    )

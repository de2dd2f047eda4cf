"""Appends under a condition: a decision over several streams holds only if nothing it depends on came in between."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from headwater.checks import check_tags
from headwater.errors import UsageError
from headwater.messages import Event, RecordedEvent

QUERIES_PER_CONDITION_MAX: Final = 100
"""The most queries one condition may have."""


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Finds events of any of these types (all types when there are none) that carry all of these tags."""

    types: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @classmethod
    def of(cls, *event_classes: type[Event], tags: Collection[str] = ()) -> EventQuery:
        """Events of these classes with all of these tags."""
        return cls(types=tuple(event_class.event_type for event_class in event_classes), tags=tuple(tags))

    def matches(self, event_type: str, tags: Collection[str]) -> bool:
        """Whether an event of this type with these tags is found."""
        return (not self.types or event_type in self.types) and all(tag in tags for tag in self.tags)


@dataclass(frozen=True, slots=True)
class ConditionToken:
    """How far a decision saw: the horizon of its read, and the ids of what it found above."""

    horizon: int
    known_ids: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class Matching:
    """The events that a decision depends on, in order of the log, and the token for its append."""

    events: tuple[RecordedEvent, ...]
    token: ConditionToken


@dataclass(frozen=True, slots=True)
class AppendCondition:
    """Append only if no event that the query finds came after the token's read."""

    query: EventQuery | Sequence[EventQuery]
    token: ConditionToken


def queries_of(query: EventQuery | Sequence[EventQuery]) -> tuple[EventQuery, ...]:
    """The queries as given, checked.

    Raises:
        UsageError: none, too many, or no queries.
        InvalidEvent: a tag that no event could carry.
    """
    queries = (query,) if isinstance(query, EventQuery) else tuple(query)
    if not 1 <= len(queries) <= QUERIES_PER_CONDITION_MAX or not all(map(_is_query, queries)):
        raise UsageError(f"give 1 to {QUERIES_PER_CONDITION_MAX} EventQuery(types=(…), tags=(…))")
    for one in queries:
        check_tags("the query", one.tags)
    return queries


def _is_query(given: object) -> bool:
    """For callers without a type checker, who give anything."""
    return isinstance(given, EventQuery)


def token_of(horizon: int, events: Sequence[RecordedEvent]) -> ConditionToken:
    """The token of a read: what lies above its horizon is known by id, for something below it may still come."""
    return ConditionToken(horizon, frozenset(event.event_id for event in events if event.global_position > horizon))

"""Which events of the log a reader wants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from headwater.errors import UsageError
from headwater.messages import RecordedEvent

SELECTION_VALUES_MAX: Final = 1_000
"""The most categories, types or prefixes of one selection."""


@dataclass(frozen=True, slots=True)
class EventSelection:
    """Events that fit every kind that is given, each kind by any of its values; nothing given means all events.

    Raises:
        UsageError: a kind is a single text instead of several, has an empty value, or too many.
    """

    categories: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    stream_prefixes: tuple[str, ...] = ()
    """What stream names begin with: `order-2026` selects `order-2026-1`, and `order-20261` as well."""

    def __post_init__(self) -> None:
        for kind in ("categories", "types", "stream_prefixes"):
            values: object = getattr(self, kind)  # callers without a type checker give anything
            if isinstance(values, str):
                raise UsageError(f"{kind}={values!r}: give several; for one, write {kind}=({values!r},)")
            object.__setattr__(self, kind, _checked(kind, getattr(self, kind)))

    @property
    def is_everything(self) -> bool:
        """Whether it leaves nothing out."""
        return not (self.categories or self.types or self.stream_prefixes)

    def matches(self, event: RecordedEvent) -> bool:
        """Whether the event is wanted."""
        return (
            (not self.types or event.type in self.types)
            and (not self.categories or event.category in self.categories)
            and (not self.stream_prefixes or event.stream_name.startswith(self.stream_prefixes))
        )


def _checked(kind: str, values: tuple[object, ...]) -> tuple[str, ...]:
    checked = tuple(value for value in values if isinstance(value, str) and value and "\x00" not in value)
    if len(checked) != len(values):
        raise UsageError(f"{kind} has a value that is no text, or an empty one; for all events, leave {kind} out")
    if len(checked) > SELECTION_VALUES_MAX:
        raise UsageError(
            f"{kind} has {len(checked):,} values; at most {SELECTION_VALUES_MAX:,} are allowed: select less and look at the rest"
        )
    return checked


EVERYTHING: Final = EventSelection()
"""Every event of the log."""

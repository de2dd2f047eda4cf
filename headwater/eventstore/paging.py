"""How many events to read at once, so that pages of large events do not fill the memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from headwater.messages import RecordedEvent

PAGE_EVENTS_FIRST: Final = 100
"""The first page, before anything is known of the events' size: 100 MiB of the largest there can be."""
PAGE_CHARACTERS_TARGET: Final = 8 * 1024 * 1024
"""What a page's data should not exceed by much."""


class PageSize:
    """Grows while pages are full, and shrinks where they are heavy."""

    def __init__(self, events_max: int) -> None:
        self._events_max = events_max
        self.event_count = min(PAGE_EVENTS_FIRST, events_max)
        """How many events to ask for next."""

    def learn(self, events: Sequence[RecordedEvent]) -> None:
        """Take a page that was read with `event_count` into account."""
        character_count = sum(len(event.data) for event in events)
        if character_count > PAGE_CHARACTERS_TARGET:
            self.event_count = max(1, self.event_count * PAGE_CHARACTERS_TARGET // character_count)
        elif len(events) >= self.event_count:
            self.event_count = min(self.event_count * 2, self._events_max)

"""Folded streams kept in this process, so that a decision reads only what came since the last one."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import UsageError
from headwater.privacy import KEY_AGE_SECONDS_MAX

CACHED_STREAMS_MAX: Final = 1_000
"""How many folded streams are kept, where nothing else is said."""

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Folded(Generic[State]):
    """A stream's state at one of its events. Made of what the log holds alone, never of what was only decided."""

    state: State
    version: int = 0
    event_id: UUID | None = None
    """The event at that version; None at the beginning."""
    snapshot_version: int = 0
    """Up to where a snapshot is known to reach, or was tried to be made."""
    keys_asked_at: float | None = None
    """When the keys of the personal data in it were asked for, the oldest of them, in monotonic seconds; None where nothing was sealed."""


class StreamCache:
    """The folded streams of one store that were used last, at most `streams_max` of them.

    It is a hint, like a snapshot: a decision reads the stream from the cached event on and believes the entry only if that very event is there. So
    other processes may append as they like. States are handed out again and again: **`decide` and `evolve` must not change them**.

    A state made of sealed events holds plain text: it is used for as long as the keys that opened them may be, `KEY_AGE_SECONDS_MAX`, and not after
    `clear`.

    For one event loop; not safe between threads.
    """

    def __init__(self, *, streams_max: int = CACHED_STREAMS_MAX, clock: Clock = SYSTEM_CLOCK) -> None:
        """Begin empty; a stream counts once for each decider that folds it."""
        if streams_max < 1:
            raise UsageError(f"StreamCache(streams_max={streams_max}): give the number of streams to keep, 1 or more, or use no cache")
        self._streams_max, self._clock = streams_max, clock
        self._cleared_at = -inf
        # The decider is kept with the entry, so that its id stays its own.
        self._entries: OrderedDict[tuple[str, int], tuple[object, Folded[Any]]] = OrderedDict()

    def get(self, stream_name: str, decider: object) -> Folded[Any] | None:
        """What is known of the stream, which is now the one used last."""
        key = (stream_name, id(decider))
        if (entry := self._entries.get(key)) is None:
            return None
        asked_at = entry[1].keys_asked_at
        if asked_at is not None and asked_at < self._clock.monotonic() - KEY_AGE_SECONDS_MAX:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry[1]

    def put(self, stream_name: str, decider: object, folded: Folded[Any]) -> None:
        """Keep it, unless something later is known; the stream used longest ago makes room."""
        if folded.keys_asked_at is not None and folded.keys_asked_at <= self._cleared_at:
            # It was being folded when a subject was forgotten.
            return
        key = (stream_name, id(decider))
        known = self._entries.get(key)
        if known is not None and known[1].version > folded.version:
            return
        self._entries[key] = (decider, folded)
        self._entries.move_to_end(key)
        if len(self._entries) > self._streams_max:
            self._entries.popitem(last=False)

    def note_snapshot(self, stream_name: str, decider: object, version: int) -> None:
        """A snapshot reaches up to this version, so that the next is not made before its time."""
        key = (stream_name, id(decider))
        if (entry := self._entries.get(key)) is not None:
            self._entries[key] = (decider, replace(entry[1], snapshot_version=version))

    def drop(self, stream_name: str, decider: object) -> None:
        """Forget the stream."""
        self._entries.pop((stream_name, id(decider)), None)

    def clear(self) -> None:
        """Forget everything, also what is being folded now of sealed events."""
        self._cleared_at = self._clock.monotonic()
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)

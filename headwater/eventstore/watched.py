"""A store that tells what was appended through it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headwater.eventstore.conditions import AppendCondition
from headwater.eventstore.forwarding import ForwardingEventStore
from headwater.eventstore.store import EventStore, StreamAppend
from headwater.messages import AppendResult, Event, ExpectedVersion, NewEvent
from headwater.postgres import CallerConnection
from headwater.tracing import producer_span


class WatchedEventStore(ForwardingEventStore):
    """Passes everything on, remembers the last position written through it, and rings a doorbell after each append.

    An append in a caller's transaction rings before that transaction commits: the ring is a hint, polling is the net beneath it.
    """

    def __init__(self, store: EventStore, *, on_append: Callable[[], None]) -> None:
        super().__init__(store)
        self._on_append = on_append
        self.last_written = 0
        """The highest position appended through this object; a read model that has passed it shows all of them."""

    async def append(
        self,
        stream_name: str,
        events: Sequence[Event | NewEvent],
        *,
        expected_version: ExpectedVersion,
        connection: CallerConnection | None = None,
    ) -> AppendResult:
        """Add events to the end of one stream, all of them or none; see `EventStore.append`."""
        with producer_span("append", stream_name, events):
            result = await self._store.append(stream_name, events, expected_version=expected_version, connection=connection)
        self.note_written(result.global_position)
        self._on_append()
        return result

    async def append_to_streams(
        self,
        appends: Sequence[StreamAppend],
        *,
        condition: AppendCondition | None = None,
        connection: CallerConnection | None = None,
    ) -> tuple[AppendResult, ...]:
        """Add events to the ends of several streams, all of them or none; see `EventStore.append_to_streams`."""
        with producer_span("append", "several streams", appends):
            results = await self._store.append_to_streams(appends, condition=condition, connection=connection)
        self.last_written = max(self.last_written, *(result.global_position for result in results))
        self._on_append()
        return results

    def note_written(self, global_position: int) -> None:
        """Something up to here counts as written through this object, such as what a repeated command had stored before."""
        self.last_written = max(self.last_written, global_position)

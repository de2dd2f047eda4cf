"""The write side: load, decide, append, and round again when somebody else was first.

Who is authoritative: the stream. A conflict is a value inside the loop. A command with an id is recognised by the log: its events have ids that
are derived from it, and the store takes an id once.

What can fail: others were first every time (`WrongExpectedVersion`), the connection was cut during the commit (`StorageUnavailable`: outcome
unknown, repeat with the same command id).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Final, Generic, TypeVar
from uuid import UUID

from headwater.errors import DuplicateEvent, WrongExpectedVersion
from headwater.eventstore.cache import Folded, StreamCache
from headwater.eventstore.commands import check_command_id, event_id_of_command, events_of_command
from headwater.eventstore.decider import Decider, Decision
from headwater.eventstore.loading import StreamLoader
from headwater.eventstore.snapshots import SnapshotStore
from headwater.eventstore.store import EventStore
from headwater.messages import AppendResult, Event, EventRegistry, NewEvent, RecordedEvent
from headwater.postgres import CallerConnection, driver_connection, translate_errors
from headwater.privacy import SealsStates

DECIDE_ATTEMPTS_MAX: Final = 10
"""How often a decision is taken anew because another writer was first."""
_PAGE_EVENTS: Final = 16
"""Events read at once when looking for those of one command, which are few."""

Command = TypeVar("Command")
State = TypeVar("State")


async def decide(
    store: EventStore,
    registry: EventRegistry,
    decider: Decider[Command, State],
    stream_name: str,
    command: Command,
    *,
    connection: CallerConnection | None = None,
    command_id: UUID | None = None,
    snapshots: SnapshotStore | None = None,
    cache: StreamCache | None = None,
    personal: SealsStates | None = None,
) -> Decision[State]:
    """Decide the command on the stream's present state and append what follows.

    When another writer was first, loads and decides again, `DECIDE_ATTEMPTS_MAX` times at most; inside a caller's transaction a lost attempt is
    undone to a savepoint.

    Args:
        command_id: the same for every repetition of one command. If events were stored for it before, nothing is decided: their decision is given
            again, as it was then, also when others have appended since, or race with the same command id. A command that led to no events, or
            was refused, left no trace and is decided anew.
        snapshots: where snapshots are kept, for deciders that ask for them.
        cache: folded streams of this store in this process; read but not filled inside a caller's transaction.
        personal: seals snapshots of states with personal fields, and opens them; needed for such states alone.
    Raises:
        WrongExpectedVersion: others were first every time.
        DuplicateEvent: the command id was used on another stream.
        StorageUnavailable: outcome unknown; repeat with the same command id.
        UsageError: states with personal fields are to be kept as snapshots, and nothing seals them.
    Source: docs/decisions/0010-the-decide-loop.md
    """
    check_command_id(command_id)
    loader = StreamLoader(store, registry, decider, stream_name, connection=connection, snapshots=snapshots, cache=cache, personal=personal)
    deciding = _Deciding(store, registry, decider, stream_name, loader, connection=connection, command_id=command_id)
    for attempt in range(1, DECIDE_ATTEMPTS_MAX + 1):
        outcome = await deciding.attempt(command)
        if not isinstance(outcome, WrongExpectedVersion):
            return outcome
        if attempt == DECIDE_ATTEMPTS_MAX:
            raise outcome
    raise AssertionError("the loop returns or raises")


class _Deciding(Generic[Command, State]):
    """One command on one stream."""

    def __init__(
        self,
        store: EventStore,
        registry: EventRegistry,
        decider: Decider[Command, State],
        stream_name: str,
        loader: StreamLoader[State],
        *,
        connection: CallerConnection | None,
        command_id: UUID | None,
    ) -> None:
        self._store, self._registry, self._decider, self._stream_name, self._loader = store, registry, decider, stream_name, loader
        self._connection, self._command_id = connection, command_id

    async def attempt(self, command: Command) -> Decision[State] | WrongExpectedVersion:
        """Load, decide, append. A conflict comes back as a value."""
        folded = await self._loader.load()
        # After loading: what is decided below then rests on a state without this command's own events, or the append meets their ids.
        if self._command_id is not None and (first := await self._find_first(self._command_id)) is not None:
            return await self._recall(self._command_id, first.version)
        events = tuple(self._decider.decide(command, folded.state))
        outcome = await self._decided(events, folded)
        if isinstance(outcome, Decision):
            await self._loader.keep_snapshot(folded)
        return outcome

    async def _decided(self, events: tuple[Event, ...], folded: Folded[State]) -> Decision[State] | WrongExpectedVersion:
        if not events:
            return Decision(events=(), state=folded.state, result=None)
        if self._command_id is not None:
            return await self._append_once(self._command_id, events, folded)
        result = await self._append(events, folded.version)
        if isinstance(result, WrongExpectedVersion):
            return result
        return Decision(events=events, state=self._evolve(folded.state, events), result=result)

    async def _append(self, events: Sequence[Event | NewEvent], version: int) -> AppendResult | WrongExpectedVersion:
        try:
            if self._connection is None:
                return await self._store.append(self._stream_name, events, expected_version=version)
            driver = await driver_connection(self._connection)
            with translate_errors():
                async with driver.transaction():
                    return await self._store.append(self._stream_name, events, expected_version=version, connection=driver)
        except WrongExpectedVersion as conflict:
            return conflict

    # -- a command with an id

    async def _append_once(
        self, command_id: UUID, events: Sequence[Event], folded: Folded[State]
    ) -> Decision[State] | WrongExpectedVersion:
        try:
            result = await self._append(events_of_command(events, command_id), folded.version)
        except DuplicateEvent:
            # A twin was first, and decided something else: it saw another state.
            if (first := await self._find_first(command_id)) is None:
                raise
            return await self._recall(command_id, first.version)
        if isinstance(result, WrongExpectedVersion):
            return result
        # The store answers for a twin's events where their ids begin with ours, so what was stored is read: it is what counts.
        return await self._recall(command_id, result.version - len(events) + 1, folded)

    async def _find_first(self, command_id: UUID) -> RecordedEvent | None:
        first = await self._store.find_event(event_id_of_command(command_id, 0), connection=self._connection)
        if first is not None and first.stream_name != self._stream_name:
            raise DuplicateEvent(
                f"the command {command_id} was decided on the stream {first.stream_name!r} before, so it cannot be on {self._stream_name!r}; give each "
                "command an id of its own, or, where one command concerns several streams, derive them: uuid5(command_id, stream_name)",
                event_id=first.event_id,
            )
        return first

    async def _recall(self, command_id: UUID, from_version: int, loaded: Folded[State] | None = None) -> Decision[State]:
        """The decision whose first event is at this version, as it was then."""
        recorded = await self._read_command(command_id, from_version)
        before = loaded if loaded is not None and loaded.version == from_version - 1 else await self._loader.load(up_to=from_version - 1)
        events = tuple(self._registry.decode(event) for event in recorded)
        last = recorded[-1]
        result = AppendResult(stream_name=last.stream_name, version=last.version, global_position=last.global_position)
        return Decision(events=events, state=self._evolve(before.state, events), result=result)

    async def _read_command(self, command_id: UUID, from_version: int) -> list[RecordedEvent]:
        recorded: list[RecordedEvent] = []
        while True:
            page = self._store.read_stream(
                self._stream_name, from_version=from_version + len(recorded), limit=_PAGE_EVENTS, connection=self._connection
            )
            ids = (event_id_of_command(command_id, ordinal) for ordinal in count(len(recorded)))
            more = [event async for event in page if event.event_id == next(ids)]
            recorded += more
            if len(more) < _PAGE_EVENTS:
                return recorded

    def _evolve(self, state: State, events: Sequence[Event]) -> State:
        for event in events:
            state = self._decider.evolve(state, event)
        return state

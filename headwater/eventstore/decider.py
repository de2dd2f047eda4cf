"""The write side: load, decide, append, and round again when somebody else was first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from headwater.errors import WrongExpectedVersion
from headwater.eventstore.store import EventStore
from headwater.messages import AppendResult, Event, EventRegistry
from headwater.postgres import CallerConnection, driver_connection

DECIDE_ATTEMPTS_MAX: Final = 10
"""How often a decision is taken anew because another writer was first."""

Command = TypeVar("Command")
State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Decider(Generic[Command, State]):
    """Pure decisions over one stream: no waiting, no clock, no randomness inside."""

    initial_state: State
    decide: Callable[[Command, State], Sequence[Event]]
    """Which events follow from the command in this state; none means that nothing happens. Raise to refuse."""
    evolve: Callable[[State, Event], State]
    """The state after the event; returns a new state rather than changing the given one."""


@dataclass(frozen=True, slots=True)
class Decision(Generic[State]):
    """What was decided: the events, the state after them, and where they were stored (None when there were none)."""

    events: tuple[Event, ...]
    state: State
    result: AppendResult | None


async def decide(
    store: EventStore,
    registry: EventRegistry,
    decider: Decider[Command, State],
    stream_name: str,
    command: Command,
    *,
    connection: CallerConnection | None = None,
) -> Decision[State]:
    """Decide the command on the stream's present state and append what follows.

    When another writer was first, loads and decides again, `DECIDE_ATTEMPTS_MAX` times at most; inside a caller's transaction a lost attempt is
    undone to a savepoint.

    Raises:
        WrongExpectedVersion: others were first every time.
    """
    for attempt in range(1, DECIDE_ATTEMPTS_MAX + 1):
        try:
            return await _attempt(store, registry, decider, stream_name, command, connection)
        except WrongExpectedVersion:
            if attempt == DECIDE_ATTEMPTS_MAX:
                raise
    raise AssertionError("the loop returns or raises")


async def _attempt(
    store: EventStore,
    registry: EventRegistry,
    decider: Decider[Command, State],
    stream_name: str,
    command: Command,
    connection: CallerConnection | None,
) -> Decision[State]:
    state, version = decider.initial_state, 0
    async for recorded in store.read_stream(stream_name, connection=connection):
        state, version = decider.evolve(state, registry.decode(recorded)), recorded.version
    events = tuple(decider.decide(command, state))
    result: AppendResult | None = None
    if events and connection is None:
        result = await store.append(stream_name, events, expected_version=version)
    elif events and connection is not None:
        driver = await driver_connection(connection)
        async with driver.transaction():
            result = await store.append(stream_name, events, expected_version=version, connection=driver)
    for event in events:
        state = decider.evolve(state, event)
    return Decision(events=events, state=state, result=result)

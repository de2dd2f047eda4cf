"""What a user writes to decide: pure functions over one stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from headwater.eventstore.snapshots import Snapshots, StateCodec
from headwater.messages import AppendResult, Event

Command = TypeVar("Command")
State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Decider(Generic[Command, State]):
    """Pure decisions over one stream: no waiting, no clock, no randomness inside, and no change to a state that was given.

    Raises:
        UsageError: snapshots were asked for, but the decider has no name, or its states cannot be written as JSON.
    """

    initial_state: State
    decide: Callable[[Command, State], Sequence[Event]]
    """Which events follow from the command in this state; none means that nothing happens. Raise to refuse."""
    evolve: Callable[[State, Event], State]
    """The state after the event; returns a new state rather than changing the given one, which may be used again."""
    name: str = ""
    """Names its snapshots in the database: keep it."""
    snapshots: Snapshots | None = None
    """When snapshots are taken; None takes none and passes over those there are."""
    codec: StateCodec[State] | None = field(init=False, repr=False, compare=False, default=None)
    """How its states are written into snapshots; None where none are taken."""

    def __post_init__(self) -> None:
        if self.snapshots is not None:
            codec = StateCodec(self.snapshots, decider_name=self.name, initial_state=self.initial_state)
            object.__setattr__(self, "codec", codec)


@dataclass(frozen=True, slots=True)
class Decision(Generic[State]):
    """What was decided: the events, the state after them, and where they were stored (None when there were none)."""

    events: tuple[Event, ...]
    state: State
    result: AppendResult | None

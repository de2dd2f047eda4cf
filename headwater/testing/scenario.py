"""Given these events, when this command, then these events: a decider's test reads as a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from headwater.eventstore import Decider
from headwater.messages import Event

Command = TypeVar("Command")
State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Scenario(Generic[Command, State]):
    """One story of a decider; every step returns the story so far, so that it can go on.

    Scenario(decider).given(OrderPlaced(...)).when(CancelOrder(...)).then(OrderCancelled(...))
    """

    decider: Decider[Command, State]
    history: tuple[Event, ...] = ()
    outcome: tuple[Event, ...] | BaseException | None = None
    """What the last command led to: events, or what it raised."""

    def given(self, *events: Event) -> Scenario[Command, State]:
        """These happened before."""
        return replace(self, history=(*self.history, *events))

    def when(self, command: Command) -> Scenario[Command, State]:
        """This command comes; what the last one led to has happened by then."""
        history = self._told()
        state = _state_after(self.decider, history)
        try:
            outcome: tuple[Event, ...] | BaseException = tuple(self.decider.decide(command, state))
        except Exception as error:  # noqa: BLE001 - whatever it is, `then_raises` wants to see it
            outcome = error
        return replace(self, history=history, outcome=outcome)

    def then(self, *events: Event) -> Scenario[Command, State]:
        """Exactly these events follow, in this order; none when none are named.

        Raises:
            AssertionError: other events followed, or the command was refused.
        """
        self._told()
        assert isinstance(self.outcome, tuple), "nothing was decided yet: call when(command) first"
        assert self.outcome == events, f"expected {_listed(events)}, got {_listed(self.outcome)}"
        return self

    def then_raises(self, kind: type[Exception], match: str = "") -> Scenario[Command, State]:
        """The command is refused with this error, whose text holds `match`; nothing happened.

        Raises:
            AssertionError: it was not refused, or otherwise.
        """
        assert isinstance(self.outcome, BaseException), f"expected {kind.__name__}, got {_listed(self.outcome or ())}"
        if not isinstance(self.outcome, kind) or match not in str(self.outcome):
            raise AssertionError(f"expected {kind.__name__} with {match!r}, got {self.outcome!r}") from self.outcome
        return replace(self, outcome=None)

    def then_state(self, expected: State) -> Scenario[Command, State]:
        """The state after all that happened is this one.

        Raises:
            AssertionError: it is another.
        """
        state = _state_after(self.decider, self._told())
        assert state == expected, f"expected the state {expected!r}, got {state!r}"
        return self

    def _told(self) -> tuple[Event, ...]:
        if isinstance(self.outcome, BaseException):
            unexpected = f"the command was refused: {self.outcome!r}; where that is right, say then_raises(...)"
            raise AssertionError(unexpected) from self.outcome  # noqa: TRY004 - a failed expectation, not a wrong type
        return (*self.history, *(self.outcome or ()))


def given(decider: Decider[Command, State], *events: Event) -> Scenario[Command, State]:
    """Begin a story: `given(decider, *events).when(command).then(*events)`."""
    return Scenario(decider).given(*events)


def _state_after(decider: Decider[Command, State], events: Sequence[Event]) -> State:
    state = decider.initial_state
    for event in events:
        state = decider.evolve(state, event)
    return state


def _listed(events: Sequence[Event]) -> str:
    return ", ".join(repr(event) for event in events) or "no events"

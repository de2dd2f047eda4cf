"""Given, when, then: what passes and what fails."""

from __future__ import annotations

import pytest

from headwater.testing import given
from headwater.testing.conformance.event_store import Counted, counter


def test_story_goes_on_from_step_to_step() -> None:
    given(counter).when(2).then(Counted(number=1), Counted(number=2)).then_state(2).when(1).then(Counted(number=3)).when(0).then()


@pytest.mark.parametrize("events", [(), (Counted(number=2),), (Counted(number=1), Counted(number=2))])
def test_other_events_fail(events: tuple[Counted, ...]) -> None:
    with pytest.raises(AssertionError, match="expected"):
        given(counter).when(1).then(*events)


def test_refusal_is_expected_or_fails() -> None:
    def refuse(command: int, state: int) -> list[Counted]:
        raise ValueError("not today")

    refusing = type(counter)(initial_state=0, decide=refuse, evolve=counter.evolve)
    given(refusing, Counted(number=1)).when(1).then_raises(ValueError, "today").then_state(1)
    with pytest.raises(AssertionError, match="refused"):
        given(refusing).when(1).then(Counted(number=1))
    with pytest.raises(AssertionError, match="refused"):
        given(refusing).when(1).when(1)
    with pytest.raises(AssertionError, match="tomorrow"):
        given(refusing).when(1).then_raises(ValueError, "tomorrow")
    with pytest.raises(AssertionError, match="expected ValueError"):
        given(counter).when(1).then_raises(ValueError)


def test_expecting_before_deciding_fails() -> None:
    with pytest.raises(AssertionError, match="when"):
        given(counter).then()

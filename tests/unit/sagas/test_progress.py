"""The pure core: whatever order sends, answers and duplicates come in, steps are undone last first, each once, and the story ends or waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headwater.errors import UsageError
from headwater.sagas import Outcome, Phase, Progress, StepStatus, StoredCommand

UNDO = StoredCommand("Undo", "{}", "c")
NAMES = ("a", "b", "c", "d")


def undo_all(progress: Progress) -> list[str]:
    """The names of the steps whose compensation is to be sent now."""
    sent: list[str] = []
    while (step := progress.undo_next()) is not None:
        sent.append(step.name)
    return sent


def sent(*names: str, awaits_confirmation: bool = True) -> Progress:
    progress = Progress()
    for name in names:
        progress.send(name, UNDO, awaits_confirmation=awaits_confirmation)
    return progress


def test_each_compensation_waits_for_the_one_before() -> None:
    progress = sent("a", "b", "c")
    progress.compensate()
    order: list[str] = []
    while now := undo_all(progress):
        assert len(now) == 1
        order += now
        assert undo_all(progress) == [], "nothing more before it is confirmed"
        assert progress.answer(now[0], Outcome.UNDONE)
        assert not progress.answer(now[0], Outcome.UNDONE), "twice says nothing new"
    assert order == ["c", "b", "a"]
    assert progress.phase is Phase.COMPENSATED


def test_compensations_without_confirmation_go_out_at_once_in_reverse() -> None:
    progress = sent("a", "b", awaits_confirmation=False)
    progress.compensate()
    assert undo_all(progress) == ["b", "a"]
    assert progress.phase is Phase.COMPENSATED


def test_a_failed_step_is_not_undone_and_one_of_unknown_outcome_is() -> None:
    progress = sent("a", "b", "c")
    progress.answer("a", Outcome.DONE)
    progress.answer("c", Outcome.FAILED)
    progress.compensate()
    assert undo_all(progress) == ["b"]


def test_a_late_failure_needs_no_confirmation() -> None:
    progress = sent("a", "b")
    progress.compensate()
    assert undo_all(progress) == ["b"]
    assert progress.answer("b", Outcome.FAILED)
    assert undo_all(progress) == ["a"]


def test_a_step_that_answers_late_is_still_undone() -> None:
    progress = sent("a", "b")
    progress.compensate()
    assert undo_all(progress) == ["b"]
    assert progress.answer("a", Outcome.DONE)
    progress.answer("b", Outcome.UNDONE)
    assert undo_all(progress) == ["a"]


def test_a_failed_step_may_be_sent_again_and_then_stands_last() -> None:
    progress = sent("a", "b")
    progress.answer("a", Outcome.FAILED)
    assert progress.send("a", UNDO, awaits_confirmation=False).round == 2
    progress.compensate()
    assert undo_all(progress) == ["a", "b"]


def test_what_is_refused() -> None:
    progress = sent("a")
    with pytest.raises(UsageError, match="sent already and is sent"):
        progress.send("a", UNDO, awaits_confirmation=True)
    progress.compensate()
    for wish in (progress.compensate, progress.complete, lambda: progress.send("b", UNDO, awaits_confirmation=True)):
        with pytest.raises(UsageError, match="compensating"):
            wish()
    assert not Progress().answer("never sent", Outcome.DONE)


@given(st.lists(st.sampled_from(NAMES), unique=True, max_size=4), st.data())
def test_a_copy_is_changed_by_itself(names: list[str], data: st.DataObject) -> None:
    progress = sent(*names)
    before = (progress.phase, progress.steps)
    copy = progress.copy()
    for name in names:
        copy.answer(name, data.draw(st.sampled_from(Outcome)))
    copy.compensate()
    undo_all(copy)
    assert (progress.phase, progress.steps) == before


class Stories(RuleBasedStateMachine):
    """Anything may happen at any time; what was undone must be what a plain model says."""

    def __init__(self) -> None:
        super().__init__()
        self.progress = Progress()
        self.sending_order: list[str] = []
        self.undone: list[str] = []
        self.outcomes: dict[str, Outcome] = {}
        self.undoable: set[str] = set()

    def go_on(self) -> None:
        for name in undo_all(self.progress):
            assert name not in self.undone, "each is compensated once"
            self.undone.append(name)

    @precondition(lambda self: self.progress.phase is Phase.RUNNING)
    @rule(name=st.sampled_from(NAMES), has_compensation=st.booleans(), awaits=st.booleans())
    def send(self, name: str, has_compensation: bool, awaits: bool) -> None:
        known = self.progress.step(name)
        if known is not None and known.status is not StepStatus.FAILED:
            return
        self.progress.send(name, UNDO if has_compensation else None, awaits_confirmation=awaits and has_compensation)
        if name in self.sending_order:
            self.sending_order.remove(name)
        self.sending_order.append(name)
        self.outcomes.pop(name, None)
        (self.undoable.add if has_compensation else self.undoable.discard)(name)

    @rule(name=st.sampled_from(NAMES), outcome=st.sampled_from([Outcome.DONE, Outcome.FAILED]))
    def answer(self, name: str, outcome: Outcome) -> None:
        was = self.progress.step(name)
        if self.progress.answer(name, outcome):
            assert was is not None
            self.outcomes[name] = outcome
        self.go_on()

    @rule(name=st.sampled_from(NAMES))
    def confirm(self, name: str) -> None:
        self.progress.answer(name, Outcome.UNDONE)
        self.go_on()

    @precondition(lambda self: self.progress.phase is Phase.RUNNING)
    @rule()
    def compensate(self) -> None:
        self.progress.compensate()
        self.go_on()

    @precondition(lambda self: self.progress.phase is Phase.RUNNING)
    @rule()
    def complete(self) -> None:
        self.progress.complete()
        assert self.undone == []

    @invariant()
    def undone_in_reverse_of_sending(self) -> None:
        ranks = [self.sending_order.index(name) for name in self.undone]
        assert ranks == sorted(ranks, reverse=True)

    @invariant()
    def ends_or_waits_visibly(self) -> None:
        waiting = [step for step in self.progress.steps if step.status is StepStatus.UNDOING]
        if self.progress.phase is Phase.COMPENSATING:
            assert len(waiting) == 1, "it waits for one confirmation, and says for which"
        elif self.progress.phase is Phase.COMPENSATED:
            assert not waiting
            left = {name for name in self.undoable if name not in self.undone}
            assert all(self.outcomes.get(name) is Outcome.FAILED for name in left), "whatever may have run was undone"

    def teardown(self) -> None:
        """Whatever happened: once confirmations come, it ends."""
        if self.progress.phase is Phase.RUNNING:
            self.compensate()
        for _ in NAMES:
            for step in self.progress.steps:
                self.confirm(step.name)
        assert self.progress.phase.is_end


test_any_story = Stories.TestCase

"""A story told once for each step of its handlers' transactions, with a crash there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from headwater.clock import Clock, SystemClock
from headwater.errors import UsageError
from headwater.kafka import Envelope, Partition
from headwater.service import Service
from headwater.testing.chaos import ChaosCounts, Disturber, current_life, kill
from headwater.testing.memory_effects import Step, answer_lost
from headwater.testing.memory_service import MemoryParts, MemoryService, opened

STEPS_MAX: Final = 2_000
"""The story is told once or twice for each."""

Story = Callable[[MemoryService], Awaitable[None]]


@dataclass(slots=True)
class _CrashAt:
    """Counts the steps of all transactions; at one of them something goes wrong."""

    number: int = 0
    """Counted from 1; 0 only counts."""
    loses_answer: bool = False
    """After a commit: the process lives on, and does not know."""
    counts: ChaosCounts = field(default_factory=ChaosCounts)
    steps: list[Step] = field(default_factory=list[Step])

    async def on_step(self, step: Step) -> None:
        if (life := current_life()) is None:
            return
        if life.is_dead:
            await kill(life)
        self.steps.append(step)
        if len(self.steps) != self.number:
            return
        if self.loses_answer:
            self.counts.lost_answers += 1
            raise answer_lost()
        self.counts.crashes += 1
        await kill(life)

    async def receiving(self) -> None:
        """Goes well."""

    def to_repeat(self, partition: Partition, envelope: Envelope) -> Sequence[Envelope]:  # noqa: ARG002 - none
        return ()

    def served(self, partitions: Sequence[Partition]) -> Sequence[Partition]:
        return partitions

    def amount(self, limit: int) -> int:
        return limit


async def crash_at_every_step(service: Service, story: Story, *, new_clock: Callable[[], Clock] = SystemClock) -> int:
    """Tell the story undisturbed, and again with a crash at each step of its handlers' transactions; returns how many steps there were.

    Steps are every append and read of a handler, the moment before each commit and the moment after it, the clockwork's included (messages for later,
    schedules, deadlines of sagas). After a commit, the story is told a second time with the commit's answer lost instead of a crash. Each time the
    service begins empty, in memory. The story's own assertions are the check; an error carries a note that says where the crash was.

    Args:
        story: an async function that takes the `MemoryService`. It sets back what lives outside the service itself.
        new_clock: makes the clock of each run, `FakeClock` for a story that moves the time on: `memory.clock`.
    Raises:
        UsageError: there is nothing to crash, or more than 2,000 steps.
    """
    undisturbed = await _tell(service, story, new_clock(), _CrashAt())
    steps = tuple(undisturbed.steps)
    if not 1 <= len(steps) <= STEPS_MAX:
        raise UsageError(
            f"the story has {len(steps)} steps, and should have 1 to {STEPS_MAX:,}: let handlers of the service do something, and not too much. "
            "Does it wait for them, with `await memory.settle()`?"
        )
    for number, step in enumerate(steps, start=1):
        for loses_answer in (False, True) if step is Step.COMMITTED else (False,):
            told = await _tell(service, story, new_clock(), _CrashAt(number, loses_answer), f"{number} of {len(steps)}, {step}")
            assert told.counts.total == 1, (
                f"the story took another way this time and did not reach step {number}; let it do the same each time"
            )
    return len(steps)


async def _tell(service: Service, story: Story, clock: Clock, crash: _CrashAt, place: str = "") -> _CrashAt:
    def disturb(parts: MemoryParts, turns: Clock) -> Disturber:  # noqa: ARG001 - counts, and throws no dice
        return crash

    async with opened(service, clock) as memory, memory.running(disturb, members=1):
        try:
            await story(memory)
        except BaseException as error:
            if place:
                error.add_note(f"{'the answer lost' if crash.loses_answer else 'a crash'} at step {place}")
            raise
    return crash

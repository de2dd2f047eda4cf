"""The goals: which figures must hold, and whether they do."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from benchmarks.measure import RATE, Comparison, Measurement, Pending, ratio, rounded
from headwater.errors import UsageError
from headwater.messages import faults

GOALS_FILE: Final = Path(__file__).with_name("goals.toml")

Positive = Annotated[float, Field(gt=0)]


class Goal(BaseModel):
    """One figure that an issue asks for; goals.toml explains its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    issue: int
    benchmark: str
    where: dict[str, int | str] = Field(default_factory=dict)
    numerator: str
    denominator: str | None = None
    metric: str = RATE.name
    at_least: Positive | None = None
    at_most: Positive | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> Goal:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give either at_least or at_most")
        return self

    @property
    def systems(self) -> tuple[str, ...]:
        """Those that it needs measured."""
        return (self.numerator,) if self.denominator is None else (self.numerator, self.denominator)

    @property
    def limit(self) -> str:
        """The limit in words."""
        return f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"

    @property
    def figure(self) -> str:
        """What is held against the limit."""
        measured = self.numerator if self.metric == RATE.name else f"{self.metric} of {self.numerator}"
        return measured if self.denominator is None else f"{measured} / {self.denominator}"

    def speaks_of(self, comparison: Comparison | Pending) -> bool:
        """Whether its figure comes from this comparison."""
        is_there = comparison.bench == self.benchmark
        return is_there and all(comparison.conditions.get(name) == value for name, value in self.where.items())


class Status(Enum):
    """How a goal stands."""

    MET = "met"
    SHORT = "falls short"
    PENDING = "pending"
    NOT_MEASURED = "not measured"
    """Its benchmark ran and had no such figure: the goal's names are wrong, or the benchmark's."""


class Verdict(BaseModel):
    """A goal beside its measurement."""

    model_config = ConfigDict(frozen=True)

    goal: Goal
    status: Status
    measured: float | None = None
    unit: str = "times"
    reason: str = ""

    @property
    def is_failure(self) -> bool:
        return self.status in (Status.SHORT, Status.NOT_MEASURED)

    def as_json(self) -> dict[str, Any]:
        """One line of `headwater bench --check --json`."""
        limit = {"at_least": self.goal.at_least} if self.goal.at_least is not None else {"at_most": self.goal.at_most}
        return {
            "goal": self.goal.name,
            "issue": self.goal.issue,
            "figure": self.goal.figure,
            **limit,
            "measured": None if self.measured is None else rounded(self.measured),
            "unit": self.unit,
            "status": self.status.value,
            "reason": self.reason,
        }


def load_goals(path: Path = GOALS_FILE) -> tuple[Goal, ...]:
    """Every goal of the file.

    Raises:
        UsageError: the file is not as it explains itself.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return TypeAdapter(tuple[Goal, ...]).validate_python([{"name": name, **table} for name, table in tables.items()])
    except ValidationError as error:
        raise UsageError(f"{path.name} has goals that cannot be held: {faults(error)}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path.name} cannot be read: {error}") from None


def chosen_goals(goals: Sequence[Goal], names: Sequence[str]) -> list[Goal]:
    """Those that are named, by themselves or by their benchmark; all when nothing is.

    Raises:
        UsageError: there is no goal or benchmark of that name.
    """
    known = {goal.name for goal in goals} | {goal.benchmark for goal in goals}
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"no goal is named {unknown[0]!r}; there are: {', '.join(goal.name for goal in goals)}")
    return [goal for goal in goals if not names or goal.name in names or goal.benchmark in names]


def wanted_part(comparison: Comparison, goals: Iterable[Goal]) -> Comparison | None:
    """The comparison without the systems that no goal asks for; None when no goal speaks of it."""
    wanted = {system for goal in goals if goal.speaks_of(comparison) for system in goal.systems}
    contenders = [contender for contender in comparison.contenders if contender.system in wanted]
    if not contenders:
        return None
    return Comparison(comparison.bench, comparison.conditions, contenders, comparison.rounds, comparison.metrics)


def judge(
    goal: Goal, benchmarks: Mapping[str, Any], measured: Iterable[tuple[Comparison, Sequence[Measurement]]], pending: Sequence[Pending]
) -> Verdict:
    """Hold one goal against what a run measured."""
    if goal.benchmark not in benchmarks:
        return Verdict(goal=goal, status=Status.PENDING, reason=f"the benchmark {goal.benchmark} does not exist yet")
    for comparison, results in measured:
        if goal.speaks_of(comparison):
            found = {result.system: result for result in results if result.metric.name == goal.metric}
            if all(system in found for system in goal.systems):
                return _compare(goal, [found[system] for system in goal.systems])
    if reason := next((one.reason for one in pending if goal.speaks_of(one)), None):
        return Verdict(goal=goal, status=Status.PENDING, reason=reason)
    return Verdict(goal=goal, status=Status.NOT_MEASURED, reason=f"the benchmark {goal.benchmark} has no such figure")


def _compare(goal: Goal, operands: Sequence[Measurement]) -> Verdict:
    measured = operands[0].value if len(operands) == 1 else ratio(operands[0], operands[1])
    is_met = measured >= goal.at_least if goal.at_least is not None else measured <= (goal.at_most or 0)
    unit = operands[0].metric.unit if len(operands) == 1 else "times"
    return Verdict(goal=goal, status=Status.MET if is_met else Status.SHORT, measured=measured, unit=unit)

"""What an examination comes to: findings, each with what it costs and what to do; and the checks that make them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, TypeVar

FactsT = TypeVar("FactsT")


class Severity(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    """As it should be."""
    NOTE = "note"
    """Worth knowing; no promise depends on it."""
    WARNING = "warning"
    """The promises hold, until something else fails or grows."""
    FAILURE = "failure"
    """A promise does not hold, or the service cannot work."""


WORST_FIRST: Final = (Severity.FAILURE, Severity.WARNING, Severity.NOTE, Severity.OK)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """Stable, lower case with dashes; docs/doctor.md lists them."""
    severity: Severity
    found: str
    expected: str
    cost: str = ""
    """What it costs the user to leave it so; empty where nothing is wrong."""
    remedy: str = ""
    """A command, a statement or a setting; empty where nothing is wrong."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Makes the findings of one check."""

    name: str
    expected: str

    def ok(self, found: str) -> Finding:
        return Finding(self.name, Severity.OK, found, self.expected)

    def note(self, found: str, *, cost: str, remedy: str) -> Finding:
        return Finding(self.name, Severity.NOTE, found, self.expected, cost, remedy)

    def warning(self, found: str, *, cost: str, remedy: str) -> Finding:
        return Finding(self.name, Severity.WARNING, found, self.expected, cost, remedy)

    def failure(self, found: str, *, cost: str, remedy: str) -> Finding:
        return Finding(self.name, Severity.FAILURE, found, self.expected, cost, remedy)


@dataclass(frozen=True, slots=True)
class Check(Generic[FactsT]):
    """Facts in, findings out: at least one finding, unless the facts that it needs could not be read."""

    name: str
    expected: str
    judge: Callable[[Verdict, FactsT], Iterable[Finding]]

    def __call__(self, facts: FactsT) -> tuple[Finding, ...]:
        return tuple(self.judge(Verdict(self.name, self.expected), facts))


def check(name: str, *, expected: str) -> Callable[[Callable[[Verdict, FactsT], Iterable[Finding]]], Check[FactsT]]:
    """Make a function the check of this name."""

    def make(judge: Callable[[Verdict, FactsT], Iterable[Finding]]) -> Check[FactsT]:
        return Check(name, expected, judge)

    return make


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Failures before warnings before notes, otherwise as they came."""
    return sorted(findings, key=lambda finding: WORST_FIRST.index(finding.severity))


def has_failure(findings: Iterable[Finding]) -> bool:
    """Whether a promise does not hold."""
    return any(finding.severity is Severity.FAILURE for finding in findings)

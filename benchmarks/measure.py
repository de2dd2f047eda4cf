"""How a measurement is taken: systems in turns, several times, and the median."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any, Final, TypeAlias

HEADWATER: Final = "headwater"
ROUNDS: Final = 5
"""How often each system has its turn."""
WARM_UP_SHARE: Final = 0.1
"""How long the unmeasured first turn is, beside all measured ones together."""

Sample: TypeAlias = Callable[[float], Awaitable[float]]
"""Works for about that many seconds and returns how many events a second it did."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One system that does the work."""

    system: str
    """`headwater`, or what it stands beside, such as `raw asyncpg`."""
    sample: Sample
    conditions: Mapping[str, Any] | None = None
    """What differs from the comparison's own conditions."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Systems that do the same work under the same conditions."""

    bench: str
    conditions: Mapping[str, Any]
    contenders: Sequence[Contender]
    rounds: int = ROUNDS
    """One for work that is long enough by itself; then there is no unmeasured turn either."""


Comparisons: TypeAlias = AsyncIterator[Comparison]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one system reached in one comparison."""

    bench: str
    system: str
    per_second: float
    """Median of the samples."""
    samples: tuple[float, ...]
    conditions: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """One line of `headwater bench --json`; `samples` are in order of time, so the n-th of two systems were taken side by side."""
        return {
            "bench": self.bench,
            "system": self.system,
            "per_second": round(self.per_second, 1),
            "conditions": dict(self.conditions),
            "samples": [round(sample, 1) for sample in self.samples],
        }


def ratio(measurement: Measurement, other: Measurement) -> float:
    """How many times the other's rate: the median over neighbouring samples, so that a slow minute of the machine counts for both."""
    return median(mine / theirs for mine, theirs in zip(measurement.samples, other.samples, strict=True))


async def measure(comparison: Comparison, seconds: float, on_turn: Callable[[], None] = lambda: None) -> list[Measurement]:
    """Let the systems take turns (A B A B …) until each has worked for that many seconds."""
    samples: dict[str, list[float]] = {contender.system: [] for contender in comparison.contenders}
    for contender in comparison.contenders if comparison.rounds > 1 else ():
        await contender.sample(seconds * WARM_UP_SHARE)
    for _ in range(comparison.rounds):
        for contender in comparison.contenders:
            gc.collect()
            samples[contender.system].append(await contender.sample(seconds / comparison.rounds))
            on_turn()
    return [
        Measurement(
            bench=comparison.bench,
            system=contender.system,
            per_second=median(samples[contender.system]),
            samples=tuple(samples[contender.system]),
            conditions={**comparison.conditions, **(contender.conditions or {})},
        )
        for contender in comparison.contenders
    ]


def in_loops(callers: Sequence[Callable[[], Awaitable[int]]]) -> Sample:
    """Each caller calls again as soon as its call returns; a call says how many events it did."""

    async def sample(seconds: float) -> float:
        began = perf_counter()
        deadline = began + seconds

        async def work(call: Callable[[], Awaitable[int]]) -> int:
            done = await call()
            while perf_counter() < deadline:
                done += await call()
            return done

        counts = await asyncio.gather(*(work(call) for call in callers))
        return sum(counts) / (perf_counter() - began)

    return sample

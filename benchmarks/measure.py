"""How a measurement is taken: systems in turns, several times, and the median."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any, Final, TypeAlias

HEADWATER: Final = "headwater"
ROUNDS: Final = 5
"""How often each system has its turn."""
WARM_UP_SHARE: Final = 0.1
"""How long the unmeasured first turn is, beside all measured ones together."""

Sample: TypeAlias = Callable[[float], Awaitable["float | Mapping[str, float]"]]
"""Works for about that many seconds and returns what it reached: a number, or one for each metric of the comparison by its name."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One thing that a turn tells."""

    name: str
    unit: str
    more_is_better: bool = False


RATE: Final = Metric("rate", "events/s", more_is_better=True)
P50: Final = Metric("p50", "ms")
P99: Final = Metric("p99", "ms")


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
    """Systems that do the same work under the same conditions; the table compares each with the first."""

    bench: str
    conditions: Mapping[str, Any]
    contenders: Sequence[Contender]
    rounds: int = ROUNDS
    """One for work that is long enough by itself; then there is no unmeasured turn either."""
    metrics: tuple[Metric, ...] = (RATE,)


@dataclass(frozen=True, slots=True)
class Pending:
    """A comparison whose Headwater side does not exist in this version."""

    bench: str
    reason: str
    conditions: Mapping[str, Any]


Comparisons: TypeAlias = AsyncIterator[Comparison | Pending]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one system reached in one comparison, in one metric."""

    bench: str
    system: str
    value: float
    """Median of the samples."""
    samples: tuple[float, ...]
    conditions: Mapping[str, Any]
    metric: Metric = RATE

    def as_json(self) -> dict[str, Any]:
        """One line of `headwater bench --json`; `samples` are in order of time, so the n-th of two systems were taken side by side."""
        told = (
            {"per_second": rounded(self.value)}
            if self.metric is RATE
            else {"metric": self.metric.name, "unit": self.metric.unit, "value": rounded(self.value)}
        )
        return {
            "bench": self.bench,
            "system": self.system,
            **told,
            "conditions": dict(self.conditions),
            "samples": [rounded(sample) for sample in self.samples],
        }


def rounded(value: float) -> float:
    """As many digits as mean something."""
    return round(value, 1 if abs(value) >= 100 else 3)


def ratio(measurement: Measurement, other: Measurement) -> float:
    """How many times the other's value: the median over neighbouring samples, so that a slow minute of the machine counts for both."""
    return median(mine / theirs for mine, theirs in zip(measurement.samples, other.samples, strict=True))


async def measure(comparison: Comparison, seconds: float, on_turn: Callable[[], None] = lambda: None) -> list[Measurement]:
    """Let the systems take turns (A B A B …) until each has worked for that many seconds."""
    turns: dict[str, list[Mapping[str, float]]] = {contender.system: [] for contender in comparison.contenders}
    for contender in comparison.contenders if comparison.rounds > 1 else ():
        await contender.sample(seconds * WARM_UP_SHARE)
    for _ in range(comparison.rounds):
        for contender in comparison.contenders:
            gc.collect()
            reached = await contender.sample(seconds / comparison.rounds)
            turns[contender.system].append(reached if isinstance(reached, Mapping) else {comparison.metrics[0].name: reached})
            on_turn()
    return [
        _measurement(comparison, contender, metric, tuple(turn[metric.name] for turn in turns[contender.system]))
        for metric in comparison.metrics
        for contender in comparison.contenders
    ]


def _measurement(comparison: Comparison, contender: Contender, metric: Metric, samples: tuple[float, ...]) -> Measurement:
    conditions = {**comparison.conditions, **(contender.conditions or {})}
    return Measurement(comparison.bench, contender.system, median(samples), samples, conditions, metric)


Call: TypeAlias = Callable[[], Awaitable[int]]
"""Does a piece of work and returns how many events that were."""


def in_loops(callers: Sequence[Call]) -> Sample:
    """Each caller calls again as soon as its call returns."""

    async def sample(seconds: float) -> float:
        began = perf_counter()
        deadline = began + seconds

        async def work(call: Call) -> int:
            done = await call()
            while perf_counter() < deadline:
                done += await call()
            return done

        counts = await asyncio.gather(*(work(call) for call in callers))
        return sum(counts) / (perf_counter() - began)

    return sample


def in_threads(callers: Sequence[Callable[[], int]]) -> Sample:
    """The same for a library that blocks: a thread for each caller, while the event loop waits."""

    def work(call: Callable[[], int], deadline: float) -> int:
        done = call()
        while perf_counter() < deadline:
            done += call()
        return done

    async def sample(seconds: float) -> float:
        with ThreadPoolExecutor(max_workers=len(callers)) as threads:
            began = perf_counter()
            futures = [threads.submit(work, call, began + seconds) for call in callers]
            counts = await asyncio.gather(*map(asyncio.wrap_future, futures))
            return sum(counts) / (perf_counter() - began)

    return sample


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def at_a_steady_rate(call_count: int, per_second: float, call: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    """Call, with the number of the call, so many times a second, whether or not earlier calls have returned; returns when all have."""
    first = perf_counter()
    async with asyncio.TaskGroup() as calls:
        for number in range(call_count):
            await asyncio.sleep(max(0.0, first + number / per_second - perf_counter()))
            calls.create_task(call(number))


def latency_percentiles(called: Mapping[int, float], arrived: Mapping[int, float]) -> dict[str, float]:
    """Milliseconds from each call to its arrival, by the positions of the events."""
    latencies = [1_000 * (arrived[position] - began) for position, began in called.items()]
    return {P50.name: percentile(latencies, 0.50), P99.name: percentile(latencies, 0.99)}

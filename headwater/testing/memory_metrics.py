"""Measurements kept in memory, to be asked for by tests."""

from __future__ import annotations

from headwater.metrics import Instrument


class MemoryMetrics:
    """A `Metrics` that remembers."""

    def __init__(self) -> None:
        self.values: dict[tuple[Instrument, tuple[str, ...]], float] = {}
        """Sums of counters, and what gauges were set to last."""
        self.observed: dict[tuple[Instrument, tuple[str, ...]], list[float]] = {}
        self.calls = 0
        """How often anything was told."""

    def value(self, instrument: Instrument, *labels: str) -> float:
        """A counter's sum, or a gauge's value; 0 where nothing was told."""
        return self.values.get((instrument, labels), 0.0)

    def add(self, counter: Instrument, amount: float, *labels: str) -> None:
        self._check(counter, "counter", labels)
        assert amount >= 0, "counters only grow"
        self.values[counter, labels] = self.value(counter, *labels) + amount

    def set(self, gauge: Instrument, value: float, *labels: str) -> None:
        self._check(gauge, "gauge", labels)
        self.values[gauge, labels] = value

    def observe(self, histogram: Instrument, value: float, *labels: str) -> None:
        self._check(histogram, "histogram", labels)
        self.observed.setdefault((histogram, labels), []).append(value)

    def clear(self, gauge: Instrument) -> None:
        for key in [key for key in self.values if key[0] is gauge]:
            del self.values[key]

    def _check(self, instrument: Instrument, kind: str, labels: tuple[str, ...]) -> None:
        self.calls += 1
        assert instrument.kind == kind, f"{instrument.name} is a {instrument.kind}"
        assert len(labels) == len(instrument.labels), f"{instrument.name} has the labels {instrument.labels}, not {labels}"

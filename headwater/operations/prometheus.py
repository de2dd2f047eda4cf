"""Measurements for Prometheus, through its own client library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias
from weakref import WeakKeyDictionary

from headwater.errors import UsageError
from headwater.metrics import INSTRUMENTS, Instrument

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

    Collectors: TypeAlias = dict[Instrument, Counter | Gauge | Histogram]

SECONDS_BUCKETS: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_of_registries: WeakKeyDictionary[CollectorRegistry, Collectors] = WeakKeyDictionary()
"""A registry takes each name once, however many services use it one after another."""


class PrometheusMetrics:
    """A `Metrics` that keeps its sums in a registry of prometheus-client; one process, one service.

    Args:
        registry: by default the library's own, so that /metrics shows what the application counts beside Headwater.
    Raises:
        UsageError: prometheus-client is not installed.
    """

    content_type: Final = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        try:
            import prometheus_client
        except ModuleNotFoundError:
            raise UsageError("metrics need the library prometheus-client; install headwater[metrics]") from None
        self.registry = registry or prometheus_client.REGISTRY
        if self.registry not in _of_registries:
            _of_registries[self.registry] = {instrument: _collector(instrument, self.registry) for instrument in INSTRUMENTS}
        self._collectors = _of_registries[self.registry]

    def add(self, counter: Instrument, amount: float, *labels: str) -> None:
        collector: Counter = self._find(counter)  # type: ignore[assignment]  # the instrument's kind tells
        (collector.labels(*labels) if labels else collector).inc(amount)

    def observe(self, histogram: Instrument, value: float, *labels: str) -> None:
        collector: Histogram = self._find(histogram)  # type: ignore[assignment]  # the same
        (collector.labels(*labels) if labels else collector).observe(value)

    def set(self, gauge: Instrument, value: float, *labels: str) -> None:
        collector: Gauge = self._find(gauge)  # type: ignore[assignment]  # the same
        (collector.labels(*labels) if labels else collector).set(value)

    def clear(self, gauge: Instrument) -> None:
        if gauge.labels:
            self._find(gauge).clear()

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)

    def _find(self, instrument: Instrument) -> Counter | Gauge | Histogram:
        if (found := self._collectors.get(instrument)) is None:
            found = self._collectors[instrument] = _collector(instrument, self.registry)
        return found


def _collector(instrument: Instrument, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    from prometheus_client import Counter, Gauge, Histogram

    if instrument.kind == "counter":
        return Counter(instrument.name, instrument.description, instrument.labels, registry=registry)
    if instrument.kind == "gauge":
        return Gauge(instrument.name, instrument.description, instrument.labels, registry=registry)
    return Histogram(instrument.name, instrument.description, instrument.labels, registry=registry, buckets=SECONDS_BUCKETS)

"""What is counted and measured, and the port through which it leaves: a room tells of it once a batch, never once a message.

Rooms know no monitoring system. `NO_METRICS` is what they have until a service is given something else, such as
`headwater.service.PrometheusMetrics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Protocol

from headwater.clock import Clock


@dataclass(frozen=True, slots=True)
class Instrument:
    """One thing that is measured; counters end in `_total`, durations are in seconds."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    labels: tuple[str, ...] = ()


NO_HANDLER: Final = "(none)"
"""The handler's label for records that could not even be given to one."""

MESSAGES_HANDLED: Final = Instrument(
    "headwater_messages_handled_total", "counter", "Messages whose effects were committed; its rate is the consumer's rate.", ("group",)
)
BATCH_SECONDS: Final = Instrument(
    "headwater_batch_seconds", "histogram", "From the beginning of a batch's transaction to its commit.", ("group",)
)
HANDLER_SECONDS: Final = Instrument(
    "headwater_handler_seconds_total", "counter", "Time spent in a handler, failed attempts as well.", ("group", "handler")
)
HANDLER_CALLS: Final = Instrument(
    "headwater_handler_calls_total", "counter", "Calls of a handler, failed attempts as well.", ("group", "handler")
)
HANDLER_RETRIES: Final = Instrument(
    "headwater_handler_retries_total", "counter", "Failed attempts at a message, each tried again or given up.", ("group", "handler")
)
DEAD_LETTERS: Final = Instrument(
    "headwater_dead_letters_total", "counter", "Messages that a handler gave up on, kept as dead letters.", ("group", "handler")
)
MESSAGES_PARKED: Final = Instrument(
    "headwater_messages_parked_total",
    "counter",
    "Messages that were set aside with their key, or wait behind one that was.",
    ("group", "handler"),
)
PARKED_MESSAGES: Final = Instrument(
    "headwater_parked_messages", "gauge", "Messages of a partition that wait in parked keys now.", ("group", "topic", "partition")
)
PARKED_KEYS: Final = Instrument(
    "headwater_parked_keys", "gauge", "Keys of a partition that are parked now.", ("group", "topic", "partition")
)
CONSUMER_LAG_EVENTS: Final = Instrument(
    "headwater_consumer_lag_events", "gauge", "Records of a partition that are not committed yet.", ("group", "topic", "partition")
)
CONSUMER_LAG_SECONDS: Final = Instrument(
    "headwater_consumer_lag_seconds", "gauge", "Age of the oldest record that is not committed yet.", ("group", "topic", "partition")
)
CONSUMER_PARTITIONS: Final = Instrument(
    "headwater_consumer_partitions", "gauge", "Partitions assigned to this process, by what is done with them.", ("group", "state")
)
RELAY_EVENTS: Final = Instrument("headwater_relay_events_total", "counter", "Events that Kafka acknowledged; its rate is the relay's rate.")
RELAY_FAILURES: Final = Instrument(
    "headwater_relay_failures_total", "counter", "Sessions of the relay that ended badly and were begun anew.", ("error",)
)
RELAY_LAG_EVENTS: Final = Instrument(
    "headwater_relay_lag_events", "gauge", "Events that can be read and are not known to be in Kafka.", ("shard",)
)
RELAY_LAG_SECONDS: Final = Instrument("headwater_relay_lag_seconds", "gauge", "Age of the oldest of them.", ("shard",))
RELAY_SHARDS: Final = Instrument("headwater_relay_shards", "gauge", "Shards of the log that this process relays.")
RELAY_STOPPED_PARTITIONS: Final = Instrument("headwater_relay_stopped_partitions", "gauge", "Partitions that stand still with an alarm.")
LOG_HORIZON: Final = Instrument("headwater_log_horizon", "gauge", "Position up to which the log can be read now.")
PROJECTION_LAG_EVENTS: Final = Instrument(
    "headwater_projection_lag_events", "gauge", "Events that can be read and are not in the read model.", ("projection",)
)
PROJECTION_LAG_SECONDS: Final = Instrument("headwater_projection_lag_seconds", "gauge", "Age of the oldest of them.", ("projection",))
PROJECTION_RUNNING: Final = Instrument("headwater_projection_running", "gauge", "0 where a projection stands still.", ("projection",))
DUE_LATE_SECONDS: Final = Instrument(
    "headwater_due_late_seconds", "gauge", "How long the first of what is due waits beyond its moment; 0 when nothing does.", ("work",)
)
WORKER_RESTARTS: Final = Instrument(
    "headwater_worker_restarts_total", "counter", "Workers that ended or stalled and were started anew.", ("worker",)
)

INSTRUMENTS: Final = (
    MESSAGES_HANDLED,
    BATCH_SECONDS,
    HANDLER_SECONDS,
    HANDLER_CALLS,
    HANDLER_RETRIES,
    DEAD_LETTERS,
    MESSAGES_PARKED,
    PARKED_MESSAGES,
    PARKED_KEYS,
    CONSUMER_LAG_EVENTS,
    CONSUMER_LAG_SECONDS,
    CONSUMER_PARTITIONS,
    RELAY_EVENTS,
    RELAY_FAILURES,
    RELAY_LAG_EVENTS,
    RELAY_LAG_SECONDS,
    RELAY_SHARDS,
    RELAY_STOPPED_PARTITIONS,
    LOG_HORIZON,
    PROJECTION_LAG_EVENTS,
    PROJECTION_LAG_SECONDS,
    PROJECTION_RUNNING,
    DUE_LATE_SECONDS,
    WORKER_RESTARTS,
)


class Metrics(Protocol):
    """Where measurements go. Labels are given in the order of the instrument's."""

    def add(self, counter: Instrument, amount: float, *labels: str) -> None:
        """So much more of it."""
        ...

    def observe(self, histogram: Instrument, value: float, *labels: str) -> None:
        """One more value."""
        ...

    def set(self, gauge: Instrument, value: float, *labels: str) -> None:
        """It is so much now."""
        ...

    def clear(self, gauge: Instrument) -> None:
        """Forget its values; what is true now is set next."""
        ...


class NoMetrics:
    """Counts nothing."""

    def add(self, counter: Instrument, amount: float, *labels: str) -> None: ...

    def observe(self, histogram: Instrument, value: float, *labels: str) -> None: ...

    def set(self, gauge: Instrument, value: float, *labels: str) -> None: ...

    def clear(self, gauge: Instrument) -> None: ...


NO_METRICS: Final = NoMetrics()


class HandlerTimes:
    """Adds up the calls of handlers, to be told of once a batch."""

    def __init__(self, metrics: Metrics, clock: Clock, group: str) -> None:
        self._metrics, self._clock, self._group = metrics, clock, group
        self._sums: dict[str, list[float]] = {}
        self.is_wanted: Final = metrics is not NO_METRICS
        """Otherwise nothing need be measured."""

    def begin(self) -> float:
        """A handler is called."""
        return self._clock.monotonic()

    def end(self, handler_name: str, begun_at: float) -> None:
        """It returned, or raised."""
        sums = self._sums.get(handler_name)
        if sums is None:
            sums = self._sums[handler_name] = [0.0, 0.0]
        sums[0] += self._clock.monotonic() - begun_at
        sums[1] += 1

    def tell(self) -> None:
        """Pass on what was added up since the last time."""
        for name, (seconds, calls) in self._sums.items():
            self._metrics.add(HANDLER_SECONDS, seconds, self._group, name)
            self._metrics.add(HANDLER_CALLS, calls, self._group, name)
        self._sums.clear()

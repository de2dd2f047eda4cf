"""Sizes and times of a relay, named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from headwater.coordination import LEASE_SECONDS

SLICE_EVENTS_MAX: Final = 2_000
"""Events read from the log at once."""
ROUTED_AT_ONCE: Final = 200
"""So many events are encoded in one go, some two milliseconds; then the loop sees to the sockets."""
SLICE_EVENTS_FIRST: Final = 250
"""The first slice; later ones grow while their events are small, so that 2,000 events of 1 MiB never meet in memory."""
SLICE_BYTES_TARGET: Final = 4 * 1024 * 1024
"""A slice of more than this makes the next one smaller."""
UNACKNOWLEDGED_BYTES_MAX: Final = 8 * 1024 * 1024
"""The next slice waits while more than this is on its way to Kafka."""
GATHER_SECONDS: Final = 0.01
"""At the log's end it is read again no sooner than this after the last time that something was found."""
POLL_SECONDS_MIN: Final = 0.002
POLL_SECONDS_MAX: Final = 0.1
"""An idle relay looks at the log again after 2 ms, then twice as late each time, up to 100 ms."""
CHECKPOINT_SECONDS: Final = 1.0
"""How often progress is saved; what a crash forgets is found again in the partitions' tails."""
DRAIN_SECONDS_MAX: Final = 5.0
"""How long a relay that is told to stop waits for what is on its way."""
BACK_OFF_SECONDS_MIN: Final = 0.1
BACK_OFF_SECONDS_MAX: Final = 5.0
"""After a failure: a random wait up to twice the last one, between these."""
STOP_RETRY_SECONDS: Final = 30.0
"""How often a stopped partition is tried again, in case somebody has mended it."""
FENCE_AGE_SECONDS_MAX: Final = 12 * 3600.0
"""When a relay fences again though nothing failed: a broker forgets epochs that were not used for a day, transactional ids after a week."""


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """What tests and operators change; the rest is constants."""

    lease_seconds: float = LEASE_SECONDS
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    poll_seconds_max: float = POLL_SECONDS_MAX
    drain_seconds_max: float = DRAIN_SECONDS_MAX
    stop_retry_seconds: float = STOP_RETRY_SECONDS
    fence_age_seconds_max: float = FENCE_AGE_SECONDS_MAX
    slice_events_max: int = SLICE_EVENTS_MAX
    topic_prefix: str = ""
    """Before the category in every topic's name; of a log outside the default schema."""

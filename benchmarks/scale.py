"""How large the work is: small enough to be run often, as large as the promises speak of, or tiny for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Scale:
    """The sizes that a run may choose."""

    callers: tuple[int, ...] = (1, 8, 64, 512)
    """How many append single events at the same time."""
    batches: tuple[int, ...] = (10, 100, 1_000)
    """How many events one caller appends at once."""
    growth_events: tuple[int, ...] = (100_000, 1_000_000)
    """How many events are in the logs that are appended to."""
    reader_events: int = 1_000_000
    """How many a reader reads whose memory is watched."""
    log_events: int = 20_000
    import_events: int = 50_000
    topic_events: int = 6_000
    """How many are in the topic that is consumed."""
    fold_events: int = 30_000
    """How many where their effect is one statement for many."""
    stream_lengths: tuple[int, ...] = (10, 100, 1_000)
    lane_events: int = 150
    """How many a lane works off in a turn."""
    latency_seconds_min: float = 2.0
    """A turn at a slow rate has to have some events."""
    idle_seconds: float = 10.0
    """How long an idle subscriber's statements are counted."""


USUAL: Final = Scale()
FULL: Final = Scale(growth_events=(100_000, 1_000_000, 10_000_000))
TINY: Final = Scale(
    callers=(1, 8),
    batches=(10,),
    growth_events=(1_000, 2_000),
    reader_events=3_000,
    log_events=1_000,
    import_events=1_000,
    topic_events=600,
    fold_events=600,
    stream_lengths=(10,),
    lane_events=10,
    latency_seconds_min=0.2,
    idle_seconds=1.5,
)
"""For tests of the benchmarks themselves."""

"""What rooms and users see of projections: how far they got, and how a rebuild goes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from headwater.eventstore import Checkpoint

Consistency: TypeAlias = Literal["eventual", "causal", "strong"]


@dataclass(frozen=True, slots=True)
class ProjectionVersion:
    """How far one version of a projection got: the live one, or the next, which a rebuild is filling."""

    name: str
    role: str
    """`live` or `next`."""
    schema_name: str
    shape: str
    fingerprint: str
    generation: int
    checkpoint: Checkpoint
    event_count: int
    """Events of the log that it has read, those it does not take included."""
    status: str
    """`running`, `failed` or `diverged`."""
    error: str | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class RebuildProgress:
    """How a rebuild goes."""

    projection: str
    events_done: int
    events_total: int
    """Estimated from the log's positions until the end; positions that aborted appends drew are counted with."""
    events_per_second: float
    """Since this run began."""
    seconds_left: float | None
    """None while nothing is known of the rate."""
    done: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """A row of a read model that is not what the log says."""

    row: str
    """The row's key; of an SQL projection, its table."""
    stored: str | None
    """None where the row is missing."""
    expected: str | None
    """None where there should be none."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What a read model compared with the log gave."""

    projection: str
    checkpoint: Checkpoint
    """Up to here both were compared."""
    rows_compared: int
    differences: tuple[Difference, ...]
    """Not more than `DIFFERENCES_MAX`."""

    @property
    def is_equal(self) -> bool:
        return not self.differences

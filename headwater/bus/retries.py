"""How often a failing message is tried, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from headwater.errors import ConfigurationError
from headwater.randomness import Randomness

ATTEMPTS_MAX: Final = 1_000
CONFLICTS_MAX: Final = 10
"""So often in a row another writer may be first before a message is taken to be at fault itself: it may expect a version that never comes."""
_EXPONENT_MAX: Final = 64
"""Beyond it the delay is at its maximum for any sensible factor, and a float would overflow."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with jitter. The message's partition waits meanwhile, so the default gives up after about ten seconds."""

    attempts_max: int = 5
    """Attempts before the message becomes a dead letter; 1 never tries again."""
    first_delay_seconds: float = 0.25
    delay_factor: float = 3.0
    delay_seconds_max: float = 30.0
    jitter: float = 0.2
    """Each delay is drawn from this share below to this share above."""

    def __post_init__(self) -> None:
        if not 1 <= self.attempts_max <= ATTEMPTS_MAX:
            raise ConfigurationError(f"RetryPolicy(attempts_max={self.attempts_max}) must lie between 1 and {ATTEMPTS_MAX}")
        if self.first_delay_seconds < 0 or self.delay_seconds_max < 0 or self.delay_factor < 1 or not 0 <= self.jitter <= 1:
            raise ConfigurationError("RetryPolicy: delays must not be negative, delay_factor at least 1, jitter between 0 and 1")

    def delay_seconds(self, failures: int, randomness: Randomness) -> float:
        """How long to wait after so many failures in a row, counted from 1."""
        delay = self.first_delay_seconds * self.delay_factor ** min(failures - 1, _EXPONENT_MAX)
        return min(delay, self.delay_seconds_max) * randomness.uniform(1 - self.jitter, 1 + self.jitter)


class HandlerFault(Exception):
    """A handler failed at one message of a batch; never leaves the room."""

    def __init__(self, index: int, handler_name: str, error: BaseException, *, is_permanent: bool = False, counts: bool = True) -> None:
        super().__init__(f"{handler_name}: {type(error).__name__}")
        self.index, self.handler_name, self.error = index, handler_name, error
        self.is_permanent = is_permanent
        """Trying again is pointless: the data does not fit."""
        self.counts = counts
        """False where the message is not to blame (a deadlock, a database away)."""
        self.ends_transaction = False
        """Nothing more can be done in this transaction."""


class BatchFault(Exception):
    """A handler of many events failed at one of them, and nobody knows which; never leaves the room."""

    def __init__(self, handler_name: str, error: BaseException, event_count: int) -> None:
        super().__init__(f"{handler_name}, given {event_count} events: {type(error).__name__}")


@dataclass(slots=True)
class Failure:
    """What one handler made of one message, over its attempts."""

    error: BaseException
    first_failed_at: datetime
    last_failed_at: datetime


@dataclass(slots=True)
class FailingMessage:
    """The message that a partition waits for."""

    offset: int
    due_at: float
    """On the monotonic clock."""
    attempts: int = 0
    """Those that count."""
    waits: int = 0
    """Delays in a row, whether the attempt before counted or not."""
    failures: dict[str, Failure] = field(default_factory=dict[str, Failure])
    """The last error of each handler, by name."""
    given_up: set[str] = field(default_factory=set[str])
    """Handlers that are not tried again."""

    def note(self, handler_name: str, error: BaseException, now: datetime) -> None:
        """Remember the handler's latest error."""
        known = self.failures.setdefault(handler_name, Failure(error, now, now))
        known.error, known.last_failed_at = error, now

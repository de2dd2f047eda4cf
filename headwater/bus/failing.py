"""A message that failed: by which handlers, how often, and what was decided."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from headwater.bus.retries import HandlerPolicy, Park, RetryPolicy, Stop, Verdict
from headwater.randomness import Randomness


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


@dataclass(slots=True)
class Failure:
    """What one handler made of one message, over its attempts."""

    error: BaseException
    first_failed_at: datetime
    last_failed_at: datetime
    attempts: int = 0
    """Those that count."""
    retries: int = 0
    """Those of them after which it was, or stayed, parked."""


@dataclass(slots=True)
class FailingMessage:
    """The message that a partition waits for."""

    offset: int
    due_at: float
    """On the monotonic clock."""
    waits: int = 0
    """Delays in a row, whether the attempt before counted or not."""
    failures: dict[str, Failure] = field(default_factory=dict[str, Failure])
    """The last error of each handler, by name."""
    settled: dict[str, Verdict] = field(default_factory=dict[str, Verdict])
    """Handlers that are not tried again, and what becomes of the message for them."""
    is_blocked: bool = False
    """It did not fail: what waits behind parked keys has reached its limit."""

    @property
    def is_stopped(self) -> bool:
        """Nothing more of the partition is applied before it is claimed anew."""
        return any(isinstance(verdict, Stop) for verdict in self.settled.values())

    @property
    def attempts(self) -> int:
        """Those of the handler that had the most."""
        return max((failure.attempts for failure in self.failures.values()), default=0)

    def note(self, fault: HandlerFault, now: datetime) -> Failure:
        """Remember the handler's latest error."""
        known = self.failures.setdefault(fault.handler_name, Failure(fault.error, now, now))
        known.error, known.last_failed_at = fault.error, now
        known.attempts += fault.counts
        return known


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Not decided yet."""

    delay_seconds: float


def decide(
    fault: HandlerFault, failure: Failure, policy: HandlerPolicy, default: RetryPolicy, randomness: Randomness
) -> TryAgain | Verdict:
    """What becomes of a message in place, after a failure that counts and was noted."""
    action = policy.action(fault.error, default=default, is_permanent=fault.is_permanent)
    if not isinstance(action, RetryPolicy):
        return action
    if failure.attempts < action.attempts_max:
        return TryAgain(action.delay_seconds(failure.attempts, randomness))
    return action.then


def decide_parked(
    fault: HandlerFault, failure: Failure, policy: HandlerPolicy, default: RetryPolicy, randomness: Randomness
) -> TryAgain | Verdict:
    """What becomes of a message that is parked; counts the retry where it stays so. `Park` is the answer that its attempts are used up."""
    verdict = decide(fault, failure, policy, default, randomness)
    if not isinstance(verdict, Park):
        return verdict
    failure.retries += 1
    if failure.retries <= verdict.attempts_max:
        return TryAgain(verdict.delay_seconds(failure.retries, randomness))
    return verdict

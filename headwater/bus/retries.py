"""What becomes of a message whose handler failed: tried again, parked, made a dead letter, passed over, or the partition stops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, get_args

from headwater.errors import ConfigurationError, StorageUnavailable, TransactionConflict, UsageError
from headwater.randomness import Randomness

ATTEMPTS_MAX: Final = 1_000
CONFLICTS_MAX: Final = 10
"""So often in a row another writer may be first before a message is taken to be at fault itself: it may expect a version that never comes."""
_EXPONENT_MAX: Final = 64
"""Beyond it the delay is at its maximum for any sensible factor, and a float would overflow."""

Exhausted: TypeAlias = Literal["dead_letter", "stop_key"]


@dataclass(frozen=True, slots=True)
class Park:
    """Set the message aside with its key (its stream): later messages of that key wait behind it, in order, and nothing else does.

    It is tried again with growing delays, about an hour long by default. Once it succeeds, what waits behind it follows in order.
    """

    attempts_max: int = 10
    """So many more attempts."""
    first_delay_seconds: float = 1.0
    delay_factor: float = 3.0
    delay_seconds_max: float = 900.0
    jitter: float = 0.2
    """Each delay is drawn from this share below to this share above."""
    when_exhausted: Exhausted = "dead_letter"
    """`dead_letter`: the message becomes one, and those behind it go on. `stop_key`: it stays, and its key with it, until a person decides
    (`headwater dead-letters retry --parked`)."""

    def __post_init__(self) -> None:
        _check_backoff(self)
        if self.when_exhausted not in get_args(Exhausted):
            raise ConfigurationError(f"Park(when_exhausted={self.when_exhausted!r}) must be 'dead_letter' or 'stop_key'")

    def delay_seconds(self, failures: int, randomness: Randomness) -> float:
        """How long to wait after so many failures while parked, counted from 1."""
        return _delay_seconds(self, failures, randomness)


@dataclass(frozen=True, slots=True)
class DeadLetterIt:
    """Keep the message with its error for a person to decide, and go on with the next of its key."""


@dataclass(frozen=True, slots=True)
class Skip:
    """Pass over the message for this handler; the log line `message_skipped` is all that stays."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Apply nothing more of this partition until the service is started again; a key that is parked already stops alone."""


Verdict: TypeAlias = Park | DeadLetterIt | Skip | Stop
DEAD_LETTER: Final = DeadLetterIt()


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Quick attempts in place, with exponential back-off and jitter, and what comes after them.

    The message's partition waits meanwhile, so the default gives up within a tenth of a second and parks the message.
    """

    attempts_max: int = 3
    """Attempts in place, the first one included; 1 never tries again."""
    first_delay_seconds: float = 0.02
    delay_factor: float = 3.0
    delay_seconds_max: float = 1.0
    jitter: float = 0.2
    """Each delay is drawn from this share below to this share above."""
    then: Verdict = field(default_factory=Park)
    """What becomes of a message that fails every time."""

    def __post_init__(self) -> None:
        _check_backoff(self)
        if not isinstance(self.then, get_args(Verdict)):
            raise ConfigurationError(f"RetryPolicy(then={self.then!r}) must be Park(), DeadLetterIt(), Skip() or Stop()")

    def delay_seconds(self, failures: int, randomness: Randomness) -> float:
        """How long to wait after so many failures in a row, counted from 1."""
        return _delay_seconds(self, failures, randomness)


ErrorAction: TypeAlias = RetryPolicy | Verdict
"""What to do about one kind of error."""
OnError: TypeAlias = Mapping[type[Exception], ErrorAction]


class BatchFault(Exception):
    """A handler of many events failed at one of them, and nobody knows which; never leaves the room."""

    def __init__(self, handler_name: str, error: BaseException, event_count: int) -> None:
        super().__init__(f"{handler_name}, given {event_count} events: {type(error).__name__}")


@dataclass(frozen=True, slots=True)
class HandlerPolicy:
    """What a handler's decorator says about its errors."""

    retry: RetryPolicy | None = None
    """For errors that `on_error` does not name; None: the consumer's own."""
    on_error: OnError = field(default_factory=lambda: MappingProxyType(dict[type[Exception], ErrorAction]()))
    copy_to: type[Any] | None = None
    """The class of the copies of its dead letters."""

    def action(self, error: BaseException, *, default: RetryPolicy, is_permanent: bool) -> ErrorAction:
        """What to do about this error: what its nearest class says, else a dead letter for data that never fits, else the retries."""
        for kind in type(error).__mro__:
            if (named := self.on_error.get(kind)) is not None:
                return named
        return DEAD_LETTER if is_permanent else self.retry or default


DEFAULT_POLICY: Final = HandlerPolicy()
_WAITED_OUT: Final = (StorageUnavailable, TransactionConflict)


def checked_policy(retry: Any = None, on_error: Any = None, copy_to: type[Any] | None = None) -> HandlerPolicy:
    """The policy that a decorator's arguments mean.

    Raises:
        UsageError: at import: an action or a kind of error is none.
    """
    if retry is not None and not isinstance(retry, RetryPolicy):
        raise UsageError(f"on(..., retry={retry!r}) must be a RetryPolicy; what comes after the retries is its `then`")
    if on_error is not None and not isinstance(on_error, Mapping):
        raise UsageError(f"on(..., on_error={on_error!r}) must map classes of exceptions to actions, as in {{PaymentDown: Park()}}")
    actions: dict[Any, Any] = dict(on_error or {})  # pyright: ignore[reportUnknownArgumentType] - checked one by one below
    for kind, action in actions.items():
        _check_kind(kind)
        if not isinstance(action, get_args(ErrorAction)):
            hint = "; write it with brackets" if isinstance(action, type) else ""
            raise UsageError(
                f"on_error says {action!r} for {kind.__name__}: use RetryPolicy(), Park(), DeadLetterIt(), Skip() or Stop(){hint}"
            )
    return HandlerPolicy(retry, MappingProxyType(actions), copy_to)


def _check_kind(kind: Any) -> None:
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        raise UsageError(f"on_error names {kind!r}, which is no class of exceptions that a handler may raise")
    if issubclass(kind, _WAITED_OUT):
        raise UsageError(
            f"on_error names {kind.__name__}, for which no message is to blame: it is waited out without counting, and cannot be decided upon"
        )


def _check_backoff(policy: RetryPolicy | Park) -> None:
    name = type(policy).__name__
    if not 1 <= policy.attempts_max <= ATTEMPTS_MAX:
        raise ConfigurationError(f"{name}(attempts_max={policy.attempts_max}) must lie between 1 and {ATTEMPTS_MAX}")
    if policy.first_delay_seconds < 0 or policy.delay_seconds_max < 0 or policy.delay_factor < 1 or not 0 <= policy.jitter <= 1:
        raise ConfigurationError(f"{name}: delays must not be negative, delay_factor at least 1, jitter between 0 and 1")


def _delay_seconds(policy: RetryPolicy | Park, failures: int, randomness: Randomness) -> float:
    delay = policy.first_delay_seconds * policy.delay_factor ** min(failures - 1, _EXPONENT_MAX)
    return min(delay, policy.delay_seconds_max) * randomness.uniform(1 - policy.jitter, 1 + policy.jitter)

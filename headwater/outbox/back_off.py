"""How long to wait after failures that shards of one process have together: the server that one misses is away for all."""

from __future__ import annotations

from headwater.clock import Clock
from headwater.outbox.options import BACK_OFF_SECONDS_MAX, BACK_OFF_SECONDS_MIN
from headwater.randomness import Randomness


class BackOff:
    """A random wait up to twice the last one; shards that fail while one waits, wait with it and start over together."""

    def __init__(self, clock: Clock, randomness: Randomness) -> None:
        self._clock, self._randomness = clock, randomness
        self._seconds = BACK_OFF_SECONDS_MIN
        self._failed_at = self._retry_at = clock.monotonic()
        self._reasons: set[str] = set()

    def after(self, reason: str, *, at_once: bool = False) -> tuple[bool, float]:
        """Whether this failure is news, and how many seconds to wait.

        Args:
            at_once: a failure that nobody else has part in, and that waiting does not mend.
        """
        now = self._clock.monotonic()
        if at_once:
            return True, BACK_OFF_SECONDS_MIN
        if now >= self._retry_at:
            self._reasons.clear()
            if now - self._failed_at > 2 * BACK_OFF_SECONDS_MAX:  # after a good while the count begins anew
                self._seconds = BACK_OFF_SECONDS_MIN
            self._failed_at = now
            self._retry_at = now + self._randomness.uniform(BACK_OFF_SECONDS_MIN, self._seconds)
            self._seconds = min(self._seconds * 2, BACK_OFF_SECONDS_MAX)
        is_new = reason not in self._reasons
        self._reasons.add(reason)
        return is_new, self._retry_at - now

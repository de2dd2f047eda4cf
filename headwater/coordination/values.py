"""Leases as values, and what their names may be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from headwater.checks import CONTROL
from headwater.errors import UsageError

NAME_CHARACTERS_MAX: Final = 200
"""The longest name of a lease, and of a holder."""
LEASE_SECONDS_MAX: Final = 24 * 3600.0
"""The longest lease: whoever wants more renews."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to do something, until it runs out or somebody takes a later term."""

    name: str
    term: int
    """Grows with every taking of this name, for ever."""
    holder: str
    expires_at: datetime
    """By the clock of the store, not by this process's."""

    @property
    def fencing_token(self) -> int:
        """The term, as those call it who check it: whoever has seen a larger one refuses this one."""
        return self.term


@dataclass(frozen=True, slots=True)
class LeaseFacts:
    """How a lease is, as anybody may see it."""

    name: str
    term: int
    holder: str | None
    """Who holds it, or did when it ran out; None when it was given back."""
    expires_at: datetime
    is_held: bool
    """Whether somebody holds it now, by the clock of the store."""


def check_lease(name: str, holder: str, seconds: float) -> None:
    """Refuse what no store of leases can keep.

    Raises:
        UsageError: which part, and why.
    """
    for what, text in (("name", name), ("holder", holder)):
        if not 1 <= len(text) <= NAME_CHARACTERS_MAX or CONTROL.search(text):
            raise UsageError(
                f"the {what} of a lease {text[:60]!r} must have 1 to {NAME_CHARACTERS_MAX} characters and no control characters"
            )
    check_seconds(seconds)


def check_seconds(seconds: float) -> None:
    """Refuse a lease that would be over at once, or never.

    Raises:
        UsageError: it is not between 0 and a day.
    """
    if not 0 < seconds <= LEASE_SECONDS_MAX:
        raise UsageError(
            f"a lease of {seconds} seconds is none; give more than 0 and at most {LEASE_SECONDS_MAX:.0f}, and renew it in time"
        )

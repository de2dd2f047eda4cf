"""Recurring schedules: what a service publishes again and again, and when."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Protocol, TypeAlias, cast

from headwater.bus.cron import Cron
from headwater.errors import UsageError
from headwater.messages import Event
from headwater.postgres import CallerConnection

LATE_SECONDS_MAX: Final = 60.0
"""A firing that is later than this counts as missed, for schedules that skip what they missed."""
SCHEDULES_MAX: Final = 1_000
"""The most schedules of one service."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class Missed(StrEnum):
    """What a schedule does about moments at which no process of its service was there, or none got to it."""

    LATEST = "latest"
    """Fires once, for the latest of them."""
    ALL = "all"
    """Fires for each, in order."""
    SKIP = "skip"
    """Fires for none that is more than a minute old, and goes on with the next."""


@dataclass(frozen=True, slots=True)
class Firing:
    """One moment of a schedule, as its function gets it."""

    schedule_name: str
    due_at: datetime
    """When it was due, in the schedule's time zone."""
    is_late: bool
    """Whether it is past that by more than a minute."""


MakesEvent: TypeAlias = Callable[[], Event | None] | Callable[[Firing], Event | None]
"""What is published at a firing; nothing, where it returns None."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A recurring schedule, as code defines it."""

    name: str
    cron: Cron
    make_event: MakesEvent
    missed: Missed
    takes_firing: bool

    def event_for(self, firing: Firing) -> Event | None:
        """What to publish.

        Raises:
            UsageError: the function returned something else.
        """
        function = cast("Callable[..., Any]", self.make_event)
        made = function(firing) if self.takes_firing else function()
        if made is None or isinstance(made, Event):
            return made
        if inspect.iscoroutine(made):
            made.close()
        raise UsageError(f"the schedule {self.name!r} must make an event, or None; its function returned {type(made).__name__}")

    def decide(self, next_at: datetime, now: datetime) -> tuple[datetime | None, datetime]:
        """For which moment to fire, if for any, and when it is due next; `next_at` has come."""
        if self.missed is Missed.ALL:
            return next_at, self.cron.next_after(next_at)
        latest = self.cron.latest(next_at, now)
        is_missed = self.missed is Missed.SKIP and is_late(latest, now)
        return None if is_missed else latest, self.cron.next_after(now)


def is_late(due_at: datetime, now: datetime) -> bool:
    """Whether a firing counts as missed."""
    return (now - due_at).total_seconds() > LATE_SECONDS_MAX


class Schedules:
    """The recurring schedules of one service, filled at import."""

    def __init__(self) -> None:
        self._by_name: dict[str, Schedule] = {}

    def add(self, name: str, cron: str, make_event: MakesEvent, *, timezone: str = "UTC", missed: Missed | str = Missed.LATEST) -> Schedule:
        """Define one; see `Service.schedule`.

        Raises:
            UsageError: the name is taken or cannot be one, or cron, timezone, missed or the function cannot be meant.
        """
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"the schedule name {name[:100]!r} must have 1 to 100 letters, digits, '.', '_' or '-', and start with one of the first two"
            )
        if name in self._by_name:
            raise UsageError(f"two schedules are named {name!r}; rename one")
        if len(self._by_name) >= SCHEDULES_MAX:
            raise UsageError(f"a service has at most {SCHEDULES_MAX:,} schedules; plan single messages with publish(..., deliver_at=...)")
        try:
            policy = Missed(missed)
        except ValueError:
            raise UsageError(f"schedule {name!r}: missed={str(missed)!r} means nothing; choose among {', '.join(Missed)}") from None
        schedule = Schedule(name, Cron.of(cron, timezone), make_event, policy, _takes_firing(name, make_event))
        self._by_name[name] = schedule
        return schedule

    def find(self, name: str) -> Schedule | None:
        """The schedule of this name."""
        return self._by_name.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._by_name)

    def __iter__(self) -> Iterator[Schedule]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)


def _takes_firing(name: str, make_event: object) -> bool:
    if not callable(make_event) or inspect.iscoroutinefunction(make_event):
        raise UsageError(
            f"the schedule {name!r} needs a plain function that returns the event to publish (what takes time belongs into a handler of that event)"
        )
    if isinstance(make_event, type):
        # A class of events, whose instances need nothing.
        return False
    required = [
        parameter
        for parameter in inspect.signature(make_event).parameters.values()
        if parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if len(required) > 1 or any(parameter.kind is parameter.KEYWORD_ONLY for parameter in required):
        raise UsageError(f"the function of the schedule {name!r} must take nothing, or the firing")
    return bool(required)


# -- where they are kept -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DueSchedule:
    """A schedule whose moment has come, locked by the transaction that asked."""

    name: str
    cron: Cron
    """As it was registered last: a process with older code goes by it, too."""
    next_at: datetime
    now: datetime
    """On the store's clock."""
    attempts: int
    """Firings for this moment that failed."""


@dataclass(frozen=True, slots=True)
class ScheduleStatus:
    """What is known of a recurring schedule."""

    service_name: str
    name: str
    cron: str
    timezone: str
    next_at: datetime
    last_due_at: datetime | None
    """The moment of the last firing, and then when that was."""
    last_fired_at: datetime | None
    fired_count: int
    registered_at: datetime
    """When code last defined or changed it."""
    attempts: int
    error: str | None
    """Why the firing that is due failed."""


class ScheduleStore(Protocol):
    """Where a service's schedules keep their next moments, on a clock of its own. With `connection=`, a call joins that transaction."""

    async def now(self) -> datetime:
        """The moment, on the store's clock."""
        ...

    async def register(self, name: str, cron: Cron, next_at: datetime) -> None:
        """Keep a schedule; one that is kept already with this cron expression and zone is left as it is."""
        ...

    async def claim(self, names: Sequence[str], *, connection: CallerConnection) -> DueSchedule | None:
        """One of these that is due, kept from everybody else to the end of the transaction."""
        ...

    async def advance(self, name: str, next_at: datetime, fired_for: datetime | None, *, connection: CallerConnection) -> None:
        """Set the next moment; `fired_for` is the one that was fired, if any was."""
        ...

    async def delay(self, name: str, error: str, seconds: float) -> None:
        """Note that a firing failed, and try again so much later."""
        ...

    async def seconds_to_next(self, names: Sequence[str]) -> float | None:
        """How long until one of these is due; zero or less when one is, None when there is none."""
        ...

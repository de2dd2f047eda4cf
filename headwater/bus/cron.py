"""When a recurring schedule is due: cron expressions in a time zone, through cronsim."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from headwater.errors import UsageError

CRON_CHARACTERS_MAX: Final = 200
"""The longest cron expression."""
_FIRST_WINDOW: Final = timedelta(hours=1)
_WINDOW_FACTOR: Final = 24
_LONGEST_WINDOW: Final = timedelta(days=365 * 50)
"""As far as cronsim looks."""


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression of five fields, or six with seconds first, in a time zone.

    Where the clock is put forward, what would fall into the missing hour is due when it is over; where it is put back, a moment that comes twice is due
    once, the first time. Expressions with `*` for hour or minute keep their rhythm through both.
    """

    expression: str
    timezone: str = "UTC"

    @classmethod
    def of(cls, expression: str, timezone: str = "UTC") -> Cron:
        """The same, checked.

        Raises:
            UsageError: it is no cron expression, is never due, or the time zone is not known.
        """
        cron = cls(expression, timezone)
        try:
            if len(expression) > CRON_CHARACTERS_MAX:
                raise CronSimError(f"longer than {CRON_CHARACTERS_MAX} characters")
            next(CronSim(expression, datetime(2024, 1, 1, tzinfo=UTC)))
        except CronSimError as error:
            raise UsageError(
                f"the cron expression {expression[:CRON_CHARACTERS_MAX]!r} cannot be read ({error}); write minute, hour, day of month, month and day of "
                'week, like "0 6 * * *" for every day at six'
            ) from None
        except StopIteration:
            raise UsageError(f"the cron expression {expression!r} is never due, in fifty years") from None
        cron.zone()
        return cron

    def zone(self) -> ZoneInfo:
        """The time zone.

        Raises:
            UsageError: it is not known on this machine.
        """
        try:
            return ZoneInfo(self.timezone)
        except (ValueError, OSError, LookupError):
            raise UsageError(
                f"the time zone {self.timezone!r} is not known here; name it like Europe/Berlin (a machine without time zones needs the package tzdata)"
            ) from None

    def next_after(self, moment: datetime) -> datetime:
        """The first moment after this one, in UTC.

        Raises:
            UsageError: there is none in fifty years.
        """
        for due in self._from(moment):
            if due > moment:
                return due
        raise UsageError(f"the cron expression {self.expression!r} is never due after {moment.isoformat()}")

    def latest(self, since: datetime, until: datetime) -> datetime:
        """The last moment of `since` and those after it that is not after `until`; `since` itself must be due then."""
        window = _FIRST_WINDOW
        while window < _LONGEST_WINDOW and until - window > since:
            latest: datetime | None = None
            for due in self._from(until - window):
                if due > until:
                    break
                latest = due
            if latest is not None:
                return max(latest, since)
            window *= _WINDOW_FACTOR
        latest = since
        for due in self._from(since):
            if due > until:
                break
            latest = max(latest, due)
        return latest

    def _from(self, moment: datetime) -> Iterator[datetime]:
        """Due moments in UTC, ascending, from about this one on: where clocks are put back the library may begin an hour early."""
        return (due.astimezone(UTC) for due in CronSim(self.expression, moment.astimezone(self.zone())))

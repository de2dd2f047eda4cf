"""The recurring schedules of a service."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from headwater.bus import MakesEvent, Missed, Schedules

MakesEventT = TypeVar("MakesEventT", bound=MakesEvent)


class DefinesSchedules:
    """The part of a service that publishes again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.schedules = Schedules()

    def schedule(
        self, name: str, cron: str, make_event: MakesEvent, *, timezone: str = "UTC", missed: Missed | str = Missed.LATEST
    ) -> None:
        """Publish an event again and again: at each moment that the cron expression names, once across all processes, whatever crashes.

        The moments are the database's. Firings of one schedule keep their order. Where clocks are put forward or back, see `Cron`.

        Args:
            name: identifies the schedule in this service; renaming it makes it another one.
            cron: minute, hour, day of month, month and day of week, like `"0 6 * * *"`; with six fields, seconds come first.
            make_event: returns the event to publish, or None for nothing; takes nothing, or the `Firing`. An event class without fields will do.
            timezone: a name like `"Europe/Berlin"`.
            missed: what to do about moments at which nobody was there: fire once for the `latest`, for `all`, or `skip` them.
        Raises:
            UsageError: at import, when any of this cannot be meant.
        """
        self.schedules.add(name, cron, make_event, timezone=timezone, missed=missed)

    def every(self, cron: str, *, timezone: str = "UTC", missed: Missed | str = Missed.LATEST) -> Callable[[MakesEventT], MakesEventT]:
        """The same as a decorator of the function that makes the event; its name is the schedule's."""

        def register(make_event: MakesEventT) -> MakesEventT:
            self.schedule(make_event.__name__, cron, make_event, timezone=timezone, missed=missed)
            return make_event

        return register

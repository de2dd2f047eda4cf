"""Messages for later and schedules in two worlds, memory and PostgreSQL, whose time a test moves by hand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

from headwater.bus import Cron, DueMessages, DueSchedules, EffectStore, Missed, PostgresEffects, PostgresSchedules, Schedules, ScheduleStore
from headwater.eventstore import EventStore, PersonalEventStore, PostgresEventStore
from headwater.messages import Event, EventRegistry, RecordedEvent
from headwater.outbox import DueTime, PostgresScheduledMessages, Publisher, ScheduledMessage, ScheduledMessages
from headwater.personal import Personal
from headwater.postgres import Database
from headwater.privacy import PersonalData, PostgresSubjectKeys
from headwater.testing import FakeClock, MemoryEffects, MemoryEventStore, MemorySubjectKeys
from headwater.testing.memory_scheduled import MemoryScheduledMessages, MemorySchedules

SERVICE = "shop"


class Reminder(Event, category="reminding"):
    """What is sent later."""

    number: int


class Greeting(Event, category="reminding"):
    """With personal data."""

    customer_id: str
    name: Annotated[str, Personal(subject="customer_id")]


class NightCame(Event, category="night"):
    """What a schedule publishes."""

    due_at: datetime
    is_late: bool


class World(ABC):
    """A place to schedule in, with a worker and a clock that only moves when told."""

    log: EventStore
    """What is stored, personal data sealed."""
    effects: EffectStore
    scheduled: ScheduledMessages
    personal: PersonalData
    kept_schedules: ScheduleStore

    def begin(self) -> None:
        self.registry = EventRegistry([Reminder, Greeting, NightCame])
        self.store = PersonalEventStore(self.joining(), self.personal)
        self.publisher = Publisher(self.store, self.registry, scheduled=self.scheduled)
        self.schedules = Schedules()

    def joining(self) -> EventStore:
        return self.log

    def worker(self) -> DueMessages:
        return DueMessages(self.scheduled, self.store, self.effects)

    def firer(self, schedules: Schedules | None = None) -> DueSchedules:
        return DueSchedules(SERVICE, self.schedules if schedules is None else schedules, self.kept_schedules, self.effects)

    @abstractmethod
    async def let_pass(self, seconds: float) -> None:
        """Time goes by."""

    @abstractmethod
    async def miss_hours(self, hours: int) -> None:
        """So much goes by while nobody fires."""

    @abstractmethod
    async def now(self) -> datetime:
        """The moment on the clock that counts."""

    async def remind(self, number: int, seconds: float, *, key: str | None = None, connection: Any = None) -> ScheduledMessage:
        due = DueTime.of(None, timedelta(seconds=seconds))
        assert due is not None
        return await self.publisher.schedule(Reminder(number=number), due=due, key=key, connection=connection)

    async def deliver(self) -> int:
        """Everything that is due; how many transactions that took."""
        worker, count = self.worker(), 0
        while ((seconds := await worker.seconds_to_next()) is not None and seconds <= 0) and await worker.do_next():
            count += 1
        return count

    async def fire(self, schedules: Schedules | None = None) -> int:
        firer, count = self.firer(schedules), 0
        while ((seconds := await firer.seconds_to_next()) is not None and seconds <= 0) and await firer.do_next():
            count += 1
        return count

    async def recorded(self) -> Sequence[RecordedEvent]:
        return (await self.log.read_log(after=0)).events

    async def reminded(self, key: str | None = None) -> list[int]:
        """The numbers of the reminders in the log, in order."""
        wanted = None if key is None else f"reminding-outbox:{key}"
        events = [event for event in await self.recorded() if event.type == "Reminder" and wanted in {None, event.stream_name}]
        return [event.number for event in map(self.registry.decode, events) if isinstance(event, Reminder)]

    async def nights(self) -> list[NightCame]:
        events = [self.registry.decode(event) for event in await self.recorded() if event.type == "NightCame"]
        return [event for event in events if isinstance(event, NightCame)]


class MemoryWorld(World):
    """All in memory, on a fake clock."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.keys = MemorySubjectKeys(clock=self.clock)
        self.personal = PersonalData(self.keys, clock=self.clock)
        self.log = MemoryEventStore(clock=self.clock)
        self.memory_effects = MemoryEffects(self.log, clock=self.clock, personal=self.personal)
        self.effects = self.memory_effects
        self.scheduled = MemoryScheduledMessages(self.log, clock=self.clock, personal=self.personal)
        self.kept_schedules = MemorySchedules(clock=self.clock)
        self.begin()

    def joining(self) -> EventStore:
        return self.memory_effects.store

    async def let_pass(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    async def miss_hours(self, hours: int) -> None:
        await self.clock.advance(hours * 3600)

    async def now(self) -> datetime:
        return self.clock.now()


class PostgresWorld(World):
    """On a database, whose rows are moved towards the past instead of waiting."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.log = PostgresEventStore(database)
        self.personal = PersonalData(PostgresSubjectKeys(database))
        self.effects = PostgresEffects(database, PersonalEventStore(self.log, self.personal))
        self.postgres_scheduled = PostgresScheduledMessages(database, self.personal)
        self.scheduled = self.postgres_scheduled
        self.kept_schedules = PostgresSchedules(database, SERVICE)
        self.begin()

    async def let_pass(self, seconds: float) -> None:
        gone = timedelta(seconds=seconds)
        async with self.database.connection() as connection:
            await connection.execute(
                "UPDATE headwater.scheduled_messages SET due_at = due_at - $1::interval, retry_at = retry_at - $1::interval", gone
            )
            await connection.execute("UPDATE headwater.schedules SET retry_at = retry_at - $1::interval", gone)

    async def miss_hours(self, hours: int) -> None:
        async with self.database.connection() as connection:
            await connection.execute("UPDATE headwater.schedules SET next_at = next_at - $1::interval", timedelta(hours=hours))

    async def now(self) -> datetime:
        return await self.kept_schedules.now()


def nightly(schedules: Schedules, cron: str = "0 2 * * *", *, missed: Missed = Missed.LATEST, timezone: str = "UTC") -> None:
    schedules.add("nightly", cron, lambda firing: NightCame(due_at=firing.due_at, is_late=firing.is_late), missed=missed, timezone=timezone)


__all__ = ["SERVICE", "Cron", "Greeting", "MemoryWorld", "NightCame", "PostgresWorld", "Reminder", "World", "nightly"]

"""Messages for later and recurring schedules, in memory, on a clock that the test holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from headwater.bus import Cron, DueSchedule
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import DuplicateEvent, UsageError
from headwater.eventstore import EventStore
from headwater.messages import NewEvent, prepare
from headwater.outbox import DELIVER_AHEAD_MAX, Cancellation, DueTime, ScheduledMessage, SealsEvents
from headwater.postgres import CallerConnection
from headwater.testing.memory_effects import MemoryTransaction


class MemoryScheduledMessages:
    """`ScheduledMessages` in memory; joins transactions of `MemoryEffects`."""

    def __init__(self, log: EventStore, *, clock: Clock = SYSTEM_CLOCK, personal: SealsEvents | None = None) -> None:
        """Begin with none; `log` tells which were delivered, `personal` seals what is kept."""
        self._log, self._clock, self._personal = log, clock, personal
        self._waiting: dict[UUID, ScheduledMessage] = {}
        """In the order of scheduling."""

    @property
    def waiting(self) -> tuple[ScheduledMessage, ...]:
        """What waits, the next due first."""
        return tuple(sorted(self._waiting.values(), key=lambda message: message.due_at))

    async def schedule(
        self, stream_name: str, message: NewEvent, due: DueTime, *, connection: CallerConnection | None = None
    ) -> ScheduledMessage:
        """Keep a message; see `ScheduledMessages.schedule`."""
        sealed = await self._personal.seal([message]) if self._personal is not None else [message]
        (kept,) = prepare(sealed, stream_name=stream_name)
        now = self._clock.now()
        due_at = due.at if due.at is not None else now + (due.after or timedelta())
        if due_at > now + DELIVER_AHEAD_MAX:
            raise UsageError(f"a message may be due at most {DELIVER_AHEAD_MAX.days} days from now, this one is due {due_at}")
        scheduled = ScheduledMessage(kept.event_id, due_at, stream_name, kept.type, kept.data, kept.metadata, now, kept.tags)
        if (known := self._waiting.get(kept.event_id)) is not None and (known.stream_name, known.data) != (stream_name, kept.data):
            raise DuplicateEvent(f"the message id {kept.event_id} is another message's; give each its own", event_id=kept.event_id)
        _then(connection, lambda: self._waiting.setdefault(kept.event_id, scheduled))
        return scheduled

    async def cancel(self, message_id: UUID, *, connection: CallerConnection | None = None) -> Cancellation:
        """Take a message back; see `ScheduledMessages.cancel`."""
        if message_id in self._waiting:
            _then(connection, lambda: self._waiting.pop(message_id, None))
            return Cancellation.CANCELLED
        return Cancellation.NOT_THERE if await self._log.find_event(message_id) is None else Cancellation.DELIVERED

    async def claim(self, *, limit: int, connection: CallerConnection) -> Sequence[ScheduledMessage]:  # noqa: ARG002 - transactions take turns
        """Messages that are due; see `ScheduledMessages.claim`."""
        now = self._clock.now()
        claimed: list[ScheduledMessage] = []
        held: set[str] = set()
        for message in self.waiting:
            if message.due_at > now or len(claimed) == limit:
                break
            if message.retry_at is not None and message.retry_at > now:
                held.add(message.stream_name)
            if message.stream_name not in held:
                claimed.append(message)
        return claimed

    async def remove(self, message_ids: Sequence[UUID], *, connection: CallerConnection) -> None:
        """Forget messages that this transaction claimed."""
        for message_id in message_ids:
            _then(connection, partial(self._waiting.pop, message_id, None))

    async def delay(self, message_id: UUID, error: str, seconds: float) -> int | None:
        """Note that a delivery failed; see `ScheduledMessages.delay`."""
        if (message := self._waiting.get(message_id)) is None:
            return None
        retry_at = self._clock.now() + timedelta(seconds=seconds)
        self._waiting[message_id] = replace(message, attempts=message.attempts + 1, error=error, retry_at=retry_at)
        return message.attempts + 1

    async def seconds_to_next(self) -> float | None:
        """How long until one is due; see `ScheduledMessages.seconds_to_next`."""
        held: dict[str, datetime] = {}
        moments: list[datetime] = []
        for message in self.waiting:
            moment = max(message.due_at, message.retry_at or message.due_at, held.get(message.stream_name, message.due_at))
            if message.retry_at is not None:
                held[message.stream_name] = moment
            moments.append(moment)
        return (min(moments) - self._clock.now()).total_seconds() if moments else None


@dataclass(frozen=True, slots=True)
class _Row:
    cron: Cron
    next_at: datetime
    fired_for: tuple[datetime, ...] = ()
    attempts: int = 0
    error: str | None = None
    retry_at: datetime | None = None


class MemorySchedules:
    """A `ScheduleStore` in memory; joins transactions of `MemoryEffects`."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._rows: dict[str, _Row] = {}

    def fired_for(self, name: str) -> tuple[datetime, ...]:
        """The moments for which a schedule was fired, for assertions."""
        return self._rows[name].fired_for

    def next_at(self, name: str) -> datetime:
        """When a schedule is due next."""
        return self._rows[name].next_at

    async def now(self) -> datetime:
        return self._clock.now()

    async def register(self, name: str, cron: Cron, next_at: datetime) -> None:
        """Keep a schedule; see `ScheduleStore.register`."""
        if name not in self._rows or self._rows[name].cron != cron:
            self._rows[name] = _Row(cron, next_at)

    async def claim(self, names: Sequence[str], *, connection: CallerConnection) -> DueSchedule | None:  # noqa: ARG002 - transactions take turns
        """One that is due; see `ScheduleStore.claim`."""
        now = self._clock.now()
        due = [(self._moment(name), name) for name in names if name in self._rows and self._moment(name) <= now]
        if not due:
            return None
        _, name = min(due)
        row = self._rows[name]
        return DueSchedule(name, row.cron, row.next_at, now, row.attempts)

    async def advance(self, name: str, next_at: datetime, fired_for: datetime | None, *, connection: CallerConnection) -> None:
        """Set the next moment; see `ScheduleStore.advance`."""
        row = self._rows[name]
        fired = (*row.fired_for, fired_for) if fired_for is not None else row.fired_for
        _then(connection, lambda: self._rows.update({name: _Row(row.cron, next_at, fired)}))

    async def delay(self, name: str, error: str, seconds: float) -> None:
        """Note that a firing failed; see `ScheduleStore.delay`."""
        row = self._rows[name]
        retry_at = self._clock.now() + timedelta(seconds=seconds)
        self._rows[name] = replace(row, attempts=row.attempts + 1, error=error, retry_at=retry_at)

    async def seconds_to_next(self, names: Sequence[str]) -> float | None:
        """How long until one of these is due; see `ScheduleStore.seconds_to_next`."""
        moments = [self._moment(name) for name in names if name in self._rows]
        return (min(moments) - self._clock.now()).total_seconds() if moments else None

    def _moment(self, name: str) -> datetime:
        row = self._rows[name]
        return max(row.next_at, row.retry_at or row.next_at)


def _then(connection: CallerConnection | None, act: Callable[[], object]) -> None:
    """Now, or when the transaction given commits."""
    if isinstance(connection, MemoryTransaction):
        connection.when_committed(act)
    else:
        act()

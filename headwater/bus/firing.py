"""Recurring schedules, fired: the message and the schedule's next moment are one transaction, so each moment is fired once by whichever process."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid5

from headwater.bus.dead_letters import message_of
from headwater.bus.delivering import LOCK_WAIT_SECONDS_MAX
from headwater.bus.ports import EffectStore
from headwater.bus.retries import RetryPolicy
from headwater.bus.schedules import DueSchedule, Firing, Schedule, Schedules, ScheduleStore, is_late
from headwater.errors import HeadwaterError, StorageUnavailable, TransactionConflict
from headwater.messages import ANY, NewEvent
from headwater.outbox import outbox_stream
from headwater.randomness import SYSTEM_RANDOMNESS, Randomness
from headwater.telemetry import logger

FAILED_FIRING: Final = RetryPolicy(first_delay_seconds=1.0, delay_factor=3.0, delay_seconds_max=300.0)
"""When a firing whose function raised is tried again; for ever, until it succeeds."""
_FIRINGS: Final = UUID("0199a5f0-9d7e-7a31-9c43-5b0c1d2e8f64")
"""The namespace of the ids of fired messages: one for each schedule and moment, so that none can be stored twice."""

_log = logger("bus")


class DueSchedules:
    """The recurring schedules of a service, as `DueWork`. They are registered when it first looks."""

    name = "schedules"

    def __init__(
        self,
        service_name: str,
        schedules: Schedules,
        store: ScheduleStore,
        effects: EffectStore,
        *,
        randomness: Randomness = SYSTEM_RANDOMNESS,
    ) -> None:
        self._service_name, self._schedules, self._store, self._effects = service_name, schedules, store, effects
        self._randomness = randomness
        self._is_registered = False

    async def do_next(self) -> bool:
        """Fire one schedule that is due.

        Raises:
            StorageUnavailable: outcome unknown; the schedule's row tells.
        """
        due: DueSchedule | None = None
        try:
            async with self._effects.transaction() as transaction:
                await transaction.limit_lock_wait(LOCK_WAIT_SECONDS_MAX)
                due = await self._store.claim(self._schedules.names, connection=transaction.joining)
                if due is None:
                    return False
                known = self._schedules.find(due.name)
                assert known is not None, "only these were asked for"
                schedule = replace(known, cron=due.cron)
                moment, next_at = schedule.decide(due.next_at, due.now)
                if moment is not None and (message := self._message(schedule, due, moment)) is not None:
                    assert message.category is not None, "an event's class has a category"
                    stream_name = outbox_stream(message.category, key=schedule.name, event_id=message.event_id)
                    await transaction.append(stream_name, [message], expected_version=ANY)
                await self._store.advance(due.name, next_at, moment, connection=transaction.joining)
        except (StorageUnavailable, TransactionConflict):
            raise
        except Exception as error:
            if due is None:
                raise
            await self._keep_failure(due, error)
            return True
        if moment is None or moment > due.next_at:
            _log.warning(
                "schedule_missed",
                schedule=due.name,
                since=due.next_at.isoformat(),
                fired_for=None if moment is None else moment.isoformat(),
            )
        return True

    async def seconds_to_next(self) -> float | None:
        """How long until the next is due."""
        if not self._is_registered:
            now = await self._store.now()
            for schedule in self._schedules:
                await self._store.register(schedule.name, schedule.cron, schedule.cron.next_after(now))
            self._is_registered = True
        return await self._store.seconds_to_next(self._schedules.names)

    def _message(self, schedule: Schedule, due: DueSchedule, moment: datetime) -> NewEvent | None:
        event = schedule.event_for(Firing(schedule.name, moment.astimezone(schedule.cron.zone()), is_late(moment, due.now)))
        if event is None:
            return None
        return NewEvent.of(event, event_id=uuid5(_FIRINGS, f"{self._service_name}/{schedule.name}/{moment.astimezone(UTC).isoformat()}"))

    async def _keep_failure(self, due: DueSchedule, error: Exception) -> None:
        delay = FAILED_FIRING.delay_seconds(due.attempts + 1, self._randomness)
        await self._store.delay(due.name, f"{type(error).__name__}: {message_of(error)}", delay)
        _log.error(
            "schedule_failed",
            schedule=due.name,
            attempts=due.attempts + 1,
            delay_seconds=round(delay, 3),
            error=message_of(error),
            exc_info=None if isinstance(error, HeadwaterError) else error,
        )

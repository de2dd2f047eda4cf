"""Reading slices of the log before they are asked for: in order, none lost, errors told where they belong."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import pytest

from headwater.errors import StorageUnavailable
from headwater.eventstore import Checkpoint, LogIdentity, LogSlice
from headwater.messages import RecordedEvent
from headwater.outbox.feed import LogReader, ReadAhead
from headwater.testing import eventually

LOG = LogIdentity(UUID(int=1), ())


class ScriptedLog:
    """A log whose server can be taken away, or become another one, before a read."""

    def __init__(self, event_count: int) -> None:
        self.horizon, self.log, self.read_count = event_count, LOG, 0
        self.fails_at: int | None = None

    async def read_log(self, *, after: int, limit: int = 10, horizon: int | None = None) -> LogSlice:
        self.read_count += 1
        await asyncio.sleep(0)
        if self.read_count == self.fails_at:
            raise StorageUnavailable("away")
        known = self.horizon if horizon is None else horizon
        return LogSlice(tuple(event_at(position) for position in range(after + 1, min(after + limit, known) + 1)), known)

    async def identity(self) -> LogIdentity:
        return self.log

    async def verify_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Nothing is ever lost."""


def event_at(position: int) -> RecordedEvent:
    return RecordedEvent(position, "order-1", position, "OrderPlaced", "{}", {}, UUID(int=position), datetime(2026, 1, 1, tzinfo=UTC))


def positions(found: LogSlice | None) -> list[int]:
    assert found is not None
    return [event.global_position for event in found.events]


def reader(log: ScriptedLog, *, events_max: int = 10) -> LogReader:
    return LogReader(log, LOG, 0, events_max)


async def test_slices_come_in_order_and_one_waits_while_another_is_worked_on() -> None:
    log, seen = ScriptedLog(35), list[int]()
    async with ReadAhead(reader(log)) as slices:
        seen += positions(await slices.next())
        # One waits, and the server works on one more: nobody asked for either.
        await eventually(lambda: log.read_count == 3)
        while found := positions(await slices.next()):
            seen += found
    assert seen == list(range(1, 36))


async def test_at_the_logs_end_nothing_is_read_before_it_is_asked_for() -> None:
    log = ScriptedLog(3)
    async with ReadAhead(reader(log)) as slices:
        assert positions(await slices.next()) == [1, 2, 3]
        count = log.read_count
        log.horizon = 5
        await asyncio.sleep(0)
        assert log.read_count == count
        assert positions(await slices.next()) == [4, 5]
        assert positions(await slices.next()) == []


async def test_an_error_comes_after_everything_that_was_read_before_it() -> None:
    log = ScriptedLog(30)
    log.fails_at = 3
    async with ReadAhead(reader(log)) as slices:
        assert positions(await slices.next()) == list(range(1, 11))
        await eventually(lambda: log.read_count == 3)
        assert positions(await slices.next()) == list(range(11, 21))
        for _ in range(2):
            with pytest.raises(StorageUnavailable):
                await slices.next()


async def test_a_log_that_became_another_one_is_not_read_on() -> None:
    log = ScriptedLog(1_000)
    async with ReadAhead(reader(log)) as slices:
        assert positions(await slices.next()) == list(range(1, 11))
        log.log = LogIdentity(UUID(int=2), ())
        # Two may have been read before the change.
        found = [await slices.next() for _ in range(3)]
        assert None in found


async def test_who_stops_waiting_for_a_slice_leaves_no_task_behind() -> None:
    log = ScriptedLog(0)
    before = asyncio.all_tasks()
    async with ReadAhead(reader(log)) as slices:
        waiting = asyncio.create_task(slices.next())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert asyncio.all_tasks() == before

"""`headwater scheduled`: what waits, and taking it back."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from subprocess import CompletedProcess
from uuid import uuid4

import pytest

from headwater.bus import Cron, PostgresSchedules
from headwater.messages import NewEvent
from headwater.outbox import DueTime, PostgresScheduledMessages
from headwater.postgres import Database
from tests.acceptance.cli.conftest import Command


@pytest.fixture
async def ids(database: Database) -> list[str]:
    """One that waits, one that is overdue and failed."""
    scheduled = PostgresScheduledMessages(database)
    later = await scheduled.schedule("reminder-outbox:1", NewEvent("ReminderDue", '{"number": 1}'), DueTime(None, timedelta(days=1)))
    failing = await scheduled.schedule("other-outbox:1", NewEvent("OtherDue", "{}"), DueTime(datetime(2020, 1, 1, tzinfo=UTC), None))
    await scheduled.delay(failing.message_id, "StreamClosed: it is closed", 60)
    await PostgresSchedules(database, "shop").register("daily", Cron.of("0 6 * * *"), datetime(2030, 1, 1, tzinfo=UTC))
    return [str(later.message_id), str(failing.message_id)]


async def test_what_waits_is_listed_shown_and_taken_back(headwater: Command, postgres_dsn: str, ids: list[str]) -> None:
    async def run(*arguments: str) -> CompletedProcess[str]:
        return await asyncio.to_thread(headwater.run, "scheduled", *arguments, HEADWATER_POSTGRES=postgres_dsn)

    listed = json.loads((await run("list", "--json")).stdout)
    assert [message["message_id"] for message in listed["messages"]] == ids[::-1]
    assert listed["counts"] == {"waiting": 2, "overdue": 1, "failing": 1}
    assert [(s["service_name"], s["name"], s["cron"], s["next_at"]) for s in listed["schedules"]] == [
        ("shop", "daily", "0 6 * * *", "2030-01-01T00:00:00Z")
    ]
    text = (await run("list")).stdout
    assert "shop/daily" in text
    assert "2 waiting, 1 of them overdue, 1 failing" in text
    assert [m["type"] for m in json.loads((await run("list", "--failing", "--json")).stdout)["messages"]] == ["OtherDue"]
    assert [m["type"] for m in json.loads((await run("list", "--type", "ReminderDue", "--json")).stdout)["messages"]] == ["ReminderDue"]
    assert json.loads((await run("show", ids[0], "--json")).stdout)["data"] == {"number": 1}
    assert "StreamClosed: it is closed" in (await run("show", ids[1])).stdout

    done = await run("cancel", ids[0], "shop/daily", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"messages": {ids[0]: "cancelled"}, "schedules": {"shop/daily": True}})
    again = await run("cancel", ids[0])
    assert again.returncode == 0
    assert "not there" in again.stdout


async def test_too_late_and_wrong_use_are_told_by_the_exit_status(
    headwater: Command, postgres_dsn: str, database: Database, ids: list[str]
) -> None:
    async def run(*arguments: str) -> CompletedProcess[str]:
        return await asyncio.to_thread(headwater.run, "scheduled", *arguments, HEADWATER_POSTGRES=postgres_dsn)

    async with database.transaction() as connection:
        await connection.execute(
            "SELECT headwater.append_events('reminder-1', NULL, ARRAY['T'], ARRAY['{}'::jsonb], ARRAY['{}'::jsonb], ARRAY[$1::uuid])",
            ids[0],
        )
        await connection.execute("DELETE FROM headwater.scheduled_messages WHERE message_id = $1", ids[0])
    late = await run("cancel", ids[0])
    assert late.returncode == 1
    assert "too late" in late.stdout
    gone = await run("show", str(uuid4()))
    assert (gone.returncode, "headwater scheduled list" in gone.stderr) == (1, True)
    wrong = await run("cancel", "tomorrow")
    assert (wrong.returncode, "SERVICE/NAME" in wrong.stderr) == (2, True)

"""`headwater dead-letters … --parked`, as an operator uses it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from headwater.bus import Follower, ParkedKey, PostgresEffects
from headwater.bus.dead_letters import ErrorFacts
from headwater.eventstore import PostgresEventStore
from headwater.kafka import Envelope, Partition
from headwater.messages import LOG_START, LogPosition, RecordedEvent
from headwater.postgres import Database
from headwater.testing.memory_bus import MemoryRecord
from tests.acceptance.cli.conftest import Command

MOMENT = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
ERROR = ErrorFacts("RuntimeError", "no such thing in stock", "Traceback: in reserve", MOMENT, MOMENT)


class Operator:
    """Runs commands on a database with parked keys."""

    def __init__(self, headwater: Command, dsn: str, database: Database) -> None:
        self.headwater, self.dsn = headwater, dsn
        self.effects = PostgresEffects(database, PostgresEventStore(database))

    async def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(self.headwater.run, "dead-letters", *arguments, HEADWATER_POSTGRES=self.dsn)

    async def text(self, *arguments: str, status: int = 0) -> str:
        outcome = await self.run(*arguments)
        assert outcome.returncode == status, (arguments, outcome.stdout, outcome.stderr)
        assert "Traceback (most" not in outcome.stderr
        return outcome.stdout if status in (0, 1) and outcome.stdout else outcome.stderr

    async def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(await self.text(*arguments, "--json", status=status))

    async def park(self, key: str, *, handler: str = "reserve", count: int = 1, is_stopped: bool = False, **changes: Any) -> None:
        parked = ParkedKey(handler, key, attempts=3, retries=1, error=ERROR, due_at=0.0, is_stopped=is_stopped)
        async with self.effects.transaction() as transaction:
            parked.parked_key_id = await transaction.parked.open("shop", Partition("order", 0), parked, 60.0)
            followers: list[Follower] = []
            for number in range(1, count + 1):
                position = LogPosition(1, number)
                event = RecordedEvent(
                    global_position=number,
                    stream_name=key,
                    version=number,
                    type=changes.get("type", "OrderPlaced"),
                    data="",
                    metadata={},
                    event_id=uuid4(),
                    recorded_at=MOMENT,
                )
                record = MemoryRecord("order", 0, number, 0, key.encode(), b"{}")
                followers.append(Follower(parked, record, Envelope(event, UUID(int=1), position, LOG_START)))
            await transaction.parked.add(followers)


@pytest.fixture
async def operator(headwater: Command, postgres_dsn: str) -> AsyncIterator[Operator]:
    async with Database(postgres_dsn) as database:
        yield Operator(headwater, postgres_dsn, database)


async def test_parked_keys_are_listed_by_filter_and_shown_with_what_waits(operator: Operator) -> None:
    await operator.park("order-1", count=25)
    await operator.park("order-2", handler="refund", is_stopped=True)
    listed = await operator.json("list", "--parked", "--key", "order-1", "--handler", "reserve", "--type", "OrderPlaced")
    (facts,) = listed["parked_keys"]
    assert (listed["count"], facts["id"], facts["key"], facts["message_count"], facts["status"]) == (1, 1, "order-1", 25, "waiting")
    assert facts["error_message"] == "no such thing in stock"
    human = await operator.text("list", "--parked", "--limit", "1")
    for part in ("order-1", "reserve", "no such thing in stock", "1 of 2; the next page: --after 1"):
        assert part in human
    shown = await operator.text("show", "1", "--parked")
    for part in ("25 messages since", "Traceback: in reserve", "20 of 25; all of them: --json"):
        assert part in shown
    stopped = await operator.json("show", "2", "--parked")
    assert (stopped["status"], stopped["due_at"], [event["version"] for event in stopped["messages"]]) == ("stopped", None, [1])


async def test_decisions_are_requests_counted_and_refused_with_a_reason(operator: Operator) -> None:
    for number in range(3):
        await operator.park(f"order-{number}")
    requested = await operator.json("retry", "1", "99", "--parked", status=1)
    assert (requested["request"], requested["requested"], requested["refused"][0]["id"]) == ("retry", [1], 99)
    assert "1 first message to be skipped" in await operator.text("skip", "--parked", "--key", "order-1")
    assert "repeat it with --yes" in await operator.text("discard", "3", "--parked", status=2)
    assert (await operator.json("discard", "--parked", "--key", "order-2", "--yes"))["requested"] == [3]
    assert [kept["request"] for kept in (await operator.json("list", "--parked"))["parked_keys"]] == ["retry", "skip", "discard"]
    assert "no parked key 7 (any more)" in await operator.text("show", "7", "--parked", status=1)

"""Looking at the log, the outbox, read models and dead letters, and deciding, as an operator does."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from headwater.bus import DeadLetter, PostgresEffects
from headwater.coordination import item_lease_name
from headwater.eventstore import Checkpoint, PostgresEventStore
from headwater.kafka import Partition
from headwater.messages import ANY, LogPosition, NewEvent
from headwater.outbox import RELAY_GROUP, SHARDS, PartitionPosition, PostgresRelayPositions
from headwater.postgres import Database
from tests.acceptance.cli.conftest import Command

MOMENT = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


class Operator:
    """Runs commands on one database, beside the test's own loop."""

    def __init__(self, headwater: Command, dsn: str, database: Database) -> None:
        self.headwater, self.dsn, self.database = headwater, dsn, database
        self.store = PostgresEventStore(database)

    async def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(self.headwater.run, *arguments, HEADWATER_POSTGRES=self.dsn)

    async def text(self, *arguments: str, status: int = 0) -> str:
        outcome = await self.run(*arguments)
        assert outcome.returncode == status, (arguments, outcome.stdout, outcome.stderr)
        assert "Traceback" not in outcome.stderr
        return outcome.stdout if status in (0, 1) and outcome.stdout else outcome.stderr

    async def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(await self.text(*arguments, "--json", status=status))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return self.headwater.start(*arguments, HEADWATER_POSTGRES=self.dsn)

    async def place(self, *skus: str, stream: str | None = None) -> None:
        for sku in skus:
            event = NewEvent("OrderPlaced", json.dumps({"sku": sku, "quantity": 2}))
            await self.store.append(stream or f"order-{sku}", [event], expected_version=ANY)

    async def bury(self, *, count: int = 1, **changes: Any) -> None:
        fields: dict[str, Any] = {
            "group": "shop",
            "handler_name": "reserve",
            "partition": Partition("order", 0),
            "offset": 3,
            "error_type": "RuntimeError",
            "error_message": "no such thing in stock",
            "traceback": "Traceback: in reserve",
            "attempts": 5,
            "first_failed_at": MOMENT,
            "last_failed_at": MOMENT,
            "log_id": UUID(int=1),
            "position": LogPosition(1, 3),
            "stream_name": "order-1",
            "version": 1,
            "event_type": "OrderPlaced",
            "data": '{"sku": "chai", "quantity": 2}',
            "metadata": {},
            "recorded_at": MOMENT,
        }
        async with PostgresEffects(self.database, self.store).transaction() as transaction:
            await transaction.bury([DeadLetter(**{"event_id": uuid4(), **fields, **changes}) for _ in range(count)])


@pytest.fixture
async def operator(headwater: Command, postgres_dsn: str) -> AsyncIterator[Operator]:
    async with Database(postgres_dsn) as database:
        yield Operator(headwater, postgres_dsn, database)


async def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 30)


# -- help and wrong use -----------------------------------------------------------------------------------------------


def test_help_is_quick_to_import_and_teaches_with_examples(headwater: Command) -> None:
    """The top of the command line loads no driver: completion and --help must answer at once."""
    code = "import sys, headwater.cli.app; sys.exit(','.join(m for m in ('aiokafka', 'asyncpg', 'pydantic', 'structlog') if m in sys.modules) or 0)"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    for group, commands in {
        "log": ("tail", "show", "stats"),
        "stream": ("show",),
        "outbox": ("status",),
        "projections": ("list", "status", "rebuild", "resume"),
        "dead-letters": ("list", "show", "retry", "skip", "discard"),
    }.items():
        for command in commands:
            shown = headwater.run(group, command, "--help")
            assert shown.returncode == 0
            assert f"headwater {group} {command}" in shown.stdout
            assert "Example" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["log", "show", "nonsense"], "event id"),
        (["log", "tail", "--after", "1", "--last", "1"], "one of them"),
        (["log", "tail", "--last", "-1"], "--last"),
        (["dead-letters", "retry"], "which ones"),
        (["dead-letters", "list", "--status", "done"], "--status"),
        (["dead-letters", "show", "abc"], "integer"),
        (["stream", "show"], "NAME"),
        (["log", "stats"], "HEADWATER_POSTGRES"),
    ],
)
def test_wrong_use_is_told_with_status_2(headwater: Command, arguments: list[str], says: str) -> None:
    outcome = headwater.run(*arguments)
    assert outcome.returncode == 2, outcome.stderr
    assert says in outcome.stderr
    assert "Traceback" not in outcome.stderr


async def test_what_is_not_there_is_told_with_status_1(operator: Operator, empty_postgres_dsn: str) -> None:
    assert "no event at position 17" in await operator.text("log", "show", "17", status=1)
    assert "no stream 'order-1'" in await operator.text("stream", "show", "order-1", status=1)
    assert "no projection named 'nothing'" in await operator.text("projections", "status", "nothing", status=1)
    assert "no projection named 'nothing'" in await operator.text("projections", "resume", "nothing", status=1)
    assert "no dead letter 17" in await operator.text("dead-letters", "show", "17", status=1)
    operator.dsn = empty_postgres_dsn
    assert "headwater migrate" in await operator.text("log", "stats", status=1)


async def test_an_empty_database_is_shown_as_such(operator: Operator) -> None:
    assert "no events yet" in await operator.text("log", "stats")
    assert await operator.text("log", "tail", "--no-follow") == ""
    assert "nobody relays" in await operator.text("outbox", "status")
    assert "no projection" in await operator.text("projections", "list")
    assert "no dead letters" in await operator.text("dead-letters", "list")


# -- the log ----------------------------------------------------------------------------------------------------------


async def test_tail_begins_where_it_is_told_and_filters(operator: Operator) -> None:
    await operator.place(*(f"s{number}" for number in range(12)))
    await operator.store.append("cart-1", [NewEvent("ItemAdded", "{}")], expected_version=ANY)

    async def positions(*arguments: str) -> list[int]:
        lines = (await operator.text("log", "tail", "--no-follow", "--json", *arguments)).splitlines()
        return [json.loads(line)["position"] for line in lines]

    assert await positions() == list(range(4, 14))
    assert await positions("--last", "2") == [12, 13]
    assert await positions("--last", "0") == []
    assert await positions("--after", "10") == [11, 12, 13]
    assert await positions("--after", "0", "--limit", "3") == [1, 2, 3]
    assert await positions("--category", "cart") == [13]
    assert await positions("--after", "0", "--type", "OrderPlaced", "--stream", "order-s3") == [4]
    assert await positions("--type", "OrderPlaced", "--last", "2") == [11, 12]
    human = await operator.text("log", "tail", "--no-follow", "--last", "1")
    assert "13" in human
    assert "cart-1@1  ItemAdded  {}" in human


async def test_tail_follows_past_writers_in_flight_and_ends_on_ctrl_c(operator: Operator) -> None:
    """An event that commits late comes before those that were stored behind it."""
    await operator.place("first")
    process = operator.start("log", "tail", "--json")
    assert json.loads(await line_of(process))["stream_name"] == "order-first"
    async with operator.database.transaction() as connection:
        await operator.store.append("order-late", [NewEvent("OrderPlaced", "{}")], expected_version=ANY, connection=connection)
        await operator.place("after")
        stats = await operator.json("log", "stats")
        assert (stats["horizon"], stats["last_drawn"], stats["last_position"]) == (1, 3, 1)
        assert stats["held_by"]["position"] == 1
        assert stats["held_by"]["state"] == "idle in transaction"
        assert stats["held_by"]["began_at"].endswith("Z")
        assert "held by" in await operator.text("log", "stats")
    assert [json.loads(await line_of(process))["stream_name"] for _ in range(2)] == ["order-late", "order-after"]
    process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(process.wait, 30) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""


async def test_a_reader_that_has_seen_enough_is_no_error(operator: Operator) -> None:
    await operator.place(*(f"s{number}" for number in range(30)))
    process = operator.start("log", "tail", "--after", "0")
    await line_of(process)
    assert process.stdout is not None
    process.stdout.close()
    await operator.place("more")
    assert await asyncio.to_thread(process.wait, 30) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stdout = None


async def test_one_event_is_shown_in_full(operator: Operator) -> None:
    event = NewEvent("OrderPlaced", '{"amount": 12345678901234567890.12345678901234567890}', metadata={"correlation_id": "story-1"})
    await operator.store.append("order-1", [event], expected_version=ANY)
    for argument in ("1", str(event.event_id)):
        assert (await operator.json("log", "show", argument))["metadata"] == {"correlation_id": "story-1"}
    assert "12345678901234567890.12345678901234567890" in await operator.text("log", "show", "1", "--json")
    human = await operator.text("log", "show", "1")
    assert "story-1" in human
    assert "OrderPlaced" in human


async def test_stats_count_by_category_and_type(operator: Operator) -> None:
    await operator.place("a", "b")
    await operator.store.append("cart-1", [NewEvent("ItemAdded", "{}")], expected_version=ANY)
    await operator.store.identity()
    stats = await operator.json("log", "stats")
    assert (stats["event_count"], stats["stream_count"], stats["horizon"]) == (3, 3, 3)
    assert stats["held_by"] is None
    assert [(t["category"], t["type"], t["event_count"]) for t in stats["types"]] == [("order", "OrderPlaced", 2), ("cart", "ItemAdded", 1)]
    assert [epoch["epoch"] for epoch in stats["epochs"]] == [1]
    assert any(table["table_name"] == "events" and table["total_bytes"] > 0 for table in stats["tables"])
    human = await operator.text("log", "stats", "--limit", "1")
    assert "1 of 2 types" in human


async def test_a_stream_is_read_from_both_ends(operator: Operator) -> None:
    await operator.place("a", "b", "c", stream="order-1")

    async def versions(*arguments: str) -> list[int]:
        return [event["version"] for event in (await operator.json("stream", "show", "order-1", *arguments))["events"]]

    assert await versions() == [1, 2, 3]
    assert await versions("--backwards", "--limit", "2") == [3, 2]
    assert await versions("--from-version", "2") == [2, 3]
    assert await versions("--from-version", "2", "--backwards") == [2, 1]
    assert "2 of 3 events" in await operator.text("stream", "show", "order-1", "--limit", "2")


# -- the outbox and read models ---------------------------------------------------------------------------------------


async def test_the_outbox_shows_lease_and_lag(operator: Operator) -> None:
    await operator.place("a", "b", "c")
    positions = PostgresRelayPositions(operator.database)
    before = (await operator.json("outbox", "status"))["shards"]
    assert [(shard["shard"], shard["lag_events"], shard["is_held"]) for shard in before] == [(shard, 3, False) for shard in SHARDS]
    lease = await positions.leases.acquire(item_lease_name(RELAY_GROUP, "2"), "orders-1", 600)
    assert lease is not None
    await positions.record_topics({"order": 2})
    event_id = (await operator.store.read_log(after=0, limit=1)).events[0].event_id
    await positions.save("2", lease, Checkpoint(1, 1, event_id), {Partition("order", 1): PartitionPosition(LogPosition(1, 1), 4)})
    status = await operator.json("outbox", "status")
    shard = status["shards"][1]
    assert (shard["is_held"], shard["holder"], shard["term"], shard["relayed_through"]) == (True, "orders-1", 1, "1:1")
    assert (status["horizon"], shard["lag_events"], status["topics"]) == (3, 2, {"order": 2})
    assert shard["oldest_waiting_at"] is not None
    assert [(p["topic"], p["partition"], p["position"], p["offset"]) for p in status["partitions"]] == [("order", 1, "1:1", 4)]
    human = await operator.text("outbox", "status")
    assert "orders-1" in human
    assert "1 of 6 shards are relayed" in human
    assert "shards 1, 3, 4, 5, 6: nobody relays them" in human
    await positions.leases.release(lease)
    assert "nobody relays now" in await operator.text("outbox", "status")


async def test_projections_are_listed_rebuilt_and_resumed(operator: Operator) -> None:
    await operator.place("chai", "tofu")
    rebuilt = await operator.json("projections", "rebuild", "units_ordered", "--service", "shop:service")
    assert rebuilt["events"] == 2
    await operator.place("tea")
    (listed,) = (await operator.json("projections", "list"))["projections"]
    assert (listed["name"], listed["status"], listed["checkpoint"], listed["lag_events"]) == ("units_ordered", "running", 2, 1)
    status = await operator.json("projections", "status", "units_ordered")
    assert (status["rows"], status["rebuild"]) == ({"states": 2}, None)
    assert "1 events" in await operator.text("projections", "list")
    assert "was not stopped" in await operator.text("projections", "resume", "units_ordered")
    async with operator.database.connection() as connection:
        await connection.execute("UPDATE headwater.projections SET status = 'failed', error = 'raised at position 3'")
    failed = await operator.text("projections", "status", "units_ordered", status=1)
    assert "raised at position 3" in failed
    assert "headwater projections resume units_ordered" in failed
    assert (await operator.json("projections", "resume", "units_ordered"))["resumed"] is True
    assert (await operator.json("projections", "status", "units_ordered"))["status"] == "running"


async def test_a_rebuild_under_way_is_seen(operator: Operator) -> None:
    await operator.run("projections", "rebuild", "units_ordered")
    async with operator.database.connection() as connection:
        await connection.execute("SELECT pg_advisory_lock(18521, hashtext('headwater.units_ordered'))")
        status = await operator.json("projections", "status", "units_ordered")
        assert status["rebuild"]["is_running"] is True
        await connection.execute("SELECT pg_advisory_unlock_all()")


# -- dead letters -----------------------------------------------------------------------------------------------------


async def test_dead_letters_are_listed_by_filter_and_shown(operator: Operator) -> None:
    await operator.bury(count=2)
    await operator.bury(group="other", event_type="OrderCancelled", handler_name="refund")
    listed = await operator.json("dead-letters", "list", "--group", "shop", "--handler", "reserve", "--type", "OrderPlaced", "--limit", "1")
    assert (listed["count"], [letter["id"] for letter in listed["dead_letters"]]) == (2, [1])
    human = await operator.text("dead-letters", "list", "--limit", "2")
    assert "no such thing in stock" in human
    assert "2 of 3; the next page: --after 2" in human
    shown = await operator.text("dead-letters", "show", "3")
    for part in ("refund", "OrderCancelled", "Traceback: in reserve", '"sku": "chai"', "2026-01-01 12:00:00Z"):
        assert part in shown
    assert (await operator.json("dead-letters", "show", "3"))["data"] == {"sku": "chai", "quantity": 2}


async def test_a_value_that_could_not_be_read_is_shown_raw_and_can_be_retried(operator: Operator) -> None:
    raw = {"key": "b3JkZXItMQ==", "value": "AAAAAGMC", "headers": [["content-type", "YXBwbGljYXRpb24vYXZybw=="]], "timestamp": 1}
    await operator.bury(count=1, data=None, raw=raw, error_type="headwater.errors.UnknownSchema")
    shown = await operator.text("dead-letters", "show", "1")
    assert "UnknownSchema" in shown
    assert "AAAAAGMC (base64" in shown
    facts = await operator.json("dead-letters", "show", "1")
    assert (facts["data"], facts["raw"]) == (None, raw)
    assert (await operator.json("dead-letters", "retry", "1"))["retried"] == [1]


async def test_decisions_are_counted_kept_and_refused_with_a_reason(operator: Operator) -> None:
    await operator.bury(count=4)
    await operator.bury(handler_name=None, event_id=None, event_type=None, data=None, raw={"key": None})

    async def statuses() -> list[str]:
        return [letter["status"] for letter in (await operator.json("dead-letters", "list", "--status", "all"))["dead_letters"]]

    retried = await operator.json("dead-letters", "retry", "1", "5", "99", status=1)
    assert retried["retried"] == [1]
    assert {refusal["id"] for refusal in retried["refused"]} == {5, 99}
    assert "already" in await operator.text("dead-letters", "retry", "1", status=1)
    assert (await operator.json("dead-letters", "retry", "--handler", "reserve", "--limit", "1"))["retried"] == [2]
    assert await statuses() == ["retrying", "retrying", "waiting", "waiting", "waiting"]
    assert "1 dead letter skipped" in await operator.text("dead-letters", "skip", "1")
    assert await operator.json("dead-letters", "skip", "--type", "OrderPlaced", "--limit", "1")
    assert await statuses() == ["skipped", "skipped", "waiting", "waiting", "waiting"]
    assert (await operator.json("dead-letters", "list", "--status", "skipped"))["count"] == 2
    assert "repeat it with --yes" in await operator.text("dead-letters", "discard", "3", status=2)
    assert "3 dead letters" in await operator.text("dead-letters", "discard", "--all", status=2)
    assert (await operator.json("dead-letters", "discard", "--all", "--yes", "--limit", "1"))["discarded"] == [3]
    assert (await operator.json("dead-letters", "discard", "--status", "skipped", "--yes"))["discarded"] == [1, 2]
    assert await statuses() == ["waiting", "waiting"]

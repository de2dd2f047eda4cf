"""Logs into files and back, streams that are closed and archived, as an operator does it; an import killed in its middle."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from headwater.eventstore import PostgresEventStore
from headwater.messages import ANY, NewEvent
from headwater.postgres import Database
from headwater.testing import MigratedDatabases, eventually
from tests.acceptance.cli.conftest import HEADWATER, Command

EVENTS_KILLED = 30_000


@pytest.fixture
async def target(headwater_databases: MigratedDatabases) -> AsyncIterator[str]:
    with headwater_databases.fresh() as dsn:
        yield dsn


@pytest.fixture
async def filled(store: PostgresEventStore) -> PostgresEventStore:
    for number in range(20):
        await store.append(
            f"order-{number % 5}", [NewEvent("OrderPlaced", json.dumps({"n": number, "sku": "é"}))] * 1, expected_version=ANY
        )
    return store


async def run(headwater: Command, dsn: str, *arguments: str, status: int = 0) -> str:
    done = await asyncio.to_thread(headwater.run, *arguments, HEADWATER_POSTGRES=dsn)
    assert done.returncode == status, (arguments, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


def events_in(file: Path) -> list[dict[str, Any]]:
    return [{**json.loads(line), "position": None} for line in file.read_text(encoding="utf-8").splitlines()[1:-1]]


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz", "log.avro"])
async def test_export_import_export_gives_the_same_events(
    headwater: Command, filled: PostgresEventStore, postgres_dsn: str, target: str, tmp_path: Path, name: str
) -> None:
    said = json.loads(await run(headwater, postgres_dsn, "log", "export", name, "--json"))
    assert (said["event_count"], said["after"], len(said["epochs"])) == (20, 0, 1)
    said = json.loads(await run(headwater, target, "log", "import", name, "--json"))
    assert (said["stored_count"], said["known_count"], said["last_position"]) == (20, 0, 20)
    assert "20 were here already" in await run(headwater, target, "log", "import", name)
    await run(headwater, postgres_dsn, "log", "export", "one.jsonl")
    await run(headwater, target, "log", "export", "two.jsonl")
    assert events_in(tmp_path / "one.jsonl") == events_in(tmp_path / "two.jsonl") != []


async def test_export_goes_through_a_pipe_into_an_import(
    headwater: Command, filled: PostgresEventStore, postgres_dsn: str, target: str
) -> None:
    def pipe() -> tuple[int, str]:
        writer = subprocess.Popen(
            [HEADWATER, "log", "export", "-", "--format", "avro", "--category", "order"],
            env=headwater.environment | {"HEADWATER_POSTGRES": postgres_dsn},
            stdout=subprocess.PIPE,
        )
        reader = subprocess.run(
            [HEADWATER, "log", "import", "-"],
            env=headwater.environment | {"HEADWATER_POSTGRES": target},
            stdin=writer.stdout,
            capture_output=True,
            text=True,
            check=False,
        )
        assert writer.stdout is not None
        writer.stdout.close()
        return writer.wait() + reader.returncode, reader.stdout + reader.stderr

    status, said = await asyncio.to_thread(pipe)
    assert status == 0, said
    assert "20 events stored, up to position 20" in said


async def test_damaged_file_is_told_with_its_line_and_exits_with_1(
    headwater: Command, filled: PostgresEventStore, postgres_dsn: str, target: str, tmp_path: Path
) -> None:
    await run(headwater, postgres_dsn, "log", "export", "log.jsonl")
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    (tmp_path / "bad.jsonl").write_text("\n".join([*lines[:9], lines[9].replace('"version":', '"version":9'), *lines[10:]]))
    assert "line 10" in await run(headwater, target, "log", "import", "bad.jsonl", status=1)
    (tmp_path / "cut.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    assert "cut off" in await run(headwater, target, "log", "import", "cut.jsonl", status=1)
    assert json.loads(await run(headwater, target, "log", "stats", "--json"))["event_count"] == 0, "its batch stays out"
    assert "already" in await run(headwater, postgres_dsn, "log", "export", "log.jsonl", status=2)
    assert "cannot be read" in await run(headwater, postgres_dsn, "log", "import", "nowhere.jsonl", status=2)


async def test_import_killed_in_its_middle_goes_on_when_it_is_repeated(
    headwater: Command, database: Database, store: PostgresEventStore, postgres_dsn: str, tmp_path: Path
) -> None:
    with (tmp_path / "log.jsonl").open("w") as file:
        file.write('{"headwater_log": 1}\n')
        for n in range(EVENTS_KILLED):
            members = {
                "stream_name": f"order-{n % 1000}",
                "version": n // 1000 + 1,
                "type": "OrderPlaced",
                "data": {"n": n, "x": "x" * 200},
            }
            event_id = f"0199a6c0-5b1e-7c3a-9d4e-{n:012x}"
            file.write(json.dumps({**members, "event_id": event_id, "recorded_at": "2026-01-31T12:00:00Z"}) + "\n")
        file.write(json.dumps({"end_of_log": True, "event_count": EVENTS_KILLED}) + "\n")

    async def count() -> int:
        async with database.connection() as connection:
            return int(await connection.fetchval("SELECT count(*) FROM headwater.events"))

    process = headwater.start("log", "import", "log.jsonl", HEADWATER_POSTGRES=postgres_dsn)
    await eventually(count, timeout=60)
    os.killpg(process.pid, signal.SIGKILL)
    await asyncio.to_thread(process.wait)
    stored = await count()
    assert 0 < stored < EVENTS_KILLED, "it was killed too late to prove anything"
    said = json.loads(await run(headwater, postgres_dsn, "log", "import", "log.jsonl", "--json"))
    assert (said["stored_count"], said["known_count"]) == (EVENTS_KILLED - said["known_count"], said["known_count"])
    assert said["known_count"] >= stored
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT (data ->> 'n')::int AS n FROM headwater.events ORDER BY global_position")
    assert [row["n"] for row in rows] == list(range(EVENTS_KILLED)), "the log has every line once, in the order of the file"


async def test_streams_are_closed_and_archived(headwater: Command, filled: PostgresEventStore, postgres_dsn: str) -> None:
    assert "--yes" in await run(headwater, postgres_dsn, "stream", "close", "order-1", status=2)
    assert "is open" in await run(headwater, postgres_dsn, "stream", "archive", "order-1", status=2)
    assert "order-1 is closed since" in await run(headwater, postgres_dsn, "stream", "close", "order-1", "--yes")
    closed = json.loads(await run(headwater, postgres_dsn, "stream", "close", "order-2", "--yes", "--json"))
    assert (closed["stream_name"], closed["version"]) == ("order-2", 4)
    assert "no stream" in await run(headwater, postgres_dsn, "stream", "close", "order-99", "--yes", status=1)
    assert "4 events of 1 streams" in await run(headwater, postgres_dsn, "stream", "archive", "order-1")
    done = json.loads(await run(headwater, postgres_dsn, "stream", "archive", "-c", "order", "--closed-before", "2999-01-01", "--json"))
    assert done == {"stream_count": 1, "event_count": 4}
    assert "none is closed" in await run(headwater, postgres_dsn, "stream", "archive", "-c", "order", "--closed-before", "2999-01-01")
    for wrong in ([], ["order-1", "-c", "order"], ["-c", "order"], ["-c", "order", "--closed-before", "soon"]):
        await run(headwater, postgres_dsn, "stream", "archive", *wrong, status=2)
    shown = json.loads(await run(headwater, postgres_dsn, "stream", "show", "order-1", "--json"))
    assert [event["version"] for event in shown["events"]] == [1, 2, 3, 4]
    stats = json.loads(await run(headwater, postgres_dsn, "log", "stats", "--json"))
    assert (stats["event_count"], stats["archived_event_count"], stats["closed_stream_count"], stats["archived_stream_count"]) == (
        20,
        8,
        2,
        2,
    )
    (order,) = stats["categories"]
    assert (order["category"], order["event_count"], order["stored_bytes"] > 0) == ("order", 20, True)
    text = await run(headwater, postgres_dsn, "log", "stats")
    assert re.search(r"archived events +8\n", text)
    assert "archived_events" in text

"""A log into a file and a file into a log: the same events, once, in order, whoever reads and writes meanwhile."""

from __future__ import annotations

import asyncio
import io
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from headwater.errors import ImportRefused, LogFileDamaged, UsageError
from headwater.eventstore import (
    ArchiveSelection,
    ImportProgress,
    PostgresEventStore,
    archive_streams,
    export_events,
    import_events,
)
from headwater.messages import ANY, NewEvent, RecordedEvent
from headwater.postgres import Database
from headwater.schemas import LogFileFormat
from headwater.testing import MigratedDatabases
from tests.fault.eventstore.tailing import Committed, Tail, compare, write
from tests.integration.eventstore.logs import append

FILES = ["log.jsonl", "log.jsonl.gz", "log.avro", "log.avro.gz"]


@pytest.fixture
async def target(headwater_databases: MigratedDatabases) -> AsyncIterator[Database]:
    """Another log, empty."""
    with headwater_databases.fresh() as dsn:
        async with Database(dsn) as database:
            yield database


async def fill(store: PostgresEventStore, *, streams: int = 6, rounds: int = 4) -> None:
    """With holes in the positions, and data that only text keeps."""
    for number in range(rounds * streams):
        await append(store, stream_name=f"order-{number % streams}", count=2)
        with pytest.raises(ZeroDivisionError):
            async with store._database.transaction() as connection:
                await append(store, connection, stream_name="order-0")
                raise ZeroDivisionError
    numbers = '{"price": 12345678901234567890.10, "big": 1e400, "é": "😀"}'
    await store.append("stock-é", [NewEvent("Counted", numbers, metadata={"correlation_id": "é"})], expected_version=0)


async def whole_log(database: Database) -> list[RecordedEvent]:
    found, after, store = [], 0, PostgresEventStore(database)
    while events := (await store.read_log(after=after)).events:
        found += events
        after = events[-1].global_position
    return found


def without_position(event: RecordedEvent) -> tuple[Any, ...]:
    return (event.stream_name, event.version, event.type, event.data, dict(event.metadata), event.event_id, event.recorded_at)


def events_in(file: Path) -> list[dict[str, Any]]:
    """The events of a file of JSON lines, without their positions."""
    return [{**json.loads(line), "position": None} for line in file.read_text(encoding="utf-8").splitlines()[1:-1]]


def hand_made(*events: dict[str, Any]) -> io.BytesIO:
    base = {"stream_name": "order-1", "type": "OrderPlaced", "recorded_at": "2026-01-31T12:00:00Z", "data": {}}
    made = [{**base, "version": number, "event_id": str(uuid.uuid4()), **event} for number, event in enumerate(events, start=1)]
    body = [json.dumps({"headwater_log": 1}), *map(json.dumps, made), json.dumps({"end_of_log": True, "event_count": len(made)})]
    return io.BytesIO(("\n".join(body) + "\n").encode())


@pytest.mark.parametrize("name", FILES)
async def test_log_comes_through_a_file_as_it_was(
    database: Database, store: PostgresEventStore, target: Database, tmp_path: Path, name: str
) -> None:
    await fill(store)
    await store.close_stream("order-3")
    await archive_streams(database, ArchiveSelection(stream_names=("order-3",)))
    exported = await export_events(database, tmp_path / name)
    imported = await import_events(target, tmp_path / name, batch_size=7)
    log = await whole_log(database)
    assert exported.event_count == imported.stored_count == len(log)
    there = await whole_log(target)
    assert [without_position(event) for event in there] == [without_position(event) for event in log]
    assert [event.global_position for event in there] == list(range(1, len(log) + 1)), "positions of its own, without the holes"
    assert imported.last_position == there[-1].global_position
    assert imported.header.log_id == (await store.identity()).log_id != (await PostgresEventStore(target).identity()).log_id
    await export_events(database, tmp_path / "first.jsonl")
    await export_events(target, tmp_path / "second.jsonl")
    assert events_in(tmp_path / "second.jsonl") == events_in(tmp_path / "first.jsonl")
    # The streams go on where they ended.
    assert (await append(PostgresEventStore(target), stream_name="order-1")) == len(log) + 1


async def test_repeated_import_stores_nothing_twice(
    database: Database, store: PostgresEventStore, target: Database, tmp_path: Path
) -> None:
    await fill(store)
    await export_events(database, tmp_path / "log.jsonl")
    first = await import_events(target, tmp_path / "log.jsonl", batch_size=5)
    log = await whole_log(target)
    again = await import_events(target, tmp_path / "log.jsonl", batch_size=7)
    assert (again.stored_count, again.known_count, again.last_position) == (0, first.stored_count, None)
    own = await import_events(database, tmp_path / "log.jsonl")
    assert (own.stored_count, own.known_count) == (0, first.stored_count), "a log knows its own events, at their old positions"
    assert await whole_log(target) == log


async def test_later_part_follows_on_an_earlier_one(
    database: Database, store: PostgresEventStore, target: Database, tmp_path: Path
) -> None:
    await fill(store)
    first = await export_events(database, tmp_path / "first.avro")
    await append(store, stream_name="order-2", count=3)
    await append(store, stream_name="order-9")
    later = await export_events(database, tmp_path / "later.avro", after=first.through)
    assert later.event_count == 4
    with pytest.raises(ImportRefused, match="line 1 is version 9 of the stream 'order-2', but here version 1 comes next"):
        await import_events(target, tmp_path / "later.avro")
    await import_events(target, tmp_path / "first.avro")
    await import_events(target, tmp_path / "later.avro")
    assert list(map(without_position, await whole_log(target))) == list(map(without_position, await whole_log(database)))


async def test_export_of_categories_has_those_alone(
    database: Database, store: PostgresEventStore, target: Database, tmp_path: Path
) -> None:
    await fill(store)
    done = await export_events(database, tmp_path / "log.jsonl", categories=["stock"])
    assert (done.event_count, done.header.categories) == (1, ("stock",))
    await import_events(target, tmp_path / "log.jsonl")
    assert [event.stream_name for event in await whole_log(target)] == ["stock-é"]


async def test_streams_can_be_given_instead_of_paths(database: Database, store: PostgresEventStore, target: Database) -> None:
    await fill(store)
    stream = io.BytesIO()
    done = await export_events(database, stream, file_format=LogFileFormat.AVRO)
    assert (await import_events(target, io.BytesIO(stream.getvalue()))).stored_count == done.event_count


async def test_export_that_fails_leaves_no_file_and_none_is_overwritten(
    database: Database, store: PostgresEventStore, tmp_path: Path
) -> None:
    await fill(store)

    class Enough(Exception):
        pass

    def stop(_: object) -> None:
        raise Enough

    with pytest.raises(Enough):
        await export_events(database, tmp_path / "log.jsonl", progress=stop)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "log.jsonl").write_text("mine")
    with pytest.raises(UsageError, match="already"):
        await export_events(database, tmp_path / "log.jsonl")
    assert (tmp_path / "log.jsonl").read_text() == "mine"
    with pytest.raises(UsageError, match="cannot be written"):
        await export_events(database, tmp_path / "nowhere" / "log.jsonl")
    with pytest.raises(UsageError, match="cannot be read"):
        await import_events(database, tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize(
    ("events", "error", "says", "line"),
    [
        pytest.param([{}, {}, {"version": 4}], ImportRefused, "version 4 .* version 3 comes next", 4, id="version left out"),
        pytest.param([{}, {}, {"version": 2}], ImportRefused, "version 2 .* version 3 comes next", 4, id="version repeated"),
        pytest.param([{}, {}, {"stream_name": "closed-1", "version": 2}], ImportRefused, "was closed here", 4, id="closed stream"),
        pytest.param([{}, {}, {"event_id": str(uuid.UUID(int=1))}], ImportRefused, "another event of this log", 4, id="id of another"),
        pytest.param(
            [{"event_id": str(uuid.UUID(int=2))}, {}, {"event_id": str(uuid.UUID(int=2))}],
            LogFileDamaged,
            "as line 2 has",
            4,
            id="id twice",
        ),
        pytest.param([{}, {}, {"data": "\x00"}], LogFileDamaged, "line 4.*NUL", 4, id="NUL"),
        pytest.param([{}, {}, {"data": "\ud800"}], LogFileDamaged, "line 4", 4, id="half a surrogate pair"),
        pytest.param([{}, {}, {"data": "x" * 1_048_575}], LogFileDamaged, "line 4.*1,048,577 bytes", 4, id="too large"),
        pytest.param([{}, {}, {"version": "x"}], LogFileDamaged, "line 4 has version", 4, id="malformed"),
    ],
)
async def test_bad_line_is_named_and_keeps_its_batch_out(
    database: Database, store: PostgresEventStore, events: list[dict[str, Any]], error: type[Exception], says: str, line: int
) -> None:
    await store.append("closed-1", [NewEvent("OrderPlaced", "{}", event_id=uuid.UUID(int=1))], expected_version=0)
    await store.close_stream("closed-1")
    stored: list[int] = []

    def keep(done: ImportProgress) -> None:
        stored.append(done.stored_count)

    with pytest.raises(error, match=says) as caught:
        await import_events(database, hand_made(*events), progress=keep)
    assert getattr(caught.value, "line", None) == line
    assert (stored[-1], await store.stream_version("order-1")) == (0, 0)
    # In batches of one, everything before it is stored, and is told.
    with pytest.raises((ImportRefused, LogFileDamaged)):
        await import_events(database, hand_made(*events), progress=keep, batch_size=1)
    assert (stored[-1], await store.stream_version("order-1")) == (2, 2)


async def test_line_with_something_behind_its_data_is_refused(database: Database, store: PostgresEventStore) -> None:
    content = hand_made({}).getvalue().replace(b'"data": {}', b'"data":1').replace(b'}\n{"end', b',"b":2}\n{"end')
    with pytest.raises(LogFileDamaged, match="line 2"):
        await import_events(database, io.BytesIO(content))
    assert await whole_log(database) == []


async def test_file_cut_off_says_so_and_keeps_what_was_whole(database: Database, store: PostgresEventStore) -> None:
    content = hand_made(*({} for _ in range(10))).getvalue()
    with pytest.raises(LogFileDamaged, match="cut off"):
        await import_events(database, io.BytesIO(content[: content.rindex(b'{"end')]), batch_size=4)
    assert await store.stream_version("order-1") == 8
    assert (await import_events(database, io.BytesIO(content), batch_size=4)).stored_count == 2


async def test_tags_come_through(database: Database, store: PostgresEventStore, target: Database, tmp_path: Path) -> None:
    """Where the schema keeps tags."""
    for each in (database, target):
        async with each.connection() as connection:
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS headwater.event_tags (tag text, global_position bigint, PRIMARY KEY (tag, global_position))"
            )
    await append(store, count=3)
    async with database.connection() as connection:
        await connection.execute("INSERT INTO headwater.event_tags VALUES ('b', 1), ('a', 1), ('é', 3)")
        await connection.execute("SELECT nextval('headwater.global_position_seq')")
    await append(store, stream_name="order-2")
    async with database.connection() as connection:
        await connection.execute("INSERT INTO headwater.event_tags VALUES ('z', 5)")
    for name in ("log.jsonl", "log.avro"):
        await export_events(database, tmp_path / name)
    await import_events(target, tmp_path / "log.jsonl")
    async with target.connection() as connection:
        tags = await connection.fetch("SELECT tag, global_position FROM headwater.event_tags ORDER BY 2, 1")
    assert [tuple(row) for row in tags] == [("a", 1), ("b", 1), ("é", 3), ("z", 4)]
    assert (await import_events(target, tmp_path / "log.avro")).stored_count == 0


async def test_reader_beside_an_import_and_other_writers_skips_nothing(
    database: Database, store: PostgresEventStore, postgres_dsn: str
) -> None:
    """The import draws its positions as every append does: under the lock that holds the horizon."""
    file = hand_made(*({"stream_name": f"imported-{n % 50}", "version": n // 50 + 1} for n in range(3_000)))
    committed, tail, done = Committed(), Tail(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(tail.follow(store, done))
        async with asyncio.TaskGroup() as writers:
            for writer in range(4):
                writers.create_task(write(postgres_dsn, writer, 1, 40, committed))
            writers.create_task(import_events(database, file, batch_size=100))
        done.set()
    outcome = await compare(postgres_dsn, tail, committed)
    assert (outcome.missed, outcome.phantoms, outcome.lost) == (0, 0, 0)
    assert outcome.events > 3_000


async def test_reader_beside_an_import_without_the_append_lock_skips_events(
    headwater_databases: MigratedDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above is able to fail."""
    monkeypatch.setattr("headwater.eventstore.importing._TAKE_APPEND_LOCK", "SELECT 1")
    missed = 0
    for seed in range(5):
        with headwater_databases.fresh() as dsn:
            async with Database(dsn) as database:
                file = hand_made(*({"stream_name": f"imported-{n % 50}", "version": n // 50 + 1} for n in range(3_000)))
                committed, tail, done = Committed(), Tail(), asyncio.Event()
                try:
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(tail.follow(PostgresEventStore(database), done))
                        async with asyncio.TaskGroup() as writers:
                            for writer in range(4):
                                writers.create_task(write(dsn, writer, seed, 40, committed))
                            writers.create_task(import_events(database, file, batch_size=100))
                        done.set()
                    missed += (await compare(dsn, tail, committed)).missed
                except* AssertionError:
                    missed += 1
        if missed:
            return
    pytest.fail("nothing was missed with the lock left out: the test proves nothing")


async def test_two_imports_of_one_file_at_once_store_it_once(database: Database, store: PostgresEventStore) -> None:
    content = hand_made(*({"stream_name": f"order-{n % 7}", "version": n // 7 + 1} for n in range(700))).getvalue()
    done = await asyncio.gather(*(import_events(database, io.BytesIO(content), batch_size=size) for size in (100, 100, 64)))
    assert sum(each.stored_count for each in done) == 700
    assert [each.event_count for each in done] == [700] * 3
    assert [event.version for event in await whole_log(database) if event.stream_name == "order-3"] == list(range(1, 101))


async def test_import_waits_for_an_append_to_its_stream(database: Database, store: PostgresEventStore, other: asyncpg.Connection) -> None:
    """The append is first; what it stored decides whether the file still fits."""
    transaction = other.transaction()
    await transaction.start()
    await append(store, other)
    importing = asyncio.create_task(import_events(database, hand_made({}, {})))
    await asyncio.wait([importing], timeout=0.3)
    assert not importing.done()
    await transaction.commit()
    with pytest.raises(ImportRefused, match=r"version 1 .* version 2 comes next"):
        await importing
    assert await store.append("order-2", [NewEvent("OrderPlaced", "{}")], expected_version=ANY)

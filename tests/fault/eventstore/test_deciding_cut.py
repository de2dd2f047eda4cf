"""Commands whose caller never heard the answer: repeated, each has counted once, and its first decision is what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID

import asyncpg
import pytest

from headwater.errors import StorageUnavailable
from headwater.eventstore import Decision, PostgresEventStore, PostgresSnapshotStore, Snapshots, StreamCache, WatchedEventStore, decide
from headwater.messages import ANY, AppendResult
from headwater.postgres import Database
from headwater.randomness import SeededRandomness, uuid7
from headwater.testing import eventually
from headwater.testing.conformance.deciding import REGISTRY, STREAM, SUM, Add, Added, Sum
from tests.fault.eventstore.cutting import Wire, wire_to
from tests.support import SeededRuns

SOMEBODY_WAITS_FOR_US = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
WORKERS, COMMANDS_EACH, STREAMS = 6, 25, 3


class CutOnAppend(WatchedEventStore):
    """Makes something ready just before the first append."""

    def __init__(self, store: PostgresEventStore, ready) -> None:
        super().__init__(store, on_append=lambda: None)
        self._ready = ready

    async def append(self, *args, **kwargs) -> AppendResult:
        ready, self._ready = self._ready, None
        if ready is not None:
            ready()
        return await super().append(*args, **kwargs)


@pytest.fixture
async def wire(postgres_dsn: str) -> AsyncIterator[tuple[Wire, str]]:
    async with wire_to(postgres_dsn) as (wire, dsn):
        yield wire, dsn


@pytest.fixture
async def direct(postgres_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that nobody cuts."""
    connection = await asyncpg.connect(postgres_dsn)
    yield connection
    connection.terminate()


@pytest.mark.parametrize("cut_at", ["request", "reply"])
@pytest.mark.parametrize("others", [0, 3])
@pytest.mark.parametrize("with_short_cuts", [False, True])
async def test_repeated_command_of_unknown_outcome_counts_once(
    wire: tuple[Wire, str], direct: asyncpg.Connection, postgres_dsn: str, cut_at: str, others: int, with_short_cuts: bool
) -> None:
    command_id = uuid7()
    async with Database(wire[1]) as database, Database(postgres_dsn) as elsewhere:
        store, safe = PostgresEventStore(database), PostgresEventStore(elsewhere)
        short_cuts = {"snapshots": PostgresSnapshotStore(database), "cache": StreamCache()} if with_short_cuts else {}
        await decide(store, REGISTRY, SUM, STREAM, Add(4, "before"), **short_cuts)
        await decide(store, REGISTRY, SUM, STREAM, Add(2, "before"), **short_cuts)

        async def is_stored() -> bool:
            return await direct.fetchval("SELECT count(*) FROM headwater.events WHERE metadata ->> 'command_id' = $1", str(command_id)) > 0

        cutting = CutOnAppend(store, wire[0].cut_before_request if cut_at == "request" else lambda: wire[0].cut_before_reply(is_stored))
        with contextlib.suppress(StorageUnavailable):
            # A store may repeat by itself what was cut; then the first call is answered after all.
            await decide(cutting, REGISTRY, SUM, STREAM, Add(2, "mine"), command_id=command_id, **short_cuts)
        assert wire[0].cut_count == 1, "nothing was cut: the test proves nothing"
        was_stored = await is_stored()
        assert was_stored or cut_at == "request"
        if others:
            await safe.append(STREAM, [Added(amount=1, note="other")] * others, expected_version=ANY)
        again = [await decide(store, REGISTRY, SUM, STREAM, Add(2, "mine"), command_id=command_id, **short_cuts) for _ in range(3)]
        assert again == [again[0]] * 3
        expected = Sum(8, ("before",) * 6 + ("mine",) * 2)
        if others and not was_stored:
            # Decided for the first time after the others: three more, so the sum is odd.
            expected = Sum(12, ("before",) * 6 + ("other",) * 3 + ("mine",) * 3)
        assert again[0].state == expected
        assert again[0].result is not None
        assert again[0].result.version == expected.total
        stored = [event async for event in safe.read_stream(STREAM)]
        assert [REGISTRY.decode(event).note for event in stored].count("mine") == len(again[0].events)


@pytest.mark.parametrize("others", [0, 1, 2])
async def test_command_repeated_while_its_first_call_still_runs_on_the_server(
    wire: tuple[Wire, str], direct: asyncpg.Connection, postgres_dsn: str, others: int
) -> None:
    """Its caller's connection is gone, its statement waits for the stream behind somebody's transaction."""
    command_id = uuid7()
    async with Database(wire[1]) as database, Database(postgres_dsn) as elsewhere:
        store, safe = PostgresEventStore(database), PostgresEventStore(elsewhere)
        await decide(store, REGISTRY, SUM, STREAM, Add(4, "before"))
        transaction = direct.transaction()
        await transaction.start()
        await direct.execute("SELECT FROM headwater.streams WHERE stream_name = $1 FOR UPDATE", STREAM)
        first = asyncio.create_task(decide(store, REGISTRY, SUM, STREAM, Add(1, "mine"), command_id=command_id))
        await eventually(lambda: direct.fetchval(SOMEBODY_WAITS_FOR_US))
        wire[0].cut()
        with contextlib.suppress(StorageUnavailable):
            await first
        assert await direct.fetchval(SOMEBODY_WAITS_FOR_US), "the first call ended with its connection: the test proves nothing"
        again = [asyncio.create_task(decide(safe, REGISTRY, SUM, STREAM, Add(1, "mine"), command_id=command_id)) for _ in range(2)]
        # The cut call's statement, and one of the two: the other waits behind it in its own process.
        await eventually(lambda: _waiting(direct, 2))
        if others:
            await safe.append(STREAM, [Added(amount=1, note="other")] * others, expected_version=ANY, connection=direct)
        await transaction.commit()
        decisions = await asyncio.gather(*again)
        assert decisions[0] == decisions[1] == await decide(safe, REGISTRY, SUM, STREAM, Add(1, "mine"), command_id=command_id)
        notes = [REGISTRY.decode(event).note async for event in safe.read_stream(STREAM)]
        assert notes.count("mine") == len(decisions[0].events)
        assert decisions[0].result is not None
        assert decisions[0].state.total == decisions[0].result.version


async def _waiting(connection: asyncpg.Connection, count: int) -> bool:
    """Whether so many sessions wait for a lock; in pg_locks, for pg_stat_activity stands still inside a transaction."""
    return int(await connection.fetchval("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")) >= count


async def test_commands_repeated_until_answered_count_once_whatever_is_killed(postgres_dsn: str) -> None:
    """Workers repeat each command until they hear of it, and once more, while somebody ends their server processes at random."""
    for seed in (runs := SeededRuns("decide_cut", default=2, full=50)):
        runs.record(seed, await _run_under_fire(postgres_dsn, seed))
    if runs.results:
        assert runs.total("cut_off") > 0, "no call was cut off: the test proves nothing"


async def _run_under_fire(dsn: str, seed: int) -> dict[str, int]:
    decider = replace(SUM, snapshots=Snapshots(every=7))
    streams = [f"conformance-{seed}.{number}" for number in range(STREAMS)]
    answers: dict[UUID, tuple[str, Decision[Sum]]] = {}
    cut_off = heard_count = 0

    async def work(worker: int) -> None:
        nonlocal cut_off, heard_count
        chance, ids = random.Random(f"{seed}-{worker}"), SeededRandomness(seed * 1_000 + worker)
        async with Database(dsn) as database:
            store, snapshots, cache = PostgresEventStore(database), PostgresSnapshotStore(database), StreamCache(streams_max=2)
            for number in range(COMMANDS_EACH):
                command_id, stream = ids.uuid7(), chance.choice(streams)
                command = Add(chance.randint(1, 3), f"{worker}.{number}")
                heard: list[Decision[Sum]] = []
                while len(heard) < 2:
                    try:
                        heard.append(
                            await decide(store, REGISTRY, decider, stream, command, command_id=command_id, snapshots=snapshots, cache=cache)
                        )
                        heard_count += 1
                    except StorageUnavailable:
                        cut_off += 1
                assert heard[0] == heard[1]
                answers[command_id] = (stream, heard[0])

    async def kill(connection: asyncpg.Connection) -> None:
        """One server process for every few answers, so that there is always progress; rather one that is at work."""
        chance = random.Random(f"{seed} kills")
        while True:
            enough = heard_count + chance.randint(1, 4)
            await eventually(lambda enough=enough: heard_count >= enough, timeout=120)
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
                "AND application_name = 'headwater' ORDER BY state = 'active' DESC, random() LIMIT 1"
            )

    connection = await asyncpg.connect(dsn)
    killer = asyncio.create_task(kill(connection))
    try:
        await asyncio.gather(*(work(worker) for worker in range(WORKERS)))
    finally:
        killer.cancel()
        await asyncio.wait([killer])
        connection.terminate()
    event_count = await _check(dsn, streams, answers)
    return {"commands": len(answers), "events": event_count, "cut_off": cut_off}


async def _check(dsn: str, streams: list[str], answers: dict[UUID, tuple[str, Decision[Sum]]]) -> int:
    """Every command's events stand once in its stream, as it was answered, and its state is the fold up to them."""
    event_count = 0
    async with Database(dsn) as database:
        store, snapshots = PostgresEventStore(database), PostgresSnapshotStore(database)
        for stream in streams:
            states, by_command = [Sum()], dict[str, list[Added]]()
            async for recorded in store.read_stream(stream):
                event = REGISTRY.decode(recorded)
                assert isinstance(event, Added)
                states.append(SUM.evolve(states[-1], event))
                by_command.setdefault(recorded.metadata["command_id"], []).append(event)
            expected = {str(command_id): decision for command_id, (name, decision) in answers.items() if name == stream}
            assert {command_id: tuple(events) for command_id, events in by_command.items()} == {
                command_id: decision.events for command_id, decision in expected.items()
            }
            for decision in expected.values():
                assert decision.result is not None
                assert decision.state == states[decision.result.version]
            snapshot = await snapshots.load(stream, "sum")
            assert snapshot is None or snapshot.version < len(states)
            event_count += len(states) - 1
    return event_count

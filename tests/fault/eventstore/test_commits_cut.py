"""A commit cut off before or after the server sees it: the caller hears that nobody knows, and repeating it answers as the first would have."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from headwater.errors import StorageUnavailable
from headwater.eventstore import PostgresEventStore
from headwater.messages import AppendResult, NewEvent
from headwater.postgres import Database
from headwater.testing import PostgresProxy
from headwater.testing.leftovers import nobody_connected, nothing_left_open
from headwater.testing.postgres_proxy import Cut, Statement
from tests.fault.eventstore import appending_process
from tests.fault.eventstore.append_scenarios import new_events, stored_ids

STREAM = "cut-1"


class AtTheCommit:
    """Cuts the first statement that commits: the caller's COMMIT, or the append that is a transaction by itself."""

    def __init__(self, cut: Cut, in_transaction: bool) -> None:
        self.cut, self.in_transaction = cut, in_transaction

    def __call__(self, statement: Statement) -> Cut | None:
        return self.cut if (statement.text == "COMMIT;" if self.in_transaction else is_append(statement)) else None


def is_append(statement: Statement) -> bool:
    return ("headwater.append_" in statement.text or "headwater.try_append_" in statement.text) and not statement.text.startswith("prepare")


async def append(store: PostgresEventStore, database: Database, events: list[NewEvent], in_transaction: bool) -> AppendResult:
    if not in_transaction:
        return await store.append(STREAM, events, expected_version=0)
    async with database.transaction() as connection:
        return await store.append(STREAM, events, expected_version=0, connection=connection)


@pytest.mark.parametrize("in_transaction", [False, True], ids=["own commit", "caller's commit"])
@pytest.mark.parametrize("cut", list(Cut))
async def test_cut_commit_is_unknown_and_repeats_to_the_first_result(postgres_dsn: str, cut: Cut, in_transaction: bool) -> None:
    events = new_events(3)
    ids = [event.event_id for event in events]
    plan = AtTheCommit(cut, in_transaction)
    async with PostgresProxy(postgres_dsn, plan=plan) as proxy, Database(proxy.dsn) as database, Database(postgres_dsn) as direct:
        store = PostgresEventStore(database)
        with pytest.raises(StorageUnavailable, match=r"repeat|reached"):
            await append(store, database, events, in_transaction)
        assert proxy.cut_at is not None
        async with direct.connection() as observer:
            await nothing_left_open(observer)
        stored = await stored_ids(direct, STREAM)
        if cut is Cut.AFTER:
            assert stored in ([], ids)
        else:
            assert stored == ([] if cut is Cut.BEFORE else ids)
        position = max((event.global_position for event in (await PostgresEventStore(direct).read_log(after=0)).events), default=None)

        repeated = await append(store, database, events, in_transaction)

        assert (repeated.stream_name, repeated.version) == (STREAM, 3)
        assert position in {None, repeated.global_position}, "the repetition answers otherwise than the first"
        assert await append(store, database, events, in_transaction) == repeated
        assert await stored_ids(direct, STREAM) == ids


@pytest.mark.parametrize(("cut", "is_stored"), [(Cut.BEFORE, False), (Cut.REPLY_LOST, True)], ids=["before", "reply lost"])
@pytest.mark.parametrize("in_transaction", [False, True], ids=["own commit", "caller's commit"])
@pytest.mark.parametrize("is_real", [True, False], ids=["SIGKILL", "as the crash points do it"])
async def test_real_kill_leaves_what_the_tools_kill_leaves(
    postgres_dsn: str, cut: Cut, is_stored: bool, in_transaction: bool, is_real: bool
) -> None:
    """The crash points close a client's sockets instead of killing a process; what the server is left with is the same."""
    events = new_events(2)
    plan = AtTheCommit(cut, in_transaction)
    process: subprocess.Popen[bytes] | None = None

    def kill() -> None:
        if process is not None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()

    async with PostgresProxy(postgres_dsn, plan=plan, kills=True, on_cut=kill) as proxy, Database(postgres_dsn) as direct:
        arguments = [proxy.dsn, STREAM, "transaction" if in_transaction else "own", *(str(event.event_id) for event in events)]
        if is_real:
            process = subprocess.Popen([sys.executable, appending_process.__file__, *arguments])
            await asyncio.wait_for(proxy.was_cut.wait(), 60)
            assert process.returncode == -signal.SIGKILL
        else:
            with pytest.raises(StorageUnavailable):
                await appending_process.append(*arguments[:3], [event.event_id for event in events])
        async with direct.connection() as observer:
            await nothing_left_open(observer)
            await nobody_connected(observer, appending_process.NAME)
        assert await stored_ids(direct, STREAM) == ([event.event_id for event in events] if is_stored else [])
        await append(PostgresEventStore(direct), direct, events, in_transaction)
        assert await stored_ids(direct, STREAM) == [event.event_id for event in events]


async def test_server_that_goes_away_during_the_commits_of_many_loses_nothing(postgres_dsn: str) -> None:
    """All connections break at once, three times, while 20 callers append; each repeats until it is answered, and is stored once."""
    appends = {f"cut-{number}": new_events(2) for number in range(20)}
    cuts = 0

    def cut_some(statement: Statement) -> None:
        nonlocal cuts
        if is_append(statement) and cuts < 3:
            cuts += 1
            asyncio.get_running_loop().call_soon(proxy.cut_all)

    async with PostgresProxy(postgres_dsn, plan=cut_some) as proxy, Database(proxy.dsn, connections_max=6) as database:
        store = PostgresEventStore(database)

        async def insist(stream_name: str) -> AppendResult:
            while True:
                try:
                    return await store.append(stream_name, appends[stream_name], expected_version=0)
                except StorageUnavailable:
                    continue

        results = await asyncio.gather(*(insist(stream_name) for stream_name in appends))
        assert cuts == 3
        for result in results:
            ids = [event.event_id for event in appends[result.stream_name]]
            assert (await stored_ids(database, result.stream_name), result.version) == (ids, 2)

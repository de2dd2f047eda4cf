import asyncio
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from headwater.embedded import EmbeddedPostgres, bin_directory
from headwater.errors import StorageError, StorageUnavailable, UsageError


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


async def ask(dsn: str, sql: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def do(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_it_is_postgresql_18_with_durable_settings(server: EmbeddedPostgres) -> None:
    assert str(await ask(server.dsn, "SHOW server_version")).startswith("18.")
    for name in ("fsync", "synchronous_commit", "full_page_writes"):
        assert server.settings[name] == "on"
        assert await ask(server.dsn, f"SHOW {name}") == "on"
    assert await ask(server.dsn, "SHOW max_prepared_transactions") == "64"
    assert await ask(server.dsn, "SHOW listen_addresses") == "127.0.0.1"


def test_stop_leaves_no_process_and_no_folder() -> None:
    server = EmbeddedPostgres()
    server.stop()
    server.start()
    pid, folder = server.pid, server.log.parent
    assert server.start().pid == pid  # it runs already
    server.stop()
    server.stop()
    assert not server.running
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(UsageError, match="start"):
        _ = server.dsn
    with pytest.raises(UsageError, match="does not run"):
        server.kill()


async def test_settings_are_put_over_the_defaults() -> None:
    with EmbeddedPostgres(settings={"max_connections": "17", "application_name": "it's \\ quoted"}) as server:
        assert await ask(server.dsn, "SHOW max_connections") == "17"
        assert await ask(server.dsn, "SHOW max_prepared_transactions") == "64"


async def test_committed_data_and_prepared_transactions_survive_crashes(server: EmbeddedPostgres) -> None:
    dsn, pid = server.dsn, server.pid
    await do(dsn, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (1)", "BEGIN; INSERT INTO kept VALUES (2); PREPARE TRANSACTION 'p'")
    server.crash_restart()
    assert (server.dsn, server.pid != pid) == (dsn, True)
    assert await ask(dsn, "SELECT gid FROM pg_prepared_xacts") == "p"
    await do(dsn, "COMMIT PREPARED 'p'")
    server.kill()
    assert not server.running
    with pytest.raises(OSError, match=r"refused|Connect"):
        await ask(dsn, "SELECT 1")
    server.start()
    assert server.dsn == dsn
    assert await ask(dsn, "SELECT sum(n) FROM kept") == 3


async def test_a_busy_server_is_killed_with_all_its_processes(server: EmbeddedPostgres) -> None:
    """A backend in the middle of a query does not notice by itself that its postmaster is gone."""
    connection = await asyncpg.connect(server.dsn)
    backend = connection.get_server_pid()
    query = asyncio.create_task(connection.execute("SELECT count(*) FROM generate_series(1, 1000000000)"))
    watcher = await asyncpg.connect(server.dsn)
    while await watcher.fetchval("SELECT state FROM pg_stat_activity WHERE pid = $1", backend) != "active":
        pass
    server.kill()
    assert not alive(backend)
    with pytest.raises((OSError, asyncpg.PostgresError)):
        await query
    watcher.terminate()
    connection.terminate()


async def test_a_paused_server_answers_after_it_is_resumed(server: EmbeddedPostgres) -> None:
    server.pause()
    answer = asyncio.create_task(ask(server.dsn, "SELECT 1"))
    assert not (await asyncio.wait([answer], timeout=0.2))[0]
    server.resume()
    assert await answer == 1


def test_a_paused_server_can_be_stopped() -> None:
    with EmbeddedPostgres() as server:
        folder = server.log.parent
        server.pause()
    assert not folder.exists()


async def test_databases_are_made_from_templates_and_dropped(server: EmbeddedPostgres) -> None:
    first = server.create_database('first "quoted" / name')
    await do(first, "CREATE TABLE t AS SELECT 7 AS n")
    second = server.create_database("second", template='first "quoted" / name')
    assert await ask(second, "SELECT n FROM t") == 7
    with pytest.raises(StorageError, match="already exists"):
        server.create_database("second")
    with pytest.raises(StorageError, match="does not exist"):
        server.create_database("third", template="nowhere")
    connection = await asyncpg.connect(second)
    server.drop_database("second")
    server.drop_database("second")
    assert await ask(server.dsn, "SELECT count(*) FROM pg_database WHERE datname = 'second'") == 0
    connection.terminate()


async def test_the_callers_folder_is_kept() -> None:
    folder = Path(tempfile.mkdtemp(prefix="headwater-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    try:
        with EmbeddedPostgres(folder / "kept") as server:
            await do(server.dsn, "CREATE TABLE t AS SELECT 7 AS n")
        with EmbeddedPostgres(folder / "kept") as server:
            assert await ask(server.dsn, "SELECT n FROM t") == 7
            with pytest.raises(StorageUnavailable, match=r"postmaster\.pid"):
                EmbeddedPostgres(folder / "kept").start()  # one server at a time
            assert await ask(server.dsn, "SELECT n FROM t") == 7
    finally:
        shutil.rmtree(folder)


def test_a_start_that_fails_shows_the_log_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", tempfile.mkdtemp(prefix="headwater-test-", dir="/var/tmp"))
    own = Path(tempfile.gettempdir())
    own.chmod(0o755)
    with pytest.raises(StorageUnavailable, match=r'(?s)ended while starting.*"shared_buffers": "nonsense"'):
        EmbeddedPostgres(settings={"shared_buffers": "nonsense"}).start()
    own.rmdir()  # refuses unless empty


def test_a_port_taken_meanwhile_is_exchanged_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    from headwater.embedded import postgres

    with EmbeddedPostgres() as first:
        offered = iter([first.port, first.port])
        real = postgres.free_ports
        monkeypatch.setattr(postgres, "free_ports", lambda count: [port] if (port := next(offered, 0)) else real(count))
        with EmbeddedPostgres() as second:
            assert second.port != first.port


async def test_servers_started_at_once_do_not_meet() -> None:
    servers = [EmbeddedPostgres() for _ in range(3)]
    threads = [threading.Thread(target=server.start) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert len({server.port for server in servers}) == 3
        for server in servers:
            assert await ask(server.dsn, "SELECT inet_server_port()") == server.port
    finally:
        for server in servers:
            server.stop()


def test_the_programs_are_there() -> None:
    assert {"psql", "pg_dump", "pgbench"} <= {program.name for program in bin_directory().iterdir()}

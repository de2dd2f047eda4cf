"""Both servers at once, and what is left when the process that started them is gone: nothing."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from headwater.embedded import EmbeddedPostgres, EmbeddedServers, start_embedded
from headwater.embedded.kafka_node import brokers_in_service
from headwater.embedded.process import children

UP = "import sys; from headwater.embedded import run_up; sys.exit(run_up(json_output={json}))"
START_BOTH = """
import time
from headwater.embedded import start_embedded
servers = start_embedded()
print(servers.postgres.pid, servers.postgres.log.parent, servers.kafka.nodes[0].pid, servers.kafka.nodes[0].folder.parent.parent, flush=True)
time.sleep(1000)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def eventually(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@contextmanager
def python(program: str, *, new_session: bool = False) -> Iterator[subprocess.Popen[str]]:
    command: Sequence[str] = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=new_session) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_killed_process_leaves_no_server_and_no_folder() -> None:
    with python(START_BOTH) as starter:
        assert starter.stdout is not None
        postgres_pid, postgres_folder, kafka_pid, kafka_folder = starter.stdout.readline().split()
        pids = [int(postgres_pid), int(kafka_pid), *children(int(postgres_pid))]
        folders = [Path(postgres_folder), Path(kafka_folder)]
        assert len(pids) > 4
        assert all(map(alive, pids))
        assert all(folder.is_dir() for folder in folders)
        starter.kill()
        assert eventually(lambda: not any(map(alive, pids)) and not any(folder.exists() for folder in folders))


async def test_both_are_started_without_blocking_the_loop() -> None:
    async with EmbeddedServers() as servers:
        assert servers.running
        assert servers.postgres is not None
        assert servers.kafka is not None
        connection = await asyncpg.connect(servers.postgres.dsn)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
        assert brokers_in_service(servers.kafka.nodes[0].port) == {1}
    assert not servers.running


async def test_a_cancelled_start_leaves_nothing() -> None:
    servers = EmbeddedServers(kafka=False)
    starting = asyncio.create_task(servers.__aenter__())
    await asyncio.sleep(0.05)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert await asyncio.to_thread(eventually, lambda: not servers.running)


def test_one_that_fails_takes_the_other_along(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[EmbeddedPostgres] = []
    real = EmbeddedPostgres.start

    def start(self: EmbeddedPostgres) -> EmbeddedPostgres:
        started.append(self)
        return real(self)

    def refuse(_self: object) -> None:
        raise RuntimeError("no broker today")

    monkeypatch.setattr(EmbeddedPostgres, "start", start)
    monkeypatch.setattr("headwater.embedded.EmbeddedKafka.start", refuse)
    with pytest.raises(RuntimeError, match="no broker today"):
        start_embedded()
    assert not started[0].running


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_up_says_where_they_are_in_one_line_and_ends_cleanly(ending: signal.Signals) -> None:
    with python(UP.format(json=True), new_session=True) as up:
        assert up.stdout is not None
        addresses = json.loads(up.stdout.readline())
        assert set(addresses) == {"postgres", "kafka"}
        host, port = addresses["kafka"].split(":")
        assert host == "127.0.0.1"
        assert brokers_in_service(int(port)) == {1}

        async def ask() -> object:
            connection = await asyncpg.connect(addresses["postgres"])
            try:
                return await connection.fetchval("SELECT 1")
            finally:
                await connection.close()

        assert asyncio.run(ask()) == 1
        os.killpg(up.pid, ending)  # as a terminal does: the servers are in sessions of their own
        rest, errors = up.communicate(timeout=30)
        assert (up.returncode, rest, errors) == (0, "", "")
        assert brokers_in_service(int(port)) == set()


def test_up_tells_people_how_to_use_them() -> None:
    with python(UP.format(json=False)) as up:
        assert up.stdout is not None
        text = "".join(iter(up.stdout.readline, "Ctrl-C stops both. Their data goes with them.\n"))
        assert "export HEADWATER_POSTGRES=postgresql://postgres@127.0.0.1:" in text
        assert "export HEADWATER_KAFKA=127.0.0.1:" in text
        psql = next(line.split() for line in text.splitlines() if "psql " in line)
        done = subprocess.run([*psql, "-Atc", "SELECT 6 * 7"], capture_output=True, text=True, check=True)
        assert done.stdout == "42\n"
        up.send_signal(signal.SIGINT)
        assert up.wait(30) == 0


def test_up_told_to_stop_while_starting_ends_cleanly() -> None:
    with python(UP.format(json=True)) as up:
        assert eventually(lambda: len(children(up.pid)) >= 2)
        up.send_signal(signal.SIGINT)
        rest, _ = up.communicate(timeout=30)
        assert (up.returncode, rest) == (0, "")

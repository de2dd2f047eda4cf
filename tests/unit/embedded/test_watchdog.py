"""The promise that no server outlives its starter, shown on small shell programs in the servers' place."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headwater.embedded.process import ServerProcess, children
from headwater.embedded.watchdog import Watchdog
from headwater.errors import UsageError

FOREVER = ["/bin/sh", "-c", "sleep 1000 & sleep 1000"]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def programs(pids: list[int]) -> list[str]:
    """What the processes run; a child seen before its exec may still share its parent's memory, and its stop would stop both."""
    return [Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids]


def eventually(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def watchdog(folder: Path) -> Iterator[Watchdog]:
    watchdog = Watchdog(folder, end_signal="KILL", remove_folder=True)
    yield watchdog
    watchdog.close()


def launch(watchdog: Watchdog, folder: Path, command: list[str] = FOREVER) -> ServerProcess:
    return ServerProcess(watchdog, command, folder=folder, log=folder / "log", environment=os.environ)


def test_closing_ends_the_server_and_removes_the_folder(watchdog: Watchdog, folder: Path) -> None:
    server = launch(watchdog, folder)
    assert eventually(lambda: programs(children(server.pid)) == ["sleep", "sleep"])
    family = [server.pid, *children(server.pid)]
    watchdog.close()
    watchdog.close()
    assert not any(map(alive, family))
    assert not folder.exists()
    assert server.ended()


def test_nothing_starts_under_a_closed_watchdog(watchdog: Watchdog, tmp_path: Path) -> None:
    watchdog.close()
    with pytest.raises(UsageError, match="stopped while"):
        launch(watchdog, tmp_path, ["/bin/sh", "-c", "echo ran > ran"])
    assert not (tmp_path / "ran").exists()


def test_kept_folders_stay(folder: Path) -> None:
    watchdog = Watchdog(folder, end_signal="KILL", remove_folder=False)
    server = launch(watchdog, folder)
    watchdog.close()
    assert folder.exists()
    assert server.ended()


def test_a_server_that_ended_by_itself_is_forgotten(watchdog: Watchdog, folder: Path) -> None:
    """Its process id may belong to someone else by the time the watchdog acts."""
    server = launch(watchdog, folder, ["/bin/sh", "-c", "exit 3"])
    assert server.wait(10)
    watchdog.close()
    assert not folder.exists()


def test_a_server_that_ignores_the_polite_signal_is_killed(folder: Path) -> None:
    server_ready = folder.parent / "ready"
    watchdog = Watchdog(folder, end_signal="QUIT", remove_folder=True)
    server = launch(watchdog, folder, ["/bin/sh", "-c", f"trap '' QUIT; echo > {server_ready}; while :; do sleep 1; done"])
    assert eventually(server_ready.exists)
    assert not server.end(signal.SIGQUIT, timeout_seconds=0.3)
    assert server.ended()
    watchdog.close()
    assert not folder.exists()


def test_pause_and_resume_reach_every_process(watchdog: Watchdog, folder: Path) -> None:
    server = launch(watchdog, folder)
    assert eventually(lambda: programs(children(server.pid)) == ["sleep", "sleep"])
    family = [server.pid, *children(server.pid)]

    def states() -> set[str]:
        return {Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] for pid in family}

    server.pause()
    assert eventually(lambda: states() == {"T"})
    server.resume()
    assert eventually(lambda: states() == {"S"})
    server.pause()
    server.kill()
    assert not any(map(alive, family))


STARTER = """
import os, pathlib, sys, time
from headwater.embedded.process import ServerProcess
from headwater.embedded.watchdog import Watchdog
folder = pathlib.Path(sys.argv[1])
watchdog = Watchdog(folder, end_signal="QUIT", remove_folder=True)
server = ServerProcess(watchdog, ["/bin/sleep", "1000"], folder=folder, log=folder / "log", environment=os.environ)
forked = os.fork() if sys.argv[2] == "fork" else 0
if sys.argv[2] == "fork" and forked == 0:
    time.sleep(1000)
print(server.pid, forked, flush=True)
if sys.argv[2] == "pause": server.pause()
if sys.argv[2] == "exit": sys.exit(0)
time.sleep(1000)
"""


@pytest.mark.parametrize("manner", ["kill", "fork", "pause", "exit", "interrupt"])
def test_the_server_goes_with_its_starter(folder: Path, manner: str) -> None:
    """Also when a forked copy of the starter lives on, and when the server is frozen at that moment."""
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, str(folder), manner], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as starter:
        assert starter.stdout is not None
        server_pid, forked_pid = map(int, starter.stdout.readline().split())
        try:
            if manner != "exit":
                assert alive(server_pid)
                starter.send_signal(signal.SIGINT if manner == "interrupt" else signal.SIGKILL)
            assert eventually(lambda: not alive(server_pid) and not folder.exists())
            assert manner != "fork" or alive(forked_pid)
        finally:
            starter.kill()
            if forked_pid:
                os.kill(forked_pid, signal.SIGKILL)

"""One server process: started under a watchdog, and then ended, stalled or crashed on purpose."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from headwater.clock import SYSTEM_CLOCK, blocking_sleep
from headwater.embedded.watchdog import Account, Watchdog

POLL_INTERVAL_SECONDS = 0.01
KILL_TIMEOUT_SECONDS = 10.0
LOG_TAIL_BYTES = 3_000


class ServerProcess:
    """A running server and the processes it started itself."""

    def __init__(
        self,
        watchdog: Watchdog,
        command: Sequence[str],
        *,
        folder: Path,
        log: Path,
        environment: Mapping[str, str],
        account: Account | None = None,
    ) -> None:
        self._watchdog = watchdog
        self._popen = watchdog.spawn(command, folder=folder, log=log, environment=environment, account=account)
        self._released = False

    @property
    def pid(self) -> int:
        """The id of the first process, which is also its group's."""
        return self._popen.pid

    def ended(self) -> bool:
        """True once the first process has ended, by itself or by us."""
        if self._popen.poll() is None:
            return False
        if not self._released:
            self._released = True
            self._watchdog.release(self.pid)
        return True

    def kill(self) -> None:
        """Crash: every process of this server is gone when this returns, none of them had a say."""
        if self.ended():
            return
        self._signal(self.pid, signal.SIGSTOP)  # So that it starts no child behind our back.
        family = [self.pid, *children(self.pid)]
        for pid in family:
            self._signal(pid, signal.SIGKILL)
        self.wait(KILL_TIMEOUT_SECONDS)
        deadline = SYSTEM_CLOCK.monotonic() + KILL_TIMEOUT_SECONDS
        while any(_alive(pid) for pid in family[1:]) and SYSTEM_CLOCK.monotonic() < deadline:
            blocking_sleep(POLL_INTERVAL_SECONDS)

    def end(self, with_signal: signal.Signals, *, timeout_seconds: float) -> bool:
        """Ask it to end, and kill it if it has not by then; False if it had to be killed."""
        if self.ended():
            return True
        self._signal(self.pid, with_signal)
        self.resume()
        if self.wait(timeout_seconds):
            return True
        self.kill()
        return False

    def pause(self) -> None:
        """Stop the clock for every process of this server, as a long stall or a suspended machine would."""
        if not self.ended():
            self._signal(self.pid, signal.SIGSTOP)
            for pid in children(self.pid):
                self._signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause()`."""
        if not self.ended():
            for pid in children(self.pid):
                self._signal(pid, signal.SIGCONT)
            self._signal(self.pid, signal.SIGCONT)

    def wait(self, timeout_seconds: float) -> bool:
        """Wait for the first process to end; False if it has not by then."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout_seconds)
        return self.ended()

    @staticmethod
    def _signal(pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def run_to_end(
    command: Sequence[str], *, environment: Mapping[str, str], timeout_seconds: float, account: Account | None = None
) -> str | None:
    """Run a program that does one thing and ends: None when it did, else what it said."""
    try:
        done = subprocess.run(
            command,
            cwd="/",
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            check=False,
            user=account.user_id if account else None,
            group=account.group_id if account else None,
            extra_groups=[] if account else None,
        )
    except subprocess.TimeoutExpired:
        return f"{Path(command[0]).name} did not end within {timeout_seconds:.0f} s"
    if done.returncode == 0:
        return None
    return (done.stderr or done.stdout).strip()[-LOG_TAIL_BYTES:] or f"{Path(command[0]).name} failed with status {done.returncode}"


def children(pid: int) -> list[int]:
    """The ids of the processes that this one started and that still run."""
    if not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists():  # not Linux
        listing = subprocess.run(["ps", "-A", "-o", "pid=", "-o", "ppid="], capture_output=True, text=True, check=False).stdout
        pairs = (line.split() for line in listing.splitlines())
        return [int(child) for child, parent in pairs if int(parent) == pid]
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except OSError:  # It ended just now.
        return []


def log_tail(log: Path) -> str:
    """The end of a server's log, for an error message; empty if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _alive(pid: int) -> bool:
    """True unless the process is gone or a zombie, which nobody here can reap."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:  # No /proc on this system: the signal was accepted, so it exists. Or it went away between the two lines.
        return not Path("/proc/self").exists()

"""The promise that no server outlives the process that started it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from headwater.errors import UsageError

CLOSE_TIMEOUT_SECONDS = 30.0
"""Longer than the watchdog's own worst case: 8 s for a polite end, 5 s for a forced one, then removing the folder."""

# The server's program starts only when told to, which happens after the watchdog knows its pid. If this process dies in between, `read`
# meets the end of the pipe and the program never starts: there is no moment at which a server runs unguarded.
_LAUNCH = 'read -r word && [ "$word" = go ] && exec "$@" </dev/null'

_SCRIPT = resources.files("headwater.embedded").joinpath("watchdog.sh").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Account:
    """The operating system's user that a server runs as."""

    name: str
    user_id: int
    group_id: int


class Watchdog:
    """Guards the servers of one folder: ends them and removes the folder when this process ends or calls `close()`.

    Safe to use from several threads. A forked copy of this process guards nothing: there, `close()` does nothing.
    """

    def __init__(self, folder: Path, *, end_signal: Literal["QUIT", "KILL"], remove_folder: bool) -> None:
        self._owner_pid = os.getpid()
        read_end, self._pipe = os.pipe()  # Not inheritable, so no program started from here keeps it open.
        try:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "watchdog", end_signal, str(folder), "remove" if remove_folder else "keep"],
                stdin=read_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(read_end)
        self._closed = False
        _open_watchdogs.add(self)

    @property
    def closed(self) -> bool:
        """True once nothing more can be started under it."""
        return self._closed

    def spawn(
        self, command: Sequence[str], *, folder: Path, log: Path, environment: Mapping[str, str], account: Account | None
    ) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own that ends with this process; its output is added to `log`.

        Raises:
            UsageError: the watchdog is closed; nothing was started.
        """
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _LAUNCH, "launch", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=dict(environment),
                start_new_session=True,
                user=account.user_id if account else None,
                group=account.group_id if account else None,
                extra_groups=[] if account else None,
            )
        assert process.stdin is not None
        try:
            self._tell(f"guard {process.pid}\n")
            process.stdin.write(b"go\n")
            process.stdin.close()
        except BaseException:
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.kill()
            process.wait()
            raise
        return process

    def release(self, pid: int) -> None:
        """Forget a process that has ended and been reaped: its id may soon belong to someone else."""
        with contextlib.suppress(UsageError):
            self._tell(f"release {pid}\n")

    def close(self) -> None:
        """End what is guarded, remove the folder, and wait for both. Safe twice."""
        if self._closed or os.getpid() != self._owner_pid:
            return
        self._closed = True
        _open_watchdogs.discard(self)
        os.close(self._pipe)
        self._shell.wait(CLOSE_TIMEOUT_SECONDS)

    def _tell(self, line: str) -> None:
        try:
            if self._closed:
                raise UsageError("the server was stopped while it was being started")
            os.write(self._pipe, line.encode())
        except OSError as error:  # Somebody killed the watchdog, or closed it in this very moment.
            raise UsageError(f"the watchdog of an embedded server is gone: {error}") from error

    def abandon(self) -> None:
        """Let go of the pipe without a word; for a forked copy of this process, which guards nothing."""
        self._closed = True
        with contextlib.suppress(OSError):
            os.close(self._pipe)


_open_watchdogs: weakref.WeakSet[Watchdog] = weakref.WeakSet()


def _close_pipes_in_fork() -> None:
    # A forked child (multiprocessing) would otherwise keep the servers alive for as long as it lives itself.
    for watchdog in list(_open_watchdogs):
        watchdog.abandon()
    _open_watchdogs.clear()


os.register_at_fork(after_in_child=_close_pipes_in_fork)

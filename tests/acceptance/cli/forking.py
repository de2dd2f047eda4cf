"""Commands as processes that need not import everything anew: a parent that has, and forks one for each.

Whoever looks at how a command starts, or sends it signals, starts the program itself (`Command.start`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

COMMAND_SECONDS_MAX = 90
"""A command that hangs is killed after this."""
_IMPORTED_FIRST = (
    "aiokafka", "asyncpg", "fastavro", "rich.console", "rich.live", "rich.table", "structlog", "uvloop", "yaml",
    "headwater.bus", "headwater.cli.app", "headwater.config", "headwater.kafka", "headwater.projections", "headwater.schemas", "headwater.service",
)  # fmt: skip


class ForkedHeadwater:
    """Runs `headwater …` in forked processes."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._folder = TemporaryDirectory()

    def run(self, arguments: tuple[str, ...], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """The same as a process of its own would print and end with."""
        out, err = (Path(self._folder.name) / name for name in ("stdout", "stderr"))
        request = {"arguments": arguments, "folder": str(folder), "environment": environment, "stdout": str(out), "stderr": str(err)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        return subprocess.CompletedProcess(["headwater", *arguments], status, out.read_text(), err.read_text())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        self._folder.cleanup()


def _serve() -> None:
    for name in _IMPORTED_FIRST:
        __import__(name)
    while line := sys.stdin.readline():
        request = json.loads(line)
        child = os.fork()
        if not child:
            _become(request)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(request: dict[str, Any]) -> None:
    """Be that command, and end."""
    status = 1
    signal.alarm(COMMAND_SECONDS_MAX)
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = ["headwater", *request["arguments"]]
        from headwater.cli import main

        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as an interpreter does with what gets out
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    sys.path.pop(0)
    _serve()

"""Servers that Headwater does not bring along: an older PostgreSQL, and PgBouncer, as Debian packages them.

They run at full count (`make test-full`), where a missing program fails the test.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from unittest.mock import patch

import pytest

from headwater.clock import SYSTEM_CLOCK, blocking_sleep
from headwater.embedded import EmbeddedPostgres
from headwater.embedded import postgres as embedded_postgres
from headwater.embedded.ports import free_ports
from headwater.embedded.postgres_files import PostgresFiles, server_account
from tests.support import FULL

POSTGRES_15 = Path("/usr/lib/postgresql/15/bin")
START_SECONDS_MAX = 20.0


at_full_count = pytest.mark.skipif(not FULL, reason="runs in make test-full: it needs programs of Debian's")


def require(program: Path | str | None, package: str) -> Path:
    """The program's path; fails where the machine has none."""
    if program is not None and (path := Path(program)).exists():
        return path
    pytest.fail(f"this machine has no {package}: apt-get install --no-install-recommends {package}")


@dataclass(frozen=True, slots=True)
class _OlderFiles(PostgresFiles):
    def make_data_folder(self, data: Path) -> None:
        options = ("--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync")
        self._run([str(self.programs / "initdb"), "--pgdata", str(data), *options])


class OlderPostgres(EmbeddedPostgres):
    """A server from the programs of another PostgreSQL."""

    def __init__(self, programs: Path, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(settings={"fsync": "off", "full_page_writes": "off", **(settings or {})})
        self._programs = programs

    def _start_new(self) -> None:
        files = _OlderFiles(self._programs, self._programs, server_account())
        with patch.object(embedded_postgres, "install_postgres", lambda: files):
            super()._start_new()


@contextmanager
def pgbouncer(program: Path, postgres_port: int, *, options: str = "") -> Iterator[int]:
    """PgBouncer in transaction mode, with fewer server connections than it has clients; gives its port."""
    account = server_account()
    folder = Path(mkdtemp(prefix="headwater-pgbouncer-", dir="/tmp"))
    (port,) = free_ports(1)
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = host=127.0.0.1 port={postgres_port} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n"
        f"default_pool_size = 3\nmax_client_conn = 200\n{options}\n",
        encoding="utf-8",
    )
    if account is not None:
        for path in (folder, config):
            os.chown(path, account.user_id, account.group_id)
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [program, str(config)],
        stdout=log,
        stderr=subprocess.STDOUT,
        user=None if account is None else account.user_id,
        group=None if account is None else account.group_id,
        extra_groups=None if account is None else [],
    )
    try:
        _await_port(port, process, folder / "log")
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_SECONDS_MAX)
        log.close()
        shutil.rmtree(folder)


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = SYSTEM_CLOCK.monotonic() + START_SECONDS_MAX
    while SYSTEM_CLOCK.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        blocking_sleep(0.02)
    raise AssertionError(f"PgBouncer does not answer: {log.read_text(encoding='utf-8', errors='replace')}")

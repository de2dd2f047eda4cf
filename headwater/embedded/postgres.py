"""One PostgreSQL server of our own."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from headwater.clock import SYSTEM_CLOCK, blocking_sleep
from headwater.embedded.cache import installing, kept_folder, publish, run_folder
from headwater.embedded.ports import LOOPBACK, free_ports
from headwater.embedded.postgres_files import SUPERUSER, PostgresFiles, install_postgres, postgres_environment
from headwater.embedded.process import POLL_INTERVAL_SECONDS, ServerProcess, log_tail, run_to_end
from headwater.embedded.watchdog import Watchdog
from headwater.errors import StorageError, StorageUnavailable, UsageError

PORT_ATTEMPTS_MAX = 5
PORT_RETRY_SECONDS = 0.2
START_TIMEOUT_SECONDS = 120.0
"""Recovery after a crash counts as starting."""
STOP_TIMEOUT_SECONDS = 30.0
CRASH_TIMEOUT_SECONDS = 8.0
"""PostgreSQL itself kills what has not followed its own immediate shutdown after 5 s."""
COMMAND_TIMEOUT_SECONDS = 60.0

DEFAULT_SETTINGS: Mapping[str, str] = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    # Durable, as a real server would be: what the tests prove about crashes has to mean something.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_prepared_transactions": "64",
    "max_connections": "200",
    "shared_buffers": "128MB",
    # Parallel queries share memory through files of the data folder, which goes with the server; /dev/shm would keep them after a crash.
    "dynamic_shared_memory_type": "mmap",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}
_LOG_NAME = "server.log"
_ADDRESS_IN_USE = "Address already in use"
_PID_LINE, _STATUS_LINE = 0, 7


class EmbeddedPostgres:
    """A PostgreSQL 18 server on a free loopback port, with durable settings and `max_prepared_transactions=64`.

    Without `data_directory` each start from new begins with an empty server, and its files go when it stops. With it, the folder holds the
    server's data and log and is kept; one server at a time can use it. `settings` are put over the defaults.

    The calls block. One thread at a time may use it, except that `stop()` may come from any.
    """

    def __init__(self, data_directory: Path | str | None = None, settings: Mapping[str, str] | None = None) -> None:
        self.settings: Mapping[str, str] = {**DEFAULT_SETTINGS, **(settings or {})}
        self._kept_directory = None if data_directory is None else Path(data_directory)
        self._files: PostgresFiles | None = None
        self._folder: Path | None = None
        self._watchdog: Watchdog | None = None
        self._process: ServerProcess | None = None
        self._port: int | None = None

    # -- life --

    def start(self) -> Self:
        """Return once it accepts connections. Does nothing when it runs; after `kill()` it recovers, on the same port.

        Raises:
            ConfigurationError: the extra is not installed, or a folder is unfit.
            StorageUnavailable: it did not come up; the message ends with its log.
        """
        if self.running:
            return self
        try:
            if self._watchdog is None:
                self._start_new()
            else:
                self._launch_where_free(self._port)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End it; its files go too, unless the caller gave the folder. Safe twice, and while it starts."""
        watchdog, process = self._watchdog, self._process
        if process is not None and not process.ended():
            if self._kept_directory is not None and process.end(signal.SIGINT, timeout_seconds=STOP_TIMEOUT_SECONDS):
                pass  # A fast shutdown: clients are cut off, everything is written.
            else:
                process.end(signal.SIGQUIT, timeout_seconds=CRASH_TIMEOUT_SECONDS)
        if watchdog is not None:
            watchdog.close()
        self._watchdog = self._process = self._folder = self._port = None

    def kill(self) -> None:
        """Crash it: SIGKILL to all its processes. The files stay; `start()` recovers from them."""
        self._running_process().kill()

    def crash_restart(self) -> None:
        """An immediate shutdown, which tells clients and writes nothing, then a start with recovery on the same port."""
        self._running_process().end(signal.SIGQUIT, timeout_seconds=CRASH_TIMEOUT_SECONDS)
        self.start()

    def pause(self) -> None:
        """Freeze all its processes: connections stay open and nothing answers."""
        self._running_process().pause()

    def resume(self) -> None:
        """Go on after `pause()`."""
        self._running_process().resume()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    # -- facts --

    @property
    def running(self) -> bool:
        """True while its first process lives, be it paused."""
        return self._process is not None and not self._process.ended()

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        return self._running_process().pid

    @property
    def port(self) -> int:
        """Its port on 127.0.0.1; the same until `stop()`."""
        if self._port is None:
            raise UsageError("the embedded PostgreSQL has no address before start() and after stop()")
        return self._port

    @property
    def dsn(self) -> str:
        """The address of the database `postgres`, as its superuser."""
        return self.database_dsn("postgres")

    @property
    def log(self) -> Path:
        """The server's log file."""
        if self._folder is None:
            raise UsageError("the embedded PostgreSQL has no log before start() and after stop()")
        return self._folder / _LOG_NAME

    def database_dsn(self, name: str) -> str:
        """The address of a database on this server."""
        return f"postgresql://{SUPERUSER}@{LOOPBACK}:{self.port}/{quote(name, safe='')}"

    # -- databases --

    def create_database(self, name: str, template: str | None = None) -> str:
        """Make a database and return its address; as a copy of `template` when given, to which nobody may be connected meanwhile.

        Raises:
            StorageError: it exists, or the template is missing or in use.
        """
        self._run_program("createdb", *(("--template", template) if template else ()), "--", name)
        return self.database_dsn(name)

    def drop_database(self, name: str) -> None:
        """Remove a database with all that is in it, cutting off who is connected; nothing happens if there is none."""
        self._run_program("dropdb", "--if-exists", "--force", "--", name)

    def _run_program(self, program: str, *arguments: str) -> None:
        self._running_process()
        assert self._files is not None
        address = ("--host", LOOPBACK, "--port", str(self.port), "--username", SUPERUSER)
        complaint = run_to_end(
            [str(self._files.programs / program), *address, *arguments],
            environment=postgres_environment(),
            timeout_seconds=COMMAND_TIMEOUT_SECONDS,
        )
        if complaint is not None:
            raise (StorageError if self.running else StorageUnavailable)(complaint)

    # -- inside --

    def _start_new(self) -> None:
        self._files = files = install_postgres()
        kept = self._kept_directory
        self._folder = folder = run_folder("postgres", files.account) if kept is None else kept_folder(kept, files.account)
        self._watchdog = Watchdog(folder, end_signal="QUIT", remove_folder=kept is None)
        data = folder / "data"
        if kept is None:
            files.make_data_folder(data)
        else:
            with installing(data):
                if not data.exists():
                    publish(data, files.initialize_data_folder)
        self._launch_where_free(None)

    def _launch_where_free(self, port: int | None) -> None:
        """Start on this port, or on any; somebody may be quicker to bind it, if only to see whether it is free."""
        assert self._folder is not None
        log = self._folder / _LOG_NAME
        for attempts_left in reversed(range(PORT_ATTEMPTS_MAX)):
            self._port = port or free_ports(1)[0]
            try:
                return self._launch()
            except StorageUnavailable as error:
                if _ADDRESS_IN_USE not in str(error) or not attempts_left:
                    raise
                log.write_bytes(b"")  # So that the next failure is not taken for this one.
                blocking_sleep(PORT_RETRY_SECONDS if port else 0)
        return None

    def _launch(self) -> None:
        assert self._files is not None and self._folder is not None and self._watchdog is not None
        options = [f"--{name}={value}" for name, value in {**self.settings, "port": str(self.port)}.items()]
        self._process = process = ServerProcess(
            self._watchdog,
            [str(self._files.programs / "postgres"), "-D", str(self._folder / "data"), *options],
            folder=self._folder,
            log=self._folder / _LOG_NAME,
            environment=postgres_environment(),
            account=self._files.account,
        )
        self._await_ready(process, self._folder)

    @staticmethod
    def _await_ready(process: ServerProcess, folder: Path) -> None:
        deadline = SYSTEM_CLOCK.monotonic() + START_TIMEOUT_SECONDS
        while not _says_ready(folder / "data" / "postmaster.pid", process.pid):
            ended = process.ended()
            if ended or SYSTEM_CLOCK.monotonic() > deadline:
                what = "ended while starting" if ended else f"was not ready after {START_TIMEOUT_SECONDS:.0f} s"
                raise StorageUnavailable(f"the embedded PostgreSQL {what}; its log ends with:\n{log_tail(folder / _LOG_NAME)}")
            blocking_sleep(POLL_INTERVAL_SECONDS)

    def _running_process(self) -> ServerProcess:
        if self._process is None or self._process.ended():
            raise UsageError("the embedded PostgreSQL does not run; start() it first")
        return self._process


def _says_ready(pid_file: Path, pid: int) -> bool:
    """PostgreSQL's own word: it writes its state into its pid file, as `pg_ctl` also reads it."""
    try:
        lines = pid_file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    return len(lines) > _STATUS_LINE and lines[_PID_LINE].strip() == str(pid) and lines[_STATUS_LINE].strip() == "ready"

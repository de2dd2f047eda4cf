"""`headwater up`: both servers in the foreground, until it is told to stop."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import threading
from types import FrameType

import structlog

from headwater.embedded.kafka import EmbeddedKafka
from headwater.embedded.postgres import EmbeddedPostgres
from headwater.embedded.postgres_files import bin_directory
from headwater.embedded.servers import EmbeddedServers
from headwater.errors import BrokerUnavailable, StorageUnavailable
from headwater.telemetry import configure_logging

_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WATCH_INTERVAL_SECONDS = 0.5


def run_up(json_output: bool) -> int:
    """Start PostgreSQL and Kafka, say where they are, stop them on Ctrl-C or SIGTERM; returns the exit status, 0.

    Standard output gets a text for people or, with `json_output`, exactly one line `{"postgres": …, "kafka": …}`, once both are ready. Call it
    from the main thread.

    Raises:
        ConfigurationError, StorageUnavailable, BrokerUnavailable: a server did not start, or ended while it should run; none is left.
    """
    if not structlog.is_configured():
        configure_logging()  # To standard error; structlog's own default is standard output.
    told_to_stop = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        told_to_stop.set()

    before = {number: signal.signal(number, stop) for number in _ENDING_SIGNALS}
    servers = EmbeddedServers()
    try:
        if _start(servers, told_to_stop):
            assert servers.postgres is not None and servers.kafka is not None
            _say(servers.postgres, servers.kafka, json_output=json_output)
            _watch(servers, told_to_stop)
        return 0
    finally:
        servers.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(servers: EmbeddedServers, told_to_stop: threading.Event) -> bool:
    """Start both; False if told to stop meanwhile."""
    finished = threading.Event()
    failures: list[BaseException] = []

    def start() -> None:
        try:
            servers.start()
        except BaseException as failure:  # noqa: BLE001 - raised again below
            failures.append(failure)
        finally:
            finished.set()

    threading.Thread(target=start, name="start-servers", daemon=True).start()
    while not finished.wait(0.05):
        if told_to_stop.is_set():
            return False
    if failures and not told_to_stop.is_set():
        raise failures[0]
    return not told_to_stop.is_set()


def _watch(servers: EmbeddedServers, told_to_stop: threading.Event) -> None:
    while not told_to_stop.wait(_WATCH_INTERVAL_SECONDS):
        if servers.postgres is not None and not servers.postgres.running:
            raise StorageUnavailable("the embedded PostgreSQL ended by itself; Kafka was stopped as well. Start both again")
        if servers.kafka is not None and not servers.kafka.running:
            raise BrokerUnavailable("the embedded Kafka ended by itself; PostgreSQL was stopped as well. Start both again")


def _say(postgres: EmbeddedPostgres, kafka: EmbeddedKafka, *, json_output: bool) -> None:
    addresses = {"postgres": postgres.dsn, "kafka": kafka.bootstrap}
    text = json.dumps(addresses) if json_output else _text(**addresses)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _text(postgres: str, kafka: str) -> str:
    psql = shlex.quote(str(bin_directory() / "psql"))
    return f"""\
PostgreSQL 18   {postgres}
Kafka 4.4       {kafka}

Use them from another terminal:

  export HEADWATER_POSTGRES={postgres}
  export HEADWATER_KAFKA={kafka}
  {psql} {postgres}

Ctrl-C stops both. Their data goes with them."""

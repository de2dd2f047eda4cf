"""What the demo plays on: a database for each service, Kafka, and the services as processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg
from aiokafka import AIOKafkaConsumer

from headwater import Service
from headwater.config import Settings, load_settings, redact
from headwater.embedded import EmbeddedServers
from headwater.errors import HeadwaterError, UsageError
from headwater.postgres import Database, apply_migrations
from orders.evidence import TOPICS

EXAMPLES: Final = Path(__file__).resolve().parents[1]
DATABASE_PREFIX: Final = "headwater_demo_"
READY_FACT: Final = '"service_running"'
START_TIMEOUT_SECONDS: Final = 60.0
STOP_TIMEOUT_SECONDS: Final = 15.0
POLL_INTERVAL_SECONDS: Final = 0.05
LOG_LINES_SHOWN: Final = 15


class DemoFailed(HeadwaterError):
    """The demo could not come to its end; the message says what is missing and shows the services' last words."""


class TopicsInUse(UsageError):
    """The broker already has the demo's topics; whoever runs the demo removes them or gives another broker."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the servers are."""

    orders_dsn: str
    inventory_dsn: str
    kafka: str


@asynccontextmanager
async def open_stage() -> AsyncIterator[Stage]:
    """Embedded servers, or those that HEADWATER_POSTGRES and HEADWATER_KAFKA name, with a fresh, migrated database for each service."""
    settings = load_settings()
    if settings.kafka is not None:
        await _refuse_used_topics(settings.kafka)
    async with EmbeddedServers(postgres=settings.postgres is None, kafka=settings.kafka is None) as servers:
        server_dsn = settings.postgres or (servers.postgres.dsn if servers.postgres else "")
        kafka = settings.kafka or (servers.kafka.bootstrap if servers.kafka else "")
        orders_dsn, inventory_dsn = [await _fresh_database(server_dsn, name) for name in ("orders", "inventory")]
        yield Stage(orders_dsn, inventory_dsn, kafka)


def client_of(service: Service, dsn: str, kafka: str) -> Service:
    """The same service, seen from another process: its name and read models, without its handlers, at these servers."""
    client = Service(service.name, settings=Settings(postgres=dsn, kafka=kafka))
    for projection in service.projections.values():
        client.projection(projection)
    return client


async def _fresh_database(server_dsn: str, service_name: str) -> str:
    name = f"{DATABASE_PREFIX}{service_name}"
    async with Database(server_dsn, connections_max=1) as server, server.connection() as connection:
        try:
            await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            await connection.execute(f'CREATE DATABASE "{name}"')
        except asyncpg.InsufficientPrivilegeError as error:
            raise UsageError(f"the demo makes the database {name!r} at {redact(server_dsn)}, which its user may not: {error}") from error
    dsn = urlsplit(server_dsn)._replace(path=f"/{name}").geturl()
    async with Database(dsn, connections_max=1) as database, database.connection() as connection:
        await apply_migrations(connection)
    return dsn


async def _refuse_used_topics(kafka: str) -> None:
    """Somebody else's orders would be taken for the demo's."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka)
    await consumer.start()
    try:
        used = sorted(set(TOPICS) & await consumer.topics())
    finally:
        await consumer.stop()
    if used:
        raise TopicsInUse(
            f"the broker at {kafka} already has the topics {', '.join(used)}, from an earlier demo or of your own; the demo needs them new: "
            "delete them, or unset HEADWATER_KAFKA and let the demo start a broker itself"
        )


class ServiceProcess:
    """`headwater run` of one service, with its output in a file."""

    def __init__(self, target: str, process: Process, log: Path) -> None:
        self.target, self.log, self._process = target, log, process

    @classmethod
    async def start(cls, target: str, *, dsn: str, kafka: str, folder: Path) -> ServiceProcess:
        """Start it in a session of its own, so that Ctrl-C reaches the demo alone, which then ends its services in good order."""
        log = folder / f"{target.partition(':')[0]}.log"
        environment = {
            **os.environ,
            "HEADWATER_POSTGRES": dsn,
            "HEADWATER_KAFKA": kafka,
            "HEADWATER_LOG_FORMAT": "json",
            "HEADWATER_LOG_LEVEL": "info",
        }
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "orders.worker", target),
                cwd=EXAMPLES,
                env=environment,
                stdin=PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return cls(target, process, log)

    async def ready(self) -> None:
        """Return once the service says that it runs.

        Raises:
            DemoFailed: it ended instead, or took too long.
        """
        until = time.monotonic() + START_TIMEOUT_SECONDS
        while READY_FACT not in self.log.read_text(encoding="utf-8", errors="replace"):
            self.require_running()
            if time.monotonic() > until:
                raise DemoFailed(f"the process of {self.target} was not ready within {START_TIMEOUT_SECONDS:.0f} s.\n{self.last_words()}")
            await asyncio.sleep(POLL_INTERVAL_SECONDS)

    def require_running(self) -> None:
        """Raise when it has ended by itself, with its last words."""
        if self._process.returncode is not None:
            raise DemoFailed(f"the process of {self.target} ended with status {self._process.returncode}.\n{self.last_words()}")

    def last_words(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        shown = "\n".join(f"  {line}" for line in lines[-LOG_LINES_SHOWN:])
        return f"The last lines of {self.log}:\n{shown}" if shown else f"It wrote nothing to {self.log}."

    async def stop(self) -> None:
        """Ask it to end, insist when it does not; safe twice."""
        with contextlib.suppress(ProcessLookupError):
            if self._process.returncode is None:
                self._process.terminate()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_SECONDS)
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()

"""What the demo plays on: a database for each service, Kafka, and the services as processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
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
from orders import inventory, orders, payment, shipping
from orders.evidence import TOPICS

SERVICES: Final = {service.name: service for service in (orders.service, inventory.service, payment.service, shipping.service)}
EXAMPLES: Final = Path(__file__).resolve().parents[1]
DATABASE_PREFIX: Final = "headwater_demo_"
READY_FACT: Final = b'"service_running"'
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

    dsns: Mapping[str, str]
    """By service."""
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
        yield Stage({name: await _fresh_database(server_dsn, name) for name in SERVICES}, kafka)


@asynccontextmanager
async def open_clients(stage: Stage) -> AsyncIterator[dict[str, Service]]:
    """Every service as another process sees it: its log and read models, without its handlers."""
    async with AsyncExitStack() as stack:
        clients: dict[str, Service] = {}
        for name, service in SERVICES.items():
            clients[name] = Service(name, settings=Settings(postgres=stage.dsns[name], kafka=stage.kafka))
            for projection in service.projections.values():
                clients[name].projection(projection)
            await stack.enter_async_context(clients[name].connect())
        yield clients


@asynccontextmanager
async def run_services(stage: Stage, folder: Path) -> AsyncIterator[dict[str, ServiceProcess]]:
    """Run every service, each in its own process, as long as the block."""
    processes = {name: ServiceProcess(name, stage, folder) for name in SERVICES}
    try:
        for process in processes.values():
            await process.start()
        await asyncio.gather(*(process.ready() for process in processes.values()))
        yield processes
    finally:
        await asyncio.gather(*(process.stop() for process in processes.values()))


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
    """`headwater run` of one service, with its output in a file. It may be killed and started again."""

    def __init__(self, name: str, stage: Stage, folder: Path, *, target: str | None = None) -> None:
        self.name, self.target, self.log = name, target or f"orders.{name}:service", folder / f"{name}.log"
        self._environment = {
            **os.environ,
            "HEADWATER_POSTGRES": stage.dsns[name],
            "HEADWATER_KAFKA": stage.kafka,
            # A static member of its consumer group: it comes back to its partitions at once, instead of waiting until the dead one's session ends.
            "HEADWATER_INSTANCE_ID": f"{name}-{folder.name}",
            "HEADWATER_LOG_FORMAT": "json",
            "HEADWATER_LOG_LEVEL": "info",
        }
        self._process: Process | None = None
        self._log_read_from = 0

    async def start(self) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches the demo alone, which then ends its services in good order."""
        with self.log.open("ab") as output:
            self._log_read_from = output.tell()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "orders.worker", self.target),
                cwd=EXAMPLES,
                env=self._environment,
                stdin=PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def ready(self) -> None:
        """Return once the service says that it runs.

        Raises:
            DemoFailed: it ended instead, or took too long.
        """
        until = time.monotonic() + START_TIMEOUT_SECONDS
        while READY_FACT not in self._output():
            self.require_running()
            if time.monotonic() > until:
                raise DemoFailed(f"the process of {self.target} was not ready within {START_TIMEOUT_SECONDS:.0f} s.\n{self.last_words()}")
            await asyncio.sleep(POLL_INTERVAL_SECONDS)

    async def kill(self) -> None:
        """SIGKILL: no goodbye to anybody."""
        assert self._process is not None, "was started"
        process, self._process = self._process, None
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    def require_running(self) -> None:
        """Raise when it has ended by itself, with its last words."""
        if self._process is not None and self._process.returncode is not None:
            raise DemoFailed(f"the process of {self.target} ended with status {self._process.returncode}.\n{self.last_words()}")

    def last_words(self) -> str:
        """The end of its log."""
        lines = self._output().decode(errors="replace").splitlines()
        shown = "\n".join(f"  {line}" for line in lines[-LOG_LINES_SHOWN:])
        return f"The last lines of {self.log}:\n{shown}" if shown else f"It wrote nothing to {self.log}."

    async def stop(self) -> None:
        """Ask it to end, insist when it does not; safe twice."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if process.returncode is None:
                process.terminate()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), STOP_TIMEOUT_SECONDS)
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _output(self) -> bytes:
        """What it wrote since it was started last."""
        if not self.log.exists():
            return b""
        with self.log.open("rb") as log:
            log.seek(self._log_read_from)
            return log.read()

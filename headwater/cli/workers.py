"""`headwater run --workers N`, `--reload`: the parent of the processes that do the work."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from headwater.cli.running import run_async, stop_event
from headwater.cli.serve import WORKER_OPTION
from headwater.cli.target import load_service
from headwater.embedded import SHARED_SERVERS
from headwater.errors import UsageError
from headwater.operations import HttpAddress, PoolReports, WorkerPool, python_changes, serve_http
from headwater.postgres import Database, apply_migrations
from headwater.service import Service
from headwater.telemetry import logger

_log = logger("cli")


def run_pool(target: str, count: int, address: HttpAddress | None, *, reload: bool) -> int:
    """Run the service in that many processes; returns the exit status."""
    if sys.platform == "win32":
        raise UsageError("--workers and --reload need a Unix-like system; start several commands instead")
    # Once here as well, so that a wrong target is told once, before anything is started.
    service = load_service(target)
    return run_async(_run(service, target, count, address, reload=reload))


async def _run(service: Service, target: str, count: int, address: HttpAddress | None, *, reload: bool) -> int:
    pool = WorkerPool(
        [sys.executable, "-m", "headwater.cli", "run", target, WORKER_OPTION],
        count,
        environment=dict(os.environ) | await _shared_servers(service),
        instance_id=service.current_settings().instance_id,
        waits_for_changes=reload,
    )
    stop = stop_event(at_once=pool.kill)
    async with AsyncExitStack() as stack:
        if address is not None:
            await stack.enter_async_context(serve_http(PoolReports(pool, service.name), address))
        _log.info("service_workers_running", service=service.name, workers=count, reload=reload)
        watching = asyncio.create_task(_reload_on_change(pool, stop)) if reload else None
        running = asyncio.create_task(pool.run(stop))
        await asyncio.wait([task for task in (running, watching) if task is not None], return_when=asyncio.FIRST_COMPLETED)
        # Either has ended: the pool because its service cannot start, watching because its library is not there.
        stop.set()
        status, _ = await asyncio.gather(running, watching or _nothing())
        _log.info("service_workers_stopped", service=service.name)
        return status


async def _nothing() -> None:
    """Nobody watches."""


async def _reload_on_change(pool: WorkerPool, stop: asyncio.Event) -> None:
    async for files in python_changes(Path.cwd(), stop):
        _log.info("files_changed", files=files)
        await pool.reload()


async def _shared_servers(service: Service) -> dict[str, str]:
    """Start the servers that are not configured, once for all processes; gives the settings by which they are found."""
    settings = service.current_settings()
    needs_kafka = settings.kafka is None and service.source_with(settings) == "kafka"
    await SHARED_SERVERS.start(postgres=settings.postgres is None, kafka=needs_kafka)
    found: dict[str, str] = {}
    if settings.postgres is None:
        found["HEADWATER_POSTGRES"] = await SHARED_SERVERS.database(service.name)
        async with Database(found["HEADWATER_POSTGRES"], schema=settings.log_schema) as database, database.connection() as connection:
            await apply_migrations(connection)
    if needs_kafka:
        found["HEADWATER_KAFKA"] = SHARED_SERVERS.bootstrap
    return found

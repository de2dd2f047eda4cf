"""`headwater run`: a service until it is told to stop, in this process or in several."""

from __future__ import annotations

import faulthandler
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import structlog

from headwater.cli.running import calm_collector, run_async, stop_event
from headwater.cli.target import load_service
from headwater.errors import UsageError
from headwater.metrics import NO_METRICS
from headwater.operations import (
    Answers,
    HttpAddress,
    PoolLimits,
    PrometheusMetrics,
    ServiceReports,
    end_with_parent,
    serve_http,
    watched_loop,
)
from headwater.service import Service
from headwater.telemetry import logger

WORKER_OPTION: Final = "--as-worker"
"""Given by a pool to the processes that it starts."""
_log = logger("cli")


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What the command line asks for."""

    target: str
    workers: int | None = None
    """None: in this process."""
    reload: bool = False
    http: str | None = None
    as_worker: str | None = None
    """Number, channel and lifeline of a process that a pool started."""


def run_service(request: RunRequest) -> int:
    """Run the service that the target names; returns the exit status."""
    if request.as_worker is not None:
        return _run_as_worker(request.target, request.as_worker)
    address = HttpAddress.parse(request.http) if request.http is not None else None
    if request.workers is not None or request.reload:
        from headwater.cli.workers import run_pool

        return run_pool(request.target, request.workers or 1, address, reload=request.reload)
    service = load_service(request.target)
    calm_collector()
    return run_async(_serve(service, address))


async def _serve(service: Service, address: HttpAddress | None) -> int:
    stop = stop_event()
    async with AsyncExitStack() as stack:
        if address is not None:
            _measure(service)
            # Before the service: while it waits for its servers, /readyz says so.
            await stack.enter_async_context(serve_http(ServiceReports(service), address))
        stack.enter_context(watched_loop())
        async with service:
            _log.info("service_running", service=service.name, **service.addresses())
            await stop.wait()
            _log.info("service_stopping", service=service.name)
    return 0


def _run_as_worker(target: str, inherited: str) -> int:
    number, channel, lifeline = (int(part) for part in inherited.split(":"))
    end_with_parent(lifeline, PoolLimits().drain_seconds_max)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    structlog.contextvars.bind_contextvars(worker=number)
    service = load_service(target)
    calm_collector()
    return run_async(_work(service, channel))


async def _work(service: Service, channel: int) -> int:
    stop = stop_event()
    _measure(service)
    answers = Answers(ServiceReports(service))
    async with answers.given_over(channel), service:
        answers.state = "running"
        _log.info("service_running", service=service.name, **service.addresses())
        await stop.wait()
        answers.state = "draining"
        _log.info("service_stopping", service=service.name)
    return 0


def _measure(service: Service) -> None:
    """Have it measured, unless it is measured elsewhere or the library is not there."""
    if service.metrics is NO_METRICS:
        try:
            service.metrics = PrometheusMetrics()
        except UsageError:
            _log.info("nothing_is_measured", what_to_do="install headwater[metrics] for /metrics")

"""What is told to whoever asks over HTTP: health and measurements, each worked out at most once a second."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, Generic, Protocol, TypeVar

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import StoreNotOpen
from headwater.operations.gauges import update_gauges
from headwater.operations.health import check_health
from headwater.operations.prometheus import PrometheusMetrics
from headwater.service import Service

KEPT_SECONDS: Final = 1.0
"""An answer is given again for so long: probes must not become a load."""

Answer = TypeVar("Answer")


class ProvidesReports(Protocol):
    """One process's service, or all processes of one."""

    async def health(self) -> dict[str, Any]:
        """`ready`, and in JSON's values what is wrong."""
        ...

    async def metrics(self) -> bytes | None:
        """The text that Prometheus reads; None where nothing is measured."""
        ...


class ServiceReports:
    """The reports of an open service in this process."""

    def __init__(self, service: Service, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._service = service
        self._health = _Kept(self._check, clock)
        self._metrics = _Kept(self._measure, clock)

    async def health(self) -> dict[str, Any]:
        """See `ProvidesReports`; before the service is open, and after, it is not ready."""
        return await self._health.get()

    async def metrics(self) -> bytes | None:
        """See `ProvidesReports`."""
        return await self._metrics.get()

    async def _check(self) -> dict[str, Any]:
        try:
            return (await check_health(self._service)).as_json()
        except StoreNotOpen:
            return {"ready": False, "service": self._service.name, "wrong": {"service": "it is not open"}, "checks": {}}

    async def _measure(self) -> bytes | None:
        metrics = self._service.metrics
        if not isinstance(metrics, PrometheusMetrics):
            return None
        with suppress(StoreNotOpen):
            await update_gauges(self._service, metrics)
        return metrics.render()


class _Kept(Generic[Answer]):
    """An answer that is given again for a while; those who ask at the same time wait for the same one."""

    def __init__(self, ask: Callable[[], Awaitable[Answer]], clock: Clock) -> None:
        self._ask, self._clock, self._turn = ask, clock, asyncio.Lock()
        self._last: tuple[Answer, float] | None = None

    async def get(self) -> Answer:
        async with self._turn:
            if self._last is None or self._clock.monotonic() - self._last[1] > KEPT_SECONDS:
                self._last = await self._ask(), self._clock.monotonic()
            return self._last[0]

"""/livez, /readyz and /metrics: an application for Starlette, and a small server for it beside the service."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from headwater.errors import UsageError
from headwater.operations.prometheus import PrometheusMetrics
from headwater.operations.reports import ProvidesReports
from headwater.telemetry import logger

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOST_DEFAULT: Final = "127.0.0.1"
CLOSE_SECONDS_MAX: Final = 2
"""How long answers under way may take once the service ends."""
_log = logger("operations")


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """Where to listen."""

    host: str
    port: int
    """0 takes a free one."""

    @classmethod
    def parse(cls, text: str) -> HttpAddress:
        """From `127.0.0.1:8080`, `[::1]:8080`, or a port alone, which means loopback.

        Raises:
            UsageError: it is none of these.
        """
        host, _, port = text.rpartition(":")
        if not port.isdecimal() or int(port) > 65_535 or (":" in text and not host):
            raise UsageError(
                f"{text!r} is no address to listen on; write host:port like 127.0.0.1:8080, or 0.0.0.0:8080 for every interface"
            )
        return cls(host.removeprefix("[").removesuffix("]") or HOST_DEFAULT, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def operations_app(reports: ProvidesReports) -> Starlette:
    """An ASGI application: `/livez` (the process answers), `/readyz` (200 or 503, and in JSON what is wrong), `/metrics` (for Prometheus).

    Mount it in an application of your own, where only those who may read it can reach it; nothing asks for a login.

    Raises:
        UsageError: starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse, PlainTextResponse, Response
        from starlette.routing import Route
    except ModuleNotFoundError:
        raise UsageError("health endpoints need the library starlette; install headwater[http]") from None

    async def live(_request: Request) -> Response:
        return JSONResponse({"alive": True})

    async def ready(_request: Request) -> Response:
        health = await reports.health()
        return JSONResponse(health, status_code=200 if health["ready"] else 503)

    async def metrics(_request: Request) -> Response:
        text = await reports.metrics()
        if text is None:
            return PlainTextResponse("nothing is measured here; install headwater[metrics], and start the service anew\n", status_code=404)
        return Response(text, media_type=PrometheusMetrics.content_type)

    return Starlette(routes=[Route("/livez", live), Route("/readyz", ready), Route("/metrics", metrics)])


@contextlib.asynccontextmanager
async def serve_http(reports: ProvidesReports, address: HttpAddress) -> AsyncGenerator[HttpAddress]:
    """Answer on this address while the block runs; gives the address as it came to be.

    Raises:
        UsageError: the address is taken or not ours, or uvicorn is not installed.
    """
    try:
        import uvicorn
    except ModuleNotFoundError:
        raise UsageError("health endpoints need the library uvicorn; install headwater[http]") from None

    class Server(uvicorn.Server):
        """Signals are the command's own business."""

        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None]:
            yield

    app = operations_app(reports)
    listening = _listen(address)
    server = Server(
        uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=CLOSE_SECONDS_MAX)
    )
    bound = HttpAddress(address.host, listening.getsockname()[1])
    task = asyncio.create_task(server.serve(sockets=[listening]), name="headwater http")
    _log.info("http_serving", address=str(bound), paths=["/livez", "/readyz", "/metrics"])
    try:
        yield bound
    finally:
        server.should_exit = True
        done, _ = await asyncio.wait({task}, timeout=2 * CLOSE_SECONDS_MAX)
        if not done:
            task.cancel()
        listening.close()
        await asyncio.gather(task, return_exceptions=True)


def _listen(address: HttpAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"cannot listen on {address}: {error.strerror if isinstance(error, OSError) else error}; choose another with --http"
        ) from error

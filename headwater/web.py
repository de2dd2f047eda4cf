"""The same service inside a web application, of Starlette or FastAPI: opened and drained with it, found by its endpoints, told of its failures.

    app = FastAPI(lifespan=lifespan(service))
    Shop = Annotated[Service, Depends(service_of)]

Nothing here needs FastAPI; what it builds on is Starlette's, which FastAPI is made of. docs/web.md shows both.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from headwater.errors import (
    ConcurrencyError,
    HeadwaterError,
    InvalidEvent,
    InvalidStreamName,
    NotFoundError,
    SubjectForgotten,
    UnknownEventType,
    UsageError,
)
from headwater.randomness import uuid7
from headwater.service import Service
from headwater.telemetry import Correlation, correlate, logger

try:
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import JSONResponse, Response
except ModuleNotFoundError:
    raise UsageError("headwater.web needs the library starlette; install headwater[web]") from None

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

STATE_NAME: Final = "headwater_service"
RETRY_AFTER_SECONDS: Final = "1"
CORRELATION_HEADER: Final = b"x-correlation-id"
_CORRELATION_ID: Final = re.compile(r"[!-~]{1,200}")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_STATUS: Final[tuple[tuple[type[HeadwaterError], int], ...]] = (
    (SubjectForgotten, 410),
    (NotFoundError, 404),
    (ConcurrencyError, 409),
    (UnknownEventType, 422),
    (InvalidEvent, 422),
    (InvalidStreamName, 422),
)
_log = logger("web")

Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]

__all__ = ["STATE_NAME", "CorrelationMiddleware", "add_error_handlers", "lifespan", "service_of"]


class TakesExceptionHandlers(Protocol):
    """What is used of an application: Starlette's and FastAPI's have it."""

    def add_exception_handler(self, exc_class_or_status_code: Any, handler: Any) -> None: ...


def lifespan(
    service: Service, *, workers: bool = True, inside: Callable[[Any], AbstractAsyncContextManager[Any]] | None = None
) -> Lifespan:
    """What opens the service with the application, and drains it when the application ends: `FastAPI(lifespan=lifespan(service))`.

    A service that is open already, as in a test inside `memory_service`, is used as it is, and left open.

    Args:
        workers: whether this process also runs its handlers, projections and relay; without them it only appends, publishes and reads, beside a
            `headwater run` elsewhere.
        inside: the application's own lifespan, to run while the service is open.
    """

    @asynccontextmanager
    async def opened(app: Any) -> AsyncGenerator[Mapping[str, Any]]:
        opening: AbstractAsyncContextManager[Any] = nullcontext() if service.is_open else service if workers else service.connect()
        async with opening:
            setattr(app.state, STATE_NAME, service)
            async with inside(app) if inside is not None else nullcontext() as state:
                yield {STATE_NAME: service, **(state or {})}

    return opened


def service_of(connection: HTTPConnection) -> Service:
    """The service of the application that a request came to; in FastAPI a dependency: `Annotated[Service, Depends(service_of)]`.

    Raises:
        UsageError: the application was not given `lifespan(service)`.
    """
    for holder in (connection.state, connection.scope["app"].state):
        if isinstance(found := getattr(holder, STATE_NAME, None), Service):
            return found
    raise UsageError("this application has no Headwater service: make it with lifespan=headwater.web.lifespan(service)")


def add_error_handlers(app: TakesExceptionHandlers) -> None:
    """Answer Headwater's errors with what they mean to a client: 404, 409 (somebody was first), 410 (forgotten), 422, or 503 (try again later).

    The body is `{"error": …, "message": …}`; what only an operator should read stays in the log. Other errors, mistakes in the code among
    them, end as 500 like any exception.
    """
    app.add_exception_handler(HeadwaterError, _answer)


async def _answer(request: Request, error: HeadwaterError) -> Response:
    name = type(error).__name__
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return JSONResponse({"error": name, "message": str(error)}, status_code=status)
    if error.retryable:
        _log.warning("request_refused", path=request.url.path, error=f"{name}: {error}")
        return JSONResponse(
            {"error": name, "message": "not possible at the moment; try again later"},
            status_code=503,
            headers={"retry-after": RETRY_AFTER_SECONDS},
        )
    raise error


class CorrelationMiddleware:
    """ASGI middleware: what a request appends carries its correlation id, of the header `x-correlation-id` or a new one, and answers name it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = str(uuid7())
        correlation_id = _matching(_CORRELATION_ID, headers.get(CORRELATION_HEADER)) or request_id
        traceparent = _matching(_TRACEPARENT, headers.get(b"traceparent"))

        async def send_named(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (CORRELATION_HEADER, correlation_id.encode())]}
            await send(message)

        with correlate(Correlation(correlation_id, request_id, traceparent)):
            await self._app(scope, receive, send_named)


def _matching(pattern: re.Pattern[str], header: bytes | None) -> str | None:
    """The text of a header that may be stored and logged; anybody may send anything."""
    text = (header or b"").decode("latin-1")
    return text if pattern.fullmatch(text) else None

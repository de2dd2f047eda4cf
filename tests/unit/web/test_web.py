"""The helpers for web applications: whose service, which errors, whose correlation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from headwater import Event, Service
from headwater.errors import ConsistencyTimeout, NotFoundError, StorageUnavailable, SubjectForgotten, UsageError
from headwater.messages import CORRELATION_ID, TRACEPARENT
from headwater.testing import memory_service
from headwater.web import CorrelationMiddleware, add_error_handlers, lifespan, service_of

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class OrderPlaced(Event):
    sku: str


@asynccontextmanager
async def client_of(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        yield client


async def whose(request: Request) -> JSONResponse:
    return JSONResponse({"service": service_of(request).name})


async def test_the_service_is_found_also_in_an_application_mounted_inside() -> None:
    service = Service("shop")
    mounted = Starlette(routes=[Route("/whose", whose)])
    app = Starlette(routes=[Route("/whose", whose), Mount("/inner", mounted)], lifespan=lifespan(service))
    async with memory_service(service), app.router.lifespan_context(app) as state, client_of(app) as client:
        assert (await client.get("/whose")).json() == {"service": "shop"}
        # A real server passes the lifespan's state on, which httpx does not.
        async with client_of(with_state(app, state)) as served:
            assert (await served.get("/inner/whose")).json() == {"service": "shop"}
    assert not service.is_open


def with_state(app: Any, state: Any) -> Any:
    async def passed(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": dict(state)}, receive, send)

    return passed


async def test_an_application_without_the_lifespan_is_told_what_to_do() -> None:
    app = Starlette(routes=[Route("/whose", whose)])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        with pytest.raises(UsageError, match=r"lifespan=headwater\.web\.lifespan\(service\)"):
            await client.get("/whose")


async def test_the_applications_own_lifespan_runs_inside_with_the_service_open() -> None:
    service, seen = Service("shop"), []

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[dict[str, int]]:
        seen.append(("begin", service.is_open))
        yield {"answer": 42}
        seen.append(("end", service.is_open))

    app = Starlette(lifespan=lifespan(service, inside=own))
    async with memory_service(service), app.router.lifespan_context(app) as state:
        assert state["answer"] == 42
        assert state["headwater_service"] is service
    assert seen == [("begin", True), ("end", True)]


async def test_a_dependency_can_be_replaced_by_a_test() -> None:
    app, other = FastAPI(), Service("other")

    @app.get("/whose")
    async def whose_service(shop: Annotated[Service, Depends(service_of)]) -> str:
        return shop.name

    app.dependency_overrides[service_of] = lambda: other
    async with client_of(app) as client:
        assert (await client.get("/whose")).json() == "other"


async def test_errors_are_answered_by_what_they_mean() -> None:
    from datetime import UTC, datetime

    forgotten = SubjectForgotten(subject="7", owner="OrderPlaced", field="name", forgotten_at=datetime.now(UTC))
    raised: dict[str, Exception] = {
        "storage": StorageUnavailable("postgresql://secret-host:5432 does not answer"),
        "late": ConsistencyTimeout("units_ordered is behind"),
        "missing": NotFoundError("no such thing"),
        "forgotten": forgotten,
        "mistake": UsageError("the code is wrong"),
        "bug": KeyError("x"),
    }

    async def fail(request: Request) -> JSONResponse:
        raise raised[request.path_params["which"]]

    app = Starlette(routes=[Route("/{which}", fail)])
    add_error_handlers(app)
    async with client_of(app) as client:
        answers = {which: await client.get(f"/{which}") for which in raised}
    assert {which: answer.status_code for which, answer in answers.items()} == {
        "storage": 503,
        "late": 503,
        "missing": 404,
        "forgotten": 410,
        "mistake": 500,
        "bug": 500,
    }
    assert answers["storage"].headers["retry-after"] == "1"
    assert "secret-host" not in answers["storage"].text
    assert answers["missing"].json() == {"error": "NotFoundError", "message": "no such thing"}


@pytest.mark.parametrize(
    ("headers", "correlation_id", "traceparent"),
    [
        ({"x-correlation-id": "story-1", "traceparent": TRACE}, "story-1", TRACE),
        ({"x-correlation-id": "x" * 201, "traceparent": "nonsense"}, None, None),
        ({"x-correlation-id": "a\tb"}, None, None),
        ({}, None, None),
    ],
)
async def test_what_a_request_appends_carries_its_correlation(
    headers: dict[str, str], correlation_id: str | None, traceparent: str | None
) -> None:
    service = Service("shop")

    async def place(request: Request) -> JSONResponse:
        await service.store.append("order-1", [OrderPlaced(sku="chai")], expected_version=0)
        return JSONResponse({})

    app = Starlette(routes=[Route("/", place)])
    async with memory_service(service) as memory, client_of(CorrelationMiddleware(app)) as client:
        answer = await client.get("/", headers=headers)
        (recorded,) = memory.recorded
    named = answer.headers["x-correlation-id"]
    assert recorded.metadata[CORRELATION_ID] == named
    assert correlation_id is None or named == correlation_id
    assert len(named) <= 200
    assert recorded.metadata.get(TRACEPARENT) == traceparent

"""Schemas of other producers over HTTP, from a server with the interface that registries share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from headwater.errors import BrokerUnavailable, ConfigurationError, UnknownSchema
from headwater.schemas import ForeignSchemaCodec, HttpSchemaRegistry, frame
from headwater.testing.waiting import eventually

MONEY = {"type": "record", "name": "Money", "namespace": "shop", "fields": [{"name": "cents", "type": "long"}]}
LINE = {
    "type": "record",
    "name": "Line",
    "namespace": "shop",
    "fields": [{"name": "price", "type": "Money"}, {"name": "next", "type": ["null", "Line"], "default": None}],
}
ORDER = {
    "type": "record",
    "name": "shop.Order",
    "fields": [{"name": "lines", "type": {"type": "array", "items": "shop.Line"}}, {"name": "total", "type": ["null", "Money"]}],
}
BY_ID: dict[int, dict[str, Any]] = {
    1: {"schema": json.dumps(MONEY)},
    2: {"schema": json.dumps(ORDER), "references": [{"name": "shop.Line", "subject": "shop/line", "version": 3}]},
    3: {"schema": "syntax = 'proto3';", "schemaType": "PROTOBUF"},
    4: {"schema": json.dumps(ORDER), "references": [{"name": "shop.Line", "subject": "gone", "version": 1}]},
}
SUBJECTS: dict[tuple[str, int], dict[str, Any]] = {
    ("shop/line", 3): {"schema": json.dumps(LINE), "references": [{"name": "shop.Money", "subject": "money", "version": 1}]},
    ("money", 1): {"schema": json.dumps(MONEY)},
}


async def by_id(request: Request) -> Response:
    if request.headers.get("authorization") != "Basic ZGVwb3Q6cyFjcmV0":
        return JSONResponse({"error_code": 401}, 401)
    found = BY_ID.get(request.path_params["schema_id"])
    return JSONResponse(found) if found else JSONResponse({"error_code": 40403}, 404)


async def by_subject(request: Request) -> Response:
    found = SUBJECTS.get((request.path_params["subject"], request.path_params["version"]))
    return JSONResponse(found) if found else JSONResponse({"error_code": 40401}, 404)


@asynccontextmanager
async def served(*routes: Route) -> AsyncIterator[str]:
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=list(routes)), host="127.0.0.1", port=0, log_level="critical", lifespan="off"))
    task = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    try:
        yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def address() -> AsyncIterator[str]:
    routes = (Route("/schemas/ids/{schema_id:int}", by_id), Route("/subjects/{subject:path}/versions/{version:int}", by_subject))
    async with served(*routes) as host:
        yield host


async def test_schemas_come_with_all_that_they_refer_to(address: str) -> None:
    async with HttpSchemaRegistry(f"http://depot:s!cret@{address}/") as registry:
        assert json.loads(await registry.find(1) or "") == MONEY
        text = await registry.find(2)
        assert text is not None
        # One line of 3 cents with a line of 2 behind it, and no total.
        value = frame(2) + b"\x02\x06\x02\x04\x00\x00\x00"
        assert json.loads(ForeignSchemaCodec(2, text).decode(value)) == {
            "lines": [{"price": {"cents": 3}, "next": {"price": {"cents": 2}, "next": None}}],
            "total": None,
        }


async def test_what_is_not_there_or_not_avro_is_no_schema(address: str) -> None:
    async with HttpSchemaRegistry(f"http://depot:s!cret@{address}") as registry:
        assert (await registry.find(99), await registry.find(3)) == (None, None)
        with pytest.raises(UnknownSchema, match="'gone'"):
            await registry.find(4)


async def test_a_registry_that_will_not_answer_says_why_and_shows_no_password(address: str) -> None:
    async with HttpSchemaRegistry(f"http://depot:wr0ng@{address}") as registry:
        with pytest.raises(BrokerUnavailable, match="answered 401") as refused:
            await registry.find(1)
    assert "wr0ng" not in str(refused.value)
    async with HttpSchemaRegistry("http://depot:wr0ng@127.0.0.1:9") as registry:
        with pytest.raises(BrokerUnavailable, match="cannot be asked") as away:
            await registry.find(1)
    assert "wr0ng" not in str(away.value)

    async def page(_: Request) -> Response:
        return PlainTextResponse("<html>")

    async with served(Route("/schemas/ids/1", page)) as host, HttpSchemaRegistry(f"http://{host}") as registry:
        with pytest.raises(BrokerUnavailable, match="no schema registry"):
            await registry.find(1)


@pytest.mark.parametrize("url", ["registry:8081", "ftp://registry", "http://", "http://:8081"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="address"):
        HttpSchemaRegistry(url)

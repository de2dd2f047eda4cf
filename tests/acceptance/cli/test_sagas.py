"""`headwater sagas`: what a person sees of long stories."""

from __future__ import annotations

import asyncio
import json

import pytest

from headwater.postgres import Database
from tests.acceptance.cli.conftest import Command


@pytest.fixture
async def with_sagas(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(
            """
            INSERT INTO headwater.sagas (saga_type, saga_key, status, state, steps, correlation_id, cause_id)
            VALUES ('order_fulfilment', '7', 'running', '{"amount": "3.50"}', '[]', 'c', gen_random_uuid()),
                   ('order_fulfilment', '8', 'stuck', '{}', '[]', 'c', gen_random_uuid())
            """
        )


@pytest.mark.usefixtures("with_sagas")
async def test_sagas_are_listed_and_shown(headwater: Command, postgres_dsn: str) -> None:
    postgres = {"HEADWATER_POSTGRES": postgres_dsn}
    listed = json.loads((await asyncio.to_thread(headwater.run, "sagas", "list", "--json", **postgres)).stdout)
    assert {saga["key"] for saga in listed["sagas"]} == {"7", "8"}
    assert listed["counts"]["stuck"] == 1
    stuck = await asyncio.to_thread(headwater.run, "sagas", "list", "--status", "stuck", **postgres)
    assert "order_fulfilment   8" in stuck.stdout
    assert "order_fulfilment   7" not in stuck.stdout
    shown = json.loads((await asyncio.to_thread(headwater.run, "sagas", "show", "order_fulfilment", "7", "--json", **postgres)).stdout)
    assert shown["state"] == {"amount": "3.50"}
    assert "3.50" in (await asyncio.to_thread(headwater.run, "sagas", "show", "order_fulfilment", "7", **postgres)).stdout
    retried = await asyncio.to_thread(headwater.run, "sagas", "retry", "order_fulfilment", "7", **postgres)
    assert "nothing was changed" in retried.stdout


async def test_a_saga_that_is_not_there_and_a_status_that_is_none(headwater: Command, postgres_dsn: str) -> None:
    missing = await asyncio.to_thread(headwater.run, "sagas", "show", "order_fulfilment", "9", HEADWATER_POSTGRES=postgres_dsn)
    assert missing.returncode == 1
    assert "headwater sagas list" in missing.stderr
    unknown = await asyncio.to_thread(headwater.run, "sagas", "list", "--status", "lost", HEADWATER_POSTGRES=postgres_dsn)
    assert unknown.returncode == 2
    assert "compensating" in unknown.stderr

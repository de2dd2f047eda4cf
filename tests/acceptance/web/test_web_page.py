"""The examples of docs/web.md run, as a user would run them: in a test without servers, and under uvicorn with them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from headwater.embedded.ports import free_ports
from headwater.eventstore import PostgresEventStore
from headwater.postgres import Database
from headwater.testing import eventually

PAGE = (Path(__file__).parents[3] / "docs" / "web.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, flags=re.DOTALL))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert sorted(EXAMPLES) == ["app.py", "star.py", "test_app.py"]
    # The topics are this test's own: the shared broker may hold orders of other tests.
    category = f"order{uuid.uuid4().hex[:8]}"
    for name, text in EXAMPLES.items():
        own = text.replace("class OrderPlaced(Event)", f'class OrderPlaced(Event, category="{category}")')
        own = own.replace('f"order-{', f'f"{category}-{{').replace('Service("shop"', f'Service("shop-{category}"')
        (tmp_path / name).write_text(text if name == "test_app.py" else own, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\npythonpath = .\nfilterwarnings = error\n",
        encoding="utf-8",
    )
    return tmp_path


def test_the_test_on_the_page_passes_without_servers(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


@asynccontextmanager
async def serving(folder: Path, target: str, servers: dict[str, str]) -> AsyncIterator[tuple[httpx.AsyncClient, subprocess.Popen[bytes]]]:
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", target, "--port", str(port), "--log-level", "warning"], cwd=folder, env={**os.environ, **servers}
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

            async def answers() -> bool:
                assert process.poll() is None, "it ended"
                try:
                    await client.get("/nowhere")
                except httpx.TransportError:
                    return False
                return True

            await eventually(answers, 90)
            yield client, process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def servers(postgres_dsn: str, kafka_server: str) -> dict[str, str]:
    return {"HEADWATER_POSTGRES": postgres_dsn, "HEADWATER_KAFKA": kafka_server}


async def test_fastapi_serves_and_handles_in_one_process(folder: Path, servers: dict[str, str], database: Database) -> None:
    order = f"/orders/{uuid.uuid4()}"
    async with serving(folder, "app:app", servers) as (client, process):
        placed = await client.put(order, json={"sku": "chai", "quantity": 2})
        assert placed.status_code == 201, placed.text
        assert (await client.put(order, json={"sku": "chai", "quantity": 2})).status_code == 409
        assert (await client.get("/units/chai")).json() == {"units": 2}
        assert (await client.get("/units/tofu")).status_code == 404

        async def is_reserved() -> bool:
            return await PostgresEventStore(database).stream_version("stock-chai") == 1

        await eventually(is_reserved, 60)
        assert (await client.get("/internal/readyz")).json()["ready"]
        assert "headwater_messages_handled_total{" in (await client.get("/internal/metrics")).text
        process.send_signal(signal.SIGTERM)
        # uvicorn raises the signal again once everything is drained.
        assert await asyncio.to_thread(process.wait, 40) in (0, -signal.SIGTERM)


async def test_starlette_serves(folder: Path, servers: dict[str, str]) -> None:
    async with serving(folder, "star:app", servers) as (client, _):
        placed = await client.put("/orders/1", json={"sku": "chai"})
        assert placed.status_code == 201, placed.text
        assert (await client.put("/orders/1", json={"sku": "chai"})).json()["error"] == "WrongExpectedVersion"

"""Commands as subprocesses, in a folder of their own that holds one small service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cli.forking import ForkedHeadwater

SHOP = """
from headwater import Context, Event, Projection, Service, on

service = Service("shop")
not_a_service = 3

class OrderPlaced(Event):
    sku: str
    quantity: int

class StockReserved(Event):
    sku: str

@service.on(OrderPlaced)
async def reserve(event: OrderPlaced, context: Context) -> None:
    if event.sku == "poison":
        raise RuntimeError("no such thing in stock")
    await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))

@service.projection
class UnitsOrdered(Projection, key="sku"):
    units: int = 0

    @on(OrderPlaced)
    def ordered(self, event: OrderPlaced) -> None:
        self.units += event.quantity
"""
HEADWATER = Path(sys.executable).with_name("headwater")


@dataclass
class Command:
    """Runs `headwater …` in the shop's folder."""

    folder: Path
    environment: dict[str, str]
    forked: ForkedHeadwater
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.forked.run(arguments, self.folder, self.environment | environment)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [HEADWATER, *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process


@pytest.fixture(scope="session")
def forked_headwater() -> Iterator[ForkedHeadwater]:
    with ForkedHeadwater() as forked:
        yield forked


@pytest.fixture
def headwater(tmp_path: Path, forked_headwater: ForkedHeadwater) -> Iterator[Command]:
    (tmp_path / "shop.py").write_text(SHOP)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_") or name == "HEADWATER_CACHE"}
    command = Command(tmp_path, inherited, forked_headwater)
    yield command
    for process in command.started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.fixture
def wait_for_fact() -> Callable[[subprocess.Popen[str], str], dict[str, Any]]:
    """Reads a process's facts until one has this name."""

    def wait(process: subprocess.Popen[str], name: str) -> dict[str, Any]:
        assert process.stderr is not None
        seen: list[str] = []
        for line in process.stderr:
            seen.append(line)
            fact = json.loads(line) if line.startswith("{") else {}
            if fact.get("event") == name:
                return dict(fact)
        raise AssertionError(f"it ended without the fact {name}: {''.join(seen)}")

    return wait

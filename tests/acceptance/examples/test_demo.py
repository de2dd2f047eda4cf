"""The demo as people and programs run it, and its checks on a real run that was tampered with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from orders import demo
from orders.checks import run_checks
from orders.collect import collect
from orders.evidence import KafkaTail
from orders.inventory import count_stock
from orders.northwind import load_orders, load_products
from orders.screen import Screen
from orders.stage import Stage, open_stage

ROOT = Path(__file__).parents[3]
TIMEOUT_SECONDS = 240
SERVERS = ("HEADWATER_POSTGRES", "HEADWATER_KAFKA")


def demo_command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from headwater.cli import main; main()", "demo", *arguments]


def own_servers() -> dict[str, str]:
    """The environment without configured servers: the demo starts its own."""
    return {name: value for name, value in os.environ.items() if name not in SERVERS}


def test_demo_prints_one_object_and_exits_0_when_all_checks_hold() -> None:
    done = subprocess.run(
        demo_command("--orders", "40", "--json"), env=own_servers(), cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads(done.stdout)
    assert report["ok"] is True
    assert [check for check in report["checks"] if not check["ok"]] == []
    assert len(report["checks"]) == 11
    assert report["summary"]["orders"] == 40 == report["summary"]["confirmed"] + report["summary"]["rejected"]
    assert report["summary"]["units_in_stock"] == report["summary"]["units_reserved"] + report["summary"]["units_left"]


def test_ctrl_c_ends_the_demo_and_all_it_started() -> None:
    process = subprocess.Popen(
        demo_command("--orders", "5000"), env=own_servers(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "starting the services" in line:
            break
    family = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert [pid for pid in family if Path(f"/proc/{pid}").exists() and "headwater" in command_of(pid)] == []

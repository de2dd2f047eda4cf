"""The front-door example of the README runs as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "front_door.py"
TIMEOUT_SECONDS = 240
"""The first run on a machine installs the embedded servers."""


def own_servers() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("HEADWATER_POSTGRES", "HEADWATER_KAFKA")}


def test_front_door_runs_by_itself_and_ends() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], env=own_servers(), capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "the read model shows 5 units of chai ordered" in done.stdout
    assert "the handler reserved stock for 2 orders of chai" in done.stdout


def test_front_door_needs_no_kafka_where_the_log_feeds_the_handlers(postgres_dsn: str) -> None:
    """One line of configuration: the same file, the same handlers, and nobody at Kafka's address."""
    chosen = {"HEADWATER_SOURCE": "postgres", "HEADWATER_POSTGRES": postgres_dsn, "HEADWATER_KAFKA": "127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        env={**own_servers(), **chosen},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "the handler reserved stock for 2 orders of chai" in done.stdout
    assert "kafka" not in done.stderr.lower()


def test_front_door_serves_until_it_is_told_to_stop() -> None:
    command = [sys.executable, "-c", "from headwater.cli import main; main()", "run", "front_door:service"]
    process = subprocess.Popen(
        command, env={**own_servers(), "HEADWATER_LOG_FORMAT": "json"}, cwd=EXAMPLE.parent, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    facts = []
    for line in process.stderr:
        facts.append(line)
        if '"service_running"' in line:
            break
    process.terminate()
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 0, "".join(facts) + rest
    assert '"service": "shop"' in facts[-1]
    assert '"service_stopping"' in rest

"""The front-door example of the README runs as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "front_door.py"
TIMEOUT_SECONDS = 240
"""The first run on a machine installs the embedded servers."""


def test_front_door_runs_by_itself_and_ends() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("HEADWATER_POSTGRES", "HEADWATER_KAFKA")}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "the read model shows 5 units of chai ordered" in done.stdout
    assert "the handler reserved stock for 2 orders of chai, over Kafka" in done.stdout

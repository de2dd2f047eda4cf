"""The example of docs/sources.md runs as it stands, without a broker; and the doctor does not ask for one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from headwater.bus import LOG_PARTITION_COUNT, LOG_TOPIC_PREFIX
from headwater.bus.kafka_offsets import OFFSETS_COMMIT_SECONDS
from headwater.coordination import LEASE_SECONDS
from tests.acceptance.cli.conftest import Command

PAGE = (Path(__file__).parents[3] / "docs" / "sources.md").read_text(encoding="utf-8")
NOBODY = "127.0.0.1:1"


def test_the_example_works(tmp_path: Path, postgres_dsn: str) -> None:
    ((name, text),) = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / name).write_text(text, encoding="utf-8")
    environment = {**os.environ, "HEADWATER_POSTGRES": postgres_dsn, "HEADWATER_KAFKA": NOBODY}
    done = subprocess.run([sys.executable, name], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "order_id='1'" in done.stdout


def test_the_page_tells_the_numbers_that_are() -> None:
    assert f"falls into {LOG_PARTITION_COUNT} partitions" in PAGE
    assert f"every {OFFSETS_COMMIT_SECONDS:.0f} seconds as far as something changed" in PAGE
    assert f"up to {LOG_PARTITION_COUNT} |" in PAGE
    assert f"after {LEASE_SECONDS:.0f} seconds" in PAGE
    assert f"`{LOG_TOPIC_PREFIX}<category>`" in PAGE


def test_doctor_and_configuration_know_the_source(headwater: Command, postgres_dsn: str) -> None:
    chosen = {"HEADWATER_POSTGRES": postgres_dsn, "HEADWATER_KAFKA": NOBODY, "HEADWATER_SOURCE": "postgres"}
    names = {finding["name"] for finding in json.loads(headwater.run("doctor", "--json", **chosen).stdout)["findings"]}
    assert "postgres" in names
    assert not {"kafka", "topic-partitions", "aiokafka-version"} & names
    with_kafka = json.loads(headwater.run("doctor", "--json", **(chosen | {"HEADWATER_SOURCE": "kafka"})).stdout)["findings"]
    assert next(finding for finding in with_kafka if finding["name"] == "kafka")["severity"] == "failure"
    refused = headwater.run("config", "check", **(chosen | {"HEADWATER_SOURCE": "rabbit"}))
    assert refused.returncode == 1
    assert "HEADWATER_SOURCE" in refused.stderr

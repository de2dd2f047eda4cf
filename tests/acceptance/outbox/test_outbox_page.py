"""The examples of docs/outbox-only.md run, as a user would run them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import psycopg

PAGE = (Path(__file__).parents[3] / "docs" / "outbox-only.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, flags=re.DOTALL))


def test_messages_are_told_if_and_only_if_the_applications_transaction_commits(
    tmp_path: Path, postgres_dsn: str, kafka_server: str
) -> None:
    assert sorted(EXAMPLES) == ["messages.py", "orders.py", "reader.py", "sync_orders.py"]
    # The topic is this test's own: the shared broker may hold orders of other tests.
    category = f"order{uuid.uuid4().hex[:8]}"
    for name, text in EXAMPLES.items():
        own = text.replace("class OrderPlaced(Event)", f'class OrderPlaced(Event, category="{category}")')
        own = own.replace('AIOKafkaConsumer("order"', f'AIOKafkaConsumer("{category}"').replace('f"order-outbox', f'f"{category}-outbox')
        (tmp_path / name).write_text(own, encoding="utf-8")
    environment = {**os.environ, "HEADWATER_POSTGRES": postgres_dsn, "HEADWATER_KAFKA": kafka_server, "HEADWATER_LOG_FORMAT": "json"}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert run("orders.py").strip() == "neither the order nor its message is there"
    run("sync_orders.py")
    with psycopg.connect(postgres_dsn) as connection:
        orders = connection.execute("SELECT id, sku, quantity FROM orders ORDER BY id").fetchall()
        assert connection.execute("SELECT count(*) FROM headwater.events").fetchone() == (2,)
    assert [sku for _, sku, _ in orders] == ["chai", "coffee"]

    relay = subprocess.Popen([sys.executable, "-m", "headwater.cli", "run", "messages:service"], cwd=tmp_path, env=environment)
    try:
        # It waits for messages, and ends by the test's own time limit if they never come.
        told = run("reader.py", "2").splitlines()
    finally:
        relay.terminate()
        status = relay.wait(60)
    assert status == 0
    expected = [
        f"OrderPlaced /services/shop {json.dumps({'order_id': number, 'sku': sku, 'quantity': quantity})}"
        for number, sku, quantity in orders
    ]
    # Two orders, two keys: nobody promises an order between them. What the SQL function got has the source of the log's service, too.
    assert sorted(map(_parsed, told)) == sorted(map(_parsed, expected))


def _parsed(line: str) -> tuple[str, str, str]:
    event_type, source, data = line.split(" ", 2)
    return event_type, source, json.dumps(json.loads(data), sort_keys=True)

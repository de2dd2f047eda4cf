"""Every fault of every target, again and again at moments that a seed chose, while events flow from writers through relays and Kafka to effects.

A row's events are through when all their effects are there; then the effects' table and Kafka itself must hold every event of the log once, in
order, nothing else. HEADWATER_TEST_FULL=1 runs the full counts, passes over rows that docs/evidence holds already, and leaves a summary there.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from zlib import crc32

import pytest

from tests.fault.matrix.beds import Beds
from tests.fault.matrix.row import Row
from tests.fault.matrix.rows import FAULTS, PAIRS, Pair
from tests.support import EVIDENCE, FULL, full_count, write_evidence

SEED = int(os.environ.get("HEADWATER_TEST_SEED", "20261126"))
EVENTS = full_count(5_000, 50_000)
AHEAD_EVENTS_MAX = full_count(500, 1_500)
EVIDENCE_NAME = "fault_matrix"

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL and no SIGSTOP"),
]


@pytest.mark.parametrize("pair", PAIRS)
async def test_nothing_is_missing_repeated_or_out_of_order(pair: Pair, beds: Beds, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id
    if name in (known := rows_in_evidence()):
        pytest.skip(f"docs/evidence/{EVIDENCE_NAME}.json has this row")
    checker = await beds.get(pair.brokers)
    bed, began, count = checker.bed, time.monotonic(), full_count(FAULTS, pair.faults_at_full_count)
    bed.is_spoilt = True
    row = Row(name, bed, random.Random(SEED + crc32(name.encode())))
    await bed.all_have_work()
    share = EVENTS / (count + 1)
    bed.events_allowed.value = round(share)
    writing = bed.write({"row": name, "events": EVENTS, "seed": SEED, "ahead_max": AHEAD_EVENTS_MAX})
    moments: list[int] = []
    try:
        for number in range(count):
            # Somewhere in its own share of the row, so that every fault meets events on their way; the last share comes after the last fault.
            await bed.effects_reach(name, int(share * (number + row.chance.uniform(0.05, 0.75))))
            await row.moment(0.05)
            moments.append(await bed.effect_count(name))
            row.counts["with_work_on_its_way"] += moments[-1] < bed.events_allowed.value
            print(f"{time.monotonic() - began:6.1f} s: {name}, {number + 1} of {count}, after {moments[-1]} effects", flush=True)
            await pair.fault(row)
            bed.events_allowed.value = round(share * (number + 2))
        await bed.effects_reach(name, EVENTS)
        await asyncio.wait_for(writing, 60)
    finally:
        writing.cancel()
    summary = await checker.check(name, EVENTS)
    bed.nobody_ended()
    bed.is_spoilt = False
    beds.rows[name] = EVENTS
    assert row.counts["with_work_on_its_way"] >= count / 2, "most faults came when everything was through"
    result = {**summary, "faults": count, "effects_before_each": moments, **row.counts, "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps({name: result}))
    write_evidence(EVIDENCE_NAME, {"seed": SEED, "rows": known | {name: result}})


def rows_in_evidence() -> dict[str, object]:
    """At full count, the rows that ran already."""
    file = EVIDENCE / f"{EVIDENCE_NAME}.json"
    return dict(json.loads(file.read_text(encoding="utf-8")).get("rows", {})) if FULL and file.exists() else {}

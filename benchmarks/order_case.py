"""The order case as a whole: how many orders a second four services see to their end, by `headwater demo`."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Final

from benchmarks.measure import HEADWATER, Comparison, Comparisons, Contender
from benchmarks.scale import Scale
from benchmarks.servers import Servers
from headwater.errors import HeadwaterError

ORDER_COUNT: Final = 5_000
ROOT: Final = Path(__file__).parent.parent


async def compare_orders(_servers: Servers, _scale: Scale) -> Comparisons:
    """There is no raw neighbour: nobody has written this shop twice. The demo brings servers of its own and checks what it did."""
    conditions = {"orders": ORDER_COUNT, "services": 4, "durable": True}
    yield Comparison("orders", conditions, [Contender(HEADWATER, play)], rounds=1)


async def play(_seconds: float) -> float:
    """Orders per second, from the first that is placed to the last that ended; it takes as long as it takes."""
    command = ("-c", "from headwater.cli import main; main()", "demo", "--orders", str(ORDER_COUNT), "--json")
    process = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT, stdout=PIPE, stderr=PIPE)
    output, errors = await process.communicate()
    if process.returncode != 0:
        raise HeadwaterError(f"the demo ended with status {process.returncode}: {errors.decode()[-2_000:] or output.decode()[-2_000:]}")
    return float(json.loads(output)["summary"]["orders_per_second"])

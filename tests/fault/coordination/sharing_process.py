"""A member in a process of its own, to be killed and frozen: `python -m tests.fault.coordination.sharing_process DSN ITEMS LEASE_SECONDS`.

Facts go to standard error, one JSON object a line. While it holds an item it counts in the item's row of `work`, and says under which term:
a row that has seen a later term refuses it.
"""

from __future__ import annotations

import sys

import uvloop

from headwater.clock import SYSTEM_CLOCK
from headwater.coordination import Holding, LeaseShare, PostgresLeases
from headwater.postgres import Database
from headwater.telemetry import configure_logging

STEP_SECONDS = 0.01


async def main(dsn: str, items: int, lease_seconds: float) -> None:
    configure_logging("json", "info")
    async with Database(dsn) as database:

        async def work(holding: Holding) -> None:
            while not holding.recalled.is_set() and holding.is_valid:
                async with database.connection() as connection:
                    await connection.execute("SELECT work($1, $2)", holding.item, holding.lease.fencing_token)
                await SYSTEM_CLOCK.sleep(STEP_SECONDS)

        share = LeaseShare(PostgresLeases(database), work, group="fault", items=[str(n) for n in range(items)], lease_seconds=lease_seconds)
        await share.run()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))

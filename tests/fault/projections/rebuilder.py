"""A process of its own that rebuilds, to be killed: `python -m tests.fault.projections.rebuilder DSN`. Says each batch on a line."""

from __future__ import annotations

import asyncio
import sys

from headwater.eventstore import PostgresEventStore
from headwater.postgres import Database
from headwater.projections import RebuildProgress, rebuild
from headwater.telemetry import configure_logging
from tests.integration.projections.shop import UnitsOrdered, registry


def say(progress: RebuildProgress) -> None:
    print(progress.events_done, progress.done, flush=True)


async def main(dsn: str) -> None:
    async with Database(dsn) as database:
        await rebuild(database, PostgresEventStore(database), registry(), UnitsOrdered, progress=say)


if __name__ == "__main__":
    configure_logging()
    asyncio.run(main(sys.argv[1]))

"""A process that appends once and is killed at it; its arguments: DSN STREAM own|transaction EVENT_ID."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Sequence

from headwater.eventstore import PostgresEventStore
from headwater.messages import NewEvent
from headwater.postgres import Database

NAME = "appending-process"


async def append(dsn: str, stream_name: str, how: str, event_ids: Sequence[uuid.UUID]) -> None:
    events = [NewEvent("Happened", f'{{"n": {n}}}', event_id=event_id) for n, event_id in enumerate(event_ids)]
    async with Database(dsn, application_name=NAME) as database:
        store = PostgresEventStore(database)
        if how == "own":
            await store.append(stream_name, events, expected_version=0)
            return
        async with database.transaction() as connection:
            await store.append(stream_name, events, expected_version=0, connection=connection)


if __name__ == "__main__":
    asyncio.run(append(*sys.argv[1:4], [uuid.UUID(event_id) for event_id in sys.argv[4:]]))

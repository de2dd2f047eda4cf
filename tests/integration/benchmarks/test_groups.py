"""What the raw side copies of Headwater's way to write is what Headwater did."""

from __future__ import annotations

import pytest

from benchmarks.groups import ObservedGroups
from headwater.eventstore import PostgresEventStore
from headwater.messages import NO_STREAM, NewEvent
from headwater.postgres import Database


async def append_in_groups(database: Database, *, first: int, groups: int, size: int) -> None:
    store = PostgresEventStore(database)
    for group in range(groups):
        async with database.transaction() as connection:
            for number in range(size):
                name = f"order-{first + group * size + number}"
                await store.append(name, [NewEvent("OrderPlaced", "{}")], expected_version=NO_STREAM, connection=connection)


@pytest.mark.parametrize("size", [1, 7])
async def test_the_size_of_groups_is_that_of_the_last_turn(database: Database, size: int) -> None:
    observer = await database.connect()
    await observer.execute("SET application_name TO 'somebody else'")
    try:
        observed = ObservedGroups(observer)
        await append_in_groups(database, first=1, groups=2, size=3)
        await observed.look()
        assert (observed.group_size, observed.connection_count) == (3, 1)

        await append_in_groups(database, first=1_000, groups=4, size=size)
        await observed.look()
        assert (observed.group_size, observed.connection_count) == (size, 1)

        await observed.look()
        assert observed.group_size == size, "nothing new was written"
    finally:
        await observer.close()

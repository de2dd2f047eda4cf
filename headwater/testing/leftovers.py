"""What calls must not leave behind: transactions, locks, connections."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Final

from headwater.postgres import Connection, Database, sql_file
from headwater.testing.waiting import eventually

_PACKAGE: Final = "headwater.testing"
_LIST_LEFTOVERS = sql_file(_PACKAGE, "list_leftovers")
_COUNT_SESSIONS = sql_file(_PACKAGE, "count_sessions")

GONE_SECONDS: Final = 10.0
"""How long the server may take to notice that a client went away."""


async def nothing_left_open(observer: Connection, application_name: str | None = None) -> None:
    """Make sure that no session of this name, or no other at all, has a transaction open or holds an advisory lock.

    What the server is still carrying out gets some seconds to end. `observer` is a connection outside a transaction.

    Raises:
        AssertionError: something is left; it says what.
    """

    async def none() -> bool:
        left = [row["leftover"] for row in await observer.fetch(_LIST_LEFTOVERS, application_name)]
        assert not left, "; ".join(left)
        return True

    await eventually(none, GONE_SECONDS)


async def nobody_connected(observer: Connection, application_name: str) -> None:
    """Make sure that no session of this name is there any more.

    Raises:
        AssertionError: one still is.
    """
    await eventually(lambda: _count_sessions(observer, application_name, 0), GONE_SECONDS)


async def pool_is_whole(database: Database, connections_max: int) -> None:
    """Make sure that every connection of the pool can be borrowed, all at once, and works.

    Raises:
        StorageUnavailable: one was never given back.
    """
    async with AsyncExitStack() as stack:
        for _ in range(connections_max):
            connection = await stack.enter_async_context(database.connection())
            await connection.execute("SELECT 1")


async def _count_sessions(observer: Connection, application_name: str, wanted: int) -> bool:
    count = await observer.fetchval(_COUNT_SESSIONS, application_name)
    assert count == wanted, f"{count} sessions of {application_name} are connected"
    return True

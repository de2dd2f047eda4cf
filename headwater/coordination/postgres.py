"""Leases in PostgreSQL, on the database's clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from headwater.coordination.values import Lease, LeaseFacts, check_lease, check_seconds
from headwater.postgres import Database, sql_file

_PACKAGE: Final = "headwater.coordination"
_ACQUIRE_LEASE = sql_file(_PACKAGE, "acquire_lease")
_RENEW_LEASES = sql_file(_PACKAGE, "renew_leases")
_RELEASE_LEASE = sql_file(_PACKAGE, "release_lease")
_LIST_LEASES = sql_file(_PACKAGE, "list_leases")


class PostgresLeases:
    """`Leases` over a `Database` that somebody else opens and closes.

    What else is written in this database can be fenced in its own transaction: lock the row of `headwater.leases` with this name and term
    `FOR SHARE`, and write nothing when it is not there.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def acquire(self, name: str, holder: str, seconds: float) -> Lease | None:
        """The lease under a new term, or None while another holds it; see `Leases.acquire`."""
        check_lease(name, holder, seconds)
        async with self._database.statement_connection() as connection:
            row = await connection.fetchrow(_ACQUIRE_LEASE, name, holder, seconds)
        return None if row is None else Lease(name, row["term"], holder, row["expires_at"])

    async def renew(self, leases: Sequence[Lease], seconds: float) -> Sequence[Lease]:
        """Keep them for that much longer; see `Leases.renew`."""
        check_seconds(seconds)
        async with self._database.statement_connection() as connection:
            rows = await connection.fetch(_RENEW_LEASES, [lease.name for lease in leases], [lease.term for lease in leases], seconds)
        until = {row["name"]: row["expires_at"] for row in rows}
        return [replace(lease, expires_at=until[lease.name]) for lease in leases if lease.name in until]

    async def release(self, lease: Lease) -> None:
        """Let the next one have it at once; see `Leases.release`."""
        async with self._database.statement_connection() as connection:
            await connection.execute(_RELEASE_LEASE, lease.name, lease.term)

    async def list(self, prefix: str = "") -> Sequence[LeaseFacts]:
        """The leases whose names begin so; see `Leases.list`."""
        async with self._database.statement_connection() as connection:
            rows = await connection.fetch(_LIST_LEASES, prefix)
        return [LeaseFacts(row["name"], row["term"], row["holder"], row["expires_at"], row["is_held"]) for row in rows]

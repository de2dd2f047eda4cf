"""Who may do what with a log: its owner, the writer that services run as, and the reader.

A writer appends through the log's functions alone; it cannot insert, change or delete an event, nor draw a position. What exactly is granted
stands in `sql/grant_roles.sql`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

import asyncpg

from headwater.errors import StorageError, UsageError
from headwater.postgres.errors import translate_errors
from headwater.postgres.sessions import Connection
from headwater.postgres.statements import DEFAULT_SCHEMA, for_schema, log_schema, sql_file

_PACKAGE: Final = "headwater.postgres"
PREFIX_CHARACTERS_MAX: Final = 50
"""With `_owner` behind it, a role's name has at most 63."""
_PREFIX: Final = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Roles:
    """The names of one log's roles; roles belong to the whole server, so two databases that should not share them need names of their own."""

    owner: str
    """Owns the schema; migrations run as it."""
    writer: str
    """What a service needs: append, read, and keep its positions, dead letters, read models and sagas."""
    reader: str
    """Reads the log and all that services keep about it."""

    @classmethod
    def named(cls, prefix: str) -> Self:
        """`acme_owner`, `acme_writer` and `acme_reader`.

        Raises:
            UsageError: roles cannot begin so.
        """
        if not _PREFIX.fullmatch(prefix) or len(prefix) > PREFIX_CHARACTERS_MAX or prefix.startswith("pg_"):
            raise UsageError(
                f"roles cannot be named {prefix[:60]!r} and so on: use at most {PREFIX_CHARACTERS_MAX} lower-case letters, digits and "
                "underscores, starting with a letter, and not with pg_"
            )
        return cls(f"{prefix}_owner", f"{prefix}_writer", f"{prefix}_reader")

    def fill(self, statement: str) -> str:
        """A statement of ours with these names in it."""
        return sql_file(_PACKAGE, statement).format(owner=self.owner, writer=self.writer, reader=self.reader)


def roles_script(roles: Roles, *, schema: str = DEFAULT_SCHEMA) -> str:
    """The SQL that creates the roles, gives them the log and grants them what they need, for those who run it by hand (inside one transaction)."""
    return for_schema(f"{roles.fill('create_roles')}\n{roles.fill('grant_roles')}", schema)


async def recorded_roles(connection: Connection) -> Roles | None:
    """The roles that were set up for the log; None when there are none."""
    with translate_errors():
        if not await connection.fetchval(sql_file(_PACKAGE, "has_roles_table")):
            return None
        rows = await connection.fetch(sql_file(_PACKAGE, "list_roles"))
    return Roles(**{row["kind"]: row["role_name"] for row in rows}) if rows else None


async def apply_roles(connection: Connection, roles: Roles) -> None:
    """Create what is missing of the roles, give the log to its owner, and grant. Repeating it does nothing.

    Raises:
        StorageError: this login may not create roles or give the log away; it says who can. Nothing was changed.
    """
    try:
        async with connection.transaction(isolation="read_committed"):
            await connection.execute(sql_file(_PACKAGE, "lock_migrations"))
            await connection.execute(roles_script(roles, schema=log_schema(connection)))
    except asyncpg.InsufficientPrivilegeError as error:
        raise StorageError(
            f"PostgreSQL refused to set up the roles ({error}); let an administrator of this database run what this prints: "
            "headwater migrate --roles --sql"
        ) from error


def as_owner(roles: Roles | None, script: str) -> str:
    """A script of migrations with what belongs before and after it where roles are set up: what is new belongs to the owner and is granted."""
    return script if roles is None else f"{roles.fill('become_owner')}\n{script}\n{roles.fill('grant_roles')}"

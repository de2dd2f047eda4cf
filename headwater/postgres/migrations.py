"""Schema changes: numbered files, applied once each, in order, under a lock."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from headwater.errors import MigrationNeeded
from headwater.postgres.errors import translate_errors
from headwater.postgres.roles import Roles, as_owner, recorded_roles
from headwater.postgres.sessions import Connection
from headwater.postgres.statements import DEFAULT_SCHEMA, for_schema, log_schema, sql_file

_PACKAGE = "headwater.postgres"


@dataclass(frozen=True, slots=True)
class Migration:
    """One change: `0007_expand_…` runs before the code that needs it, `0008_contract_…` after the code that did is gone."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """How a database's schema relates to this version of Headwater."""

    applied: tuple[str, ...]
    pending: tuple[Migration, ...]
    changed: tuple[str, ...]
    """Applied from a file that reads otherwise here."""
    unknown: tuple[str, ...]
    """Applied by a newer version."""

    @property
    def is_current(self) -> bool:
        newer_contract = any("_contract_" in name for name in self.unknown)
        return not (self.pending or self.changed or newer_contract)

    def explain(self) -> str:
        """What is wrong and what to run; empty when nothing is."""
        if self.changed:
            return f"the migrations {', '.join(self.changed)} were applied from other text than this version has: install the version that applied them"
        if self.pending:
            return f"{len(self.pending)} migrations are missing ({', '.join(m.name for m in self.pending)}); run: headwater migrate"
        if not self.is_current:
            return f"the database was migrated by a newer Headwater ({', '.join(self.unknown)}): install that version"
        return ""


@cache
def load_migrations() -> tuple[Migration, ...]:
    """Every migration this version knows, in order."""
    folder = resources.files(_PACKAGE).joinpath("migrations")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return tuple(Migration(name.removesuffix(".sql"), folder.joinpath(name).read_text(encoding="utf-8")) for name in names)


async def migration_status(connection: Connection) -> MigrationStatus:
    """Compare the database with the files; changes nothing."""
    with translate_errors():
        exists = await connection.fetchval(sql_file(_PACKAGE, "has_migrations_table"))
        rows = await connection.fetch(sql_file(_PACKAGE, "list_migrations")) if exists else []
    applied: dict[str, str] = {row["name"]: row["checksum"] for row in rows}
    known = {migration.name: migration for migration in load_migrations()}
    return MigrationStatus(
        applied=tuple(applied),
        pending=tuple(m for m in known.values() if m.name not in applied),
        changed=tuple(name for name, checksum in applied.items() if name in known and known[name].checksum != checksum),
        unknown=tuple(name for name in applied if name not in known),
    )


async def apply_migrations(connection: Connection) -> tuple[Migration, ...]:
    """Apply what is missing, in one transaction, under a lock; returns what was applied. Repeating it does nothing.

    Raises:
        MigrationNeeded: an applied migration reads otherwise here; nothing was changed.
    """
    with translate_errors():
        async with connection.transaction(isolation="read_committed"):
            await connection.execute(sql_file(_PACKAGE, "lock_migrations"))
            status = await migration_status(connection)
            if status.changed:
                raise MigrationNeeded(status.explain())
            if status.pending:
                script = migration_script(status.pending, schema=log_schema(connection), roles=await recorded_roles(connection))
                await connection.execute(script)
            if await connection.fetchval(sql_file(_PACKAGE, "may_keep_namespace")):
                await connection.fetchval(sql_file(_PACKAGE, "keep_namespace"))
            return status.pending


def migration_script(migrations: tuple[Migration, ...], *, schema: str = DEFAULT_SCHEMA, roles: Roles | None = None) -> str:
    """The SQL that applies these and records that they were, for those who run it by hand (inside one transaction).

    Args:
        roles: those that are set up for the log, so that what is new is theirs, too.
    """
    if not migrations:
        return ""
    parts = [sql_file(_PACKAGE, "create_migrations_table")]
    record = sql_file(_PACKAGE, "record_migration")
    for migration in migrations:
        parts += [f"-- {migration.name}\n{migration.sql}", record.format(name=migration.name, checksum=migration.checksum)]
    return for_schema(as_owner(roles, "\n".join(part.rstrip() + "\n" for part in parts)), schema)


async def require_current_schema(connection: Connection) -> None:
    """Refuse a database whose schema this version cannot work with.

    Raises:
        MigrationNeeded: with what to run.
    """
    status = await migration_status(connection)
    if not status.is_current:
        raise MigrationNeeded(f"the database's schema does not fit this version of Headwater: {status.explain()}")

"""`headwater migrate`: bring a database to this version's schema, or say what that would take."""

from __future__ import annotations

import json

from headwater.cli.running import run_async
from headwater.config import load_settings
from headwater.errors import ConfigurationError
from headwater.postgres import Database, MigrationStatus, apply_migrations, migration_script, migration_status


def run_migrate(*, check: bool, sql: bool, json_output: bool) -> int:
    """Apply, check or print; returns the exit status."""
    return run_async(_migrate(check=check, sql=sql, json_output=json_output))


async def _migrate(*, check: bool, sql: bool, json_output: bool) -> int:
    postgres = load_settings().postgres
    if postgres is None:
        raise ConfigurationError("which database? set HEADWATER_POSTGRES=postgresql://user:password@host:port/database")
    async with Database(postgres, connections_max=1) as database, database.connection() as connection:
        status = await migration_status(connection)
        if sql:
            print(migration_script(status.pending), end="")
            return 0
        if check:
            return _report_check(status, database.address, json_output)
        applied = [migration.name for migration in await apply_migrations(connection)]
        if json_output:
            print(json.dumps({"applied": applied}))
        else:
            print(f"applied to {database.address}: {', '.join(applied)}" if applied else f"{database.address} is up to date")
        return 0


def _report_check(status: MigrationStatus, address: str, json_output: bool) -> int:
    if json_output:
        pending = [migration.name for migration in status.pending]
        facts = {
            "current": status.is_current,
            "applied": status.applied,
            "pending": pending,
            "changed": status.changed,
            "unknown": status.unknown,
        }
        print(json.dumps(facts))
    else:
        print(f"{address} is up to date" if status.is_current else f"{address}: {status.explain()}")
    return 0 if status.is_current else 1

"""`headwater migrate`: bring a database to this version's schema, or say what that would take."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from headwater.cli.running import run_async
from headwater.config import load_settings
from headwater.errors import ConfigurationError
from headwater.postgres import (
    Connection,
    Database,
    MigrationStatus,
    Roles,
    apply_migrations,
    apply_roles,
    check_schema,
    migration_script,
    migration_status,
    recorded_roles,
    roles_script,
)


@dataclass(frozen=True, slots=True)
class MigrateRequest:
    """What was asked for."""

    check: bool
    sql: bool
    roles: bool
    schema: str | None
    role_prefix: str | None
    json_output: bool


def run_migrate(request: MigrateRequest) -> int:
    """Apply, check or print; returns the exit status."""
    return run_async(_migrate(request))


async def _migrate(request: MigrateRequest) -> int:
    settings = load_settings(log_schema=request.schema)
    schema = check_schema(settings.log_schema)
    roles = Roles.named(request.role_prefix or schema) if request.roles or request.role_prefix else None
    if roles is not None and request.sql:
        print(roles_script(roles, schema=schema), end="")
        return 0
    if settings.postgres is None:
        raise ConfigurationError(
            "which database? set HEADWATER_POSTGRES=postgresql://user:password@host:port/database, or `postgres` in headwater.yaml"
        )
    pooling = settings.postgres_pooling
    async with (
        Database(settings.postgres, connections_max=1, schema=schema, pooling=pooling) as database,
        database.connection() as connection,
    ):
        status = await migration_status(connection)
        if request.sql:
            print(migration_script(status.pending, schema=schema, roles=await recorded_roles(connection)), end="")
            return 0
        if request.check:
            return _report_check(status, database.address, request.json_output)
        await _apply(connection, database, roles, json_output=request.json_output)
        return 0


async def _apply(connection: Connection, database: Database, roles: Roles | None, *, json_output: bool) -> None:
    applied = [migration.name for migration in await apply_migrations(connection)]
    if roles is not None:
        await apply_roles(connection, roles)
    known = await recorded_roles(connection)
    if json_output:
        print(json.dumps({"applied": applied, "schema": database.schema, "roles": None if known is None else asdict(known)}))
        return
    where = f"{database.address} (schema {database.schema})"
    print(f"applied to {where}: {', '.join(applied)}" if applied else f"{where} is up to date")
    if known is not None:
        print(
            f"roles: {known.owner} owns the log, {known.writer} is for services, {known.reader} for those who look; grant them to your logins"
        )
    elif applied:
        print("no roles were set up, so only this login can use the log; for least privilege: headwater migrate --roles")


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

"""`headwater migrate --schema` and `--roles`, and commands that look into a tenant's log."""

from __future__ import annotations

import asyncio
import json

import asyncpg

from tests.acceptance.cli.conftest import Command

APPEND = "SELECT acme.append_events('order-1', 0, ARRAY['OrderPlaced'], ARRAY['{\"sku\": \"chai\"}'::jsonb])"


def execute(dsn: str, *statements: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


def test_a_tenant_is_made_and_looked_into(headwater: Command, empty_postgres_dsn: str) -> None:
    postgres = {"HEADWATER_POSTGRES": empty_postgres_dsn}
    made = json.loads(headwater.run("migrate", "--schema", "acme", "--json", **postgres).stdout)
    assert (made["schema"], made["roles"]) == ("acme", None)
    execute(empty_postgres_dsn, APPEND)
    tenant = postgres | {"HEADWATER_SCHEMA": "acme"}
    assert headwater.run("migrate", "--check", **tenant).returncode == 0
    assert headwater.run("migrate", "--check", **postgres).returncode == 1
    assert json.loads(headwater.run("log", "stats", "--json", **tenant).stdout)["event_count"] == 1
    default = headwater.run("log", "stats", "--json", **postgres)
    assert (default.returncode, json.loads(default.stderr)["error"]) == (1, "MigrationNeeded")


def test_names_that_cannot_be_are_refused(headwater: Command, empty_postgres_dsn: str) -> None:
    for arguments in (("--schema", "public"), ("--schema", "Acme"), ("--roles", "--role-prefix", "pg_x")):
        refused = headwater.run("migrate", *arguments, "--json", HEADWATER_POSTGRES=empty_postgres_dsn)
        assert (refused.returncode, json.loads(refused.stderr)["error"]) == (2, "UsageError")


def test_the_roles_script_does_what_the_command_does(headwater: Command, empty_postgres_dsn: str) -> None:
    postgres, prefix = {"HEADWATER_POSTGRES": empty_postgres_dsn}, "headwater_test_cli"
    assert "headwater migrate --roles" in headwater.run("migrate", "--schema", "acme", **postgres).stdout
    script = headwater.run("migrate", "--schema", "acme", "--roles", "--role-prefix", prefix, "--sql")
    assert script.returncode == 0
    execute(empty_postgres_dsn, script.stdout, APPEND)
    told = headwater.run("migrate", "--schema", "acme", "--roles", "--role-prefix", prefix, "--json", **postgres)
    roles = {kind: f"{prefix}_{kind}" for kind in ("owner", "writer", "reader")}
    assert json.loads(told.stdout) == {"applied": [], "schema": "acme", "roles": roles}
    execute(empty_postgres_dsn, *(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}" for role in reversed(roles.values())))

"""Least privilege: what each role may do with each thing in the log's schema, tried by a login that has that role alone."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from headwater.config import Settings
from headwater.errors import StorageError
from headwater.eventstore import PostgresEventStore
from headwater.messages import ANY
from headwater.postgres import Database, Roles, apply_migrations, apply_roles, load_migrations, migration_script, recorded_roles, sql_file
from headwater.testing import MigratedDatabases
from tests.integration.eventstore.logs import OrderPlaced
from tests.integration.tenants.shop import shop, work

GRANTS = sql_file("headwater.postgres", "grant_roles")
REFUSED = ("42501",)
NOT_POSSIBLE = ("55000", "42809")
"""A view of several tables cannot be written, nor truncated, whoever tries."""
LOG = ("events", "streams", "log", "log_epochs")


@dataclass(frozen=True)
class Site:
    """A log with its roles, and how to come in as each."""

    dsn: str
    schema: str
    roles: Roles

    def login(self, kind: str) -> str:
        """The address for a login that has this role alone."""
        return as_user(self.dsn, f"{getattr(self.roles, kind)}_login")


def as_user(dsn: str, user: str) -> str:
    parts = urlsplit(dsn)
    return parts._replace(netloc=f"{user}@{parts.netloc.rsplit('@', 1)[-1]}").geturl()


@pytest.fixture(params=["headwater", "acme"])
def schema(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def role_prefix(headwater_databases: MigratedDatabases) -> Iterator[str]:
    """Roles belong to the whole server; these go when the test's database has gone."""
    prefix = f"headwater_test_{uuid4().hex[:10]}"
    yield prefix
    for kind in ("writer_login", "reader_login", "owner_login", "writer", "reader", "owner", "plain"):
        headwater_databases._administer(f"DROP ROLE IF EXISTS {prefix}_{kind}")


@pytest.fixture
async def site(role_prefix: str, schema: str, headwater_databases: MigratedDatabases) -> AsyncIterator[Site]:
    dsn = await asyncio.to_thread(headwater_databases.create, migrated=False)
    roles = Roles.named(role_prefix)
    async with Database(dsn, schema=schema) as database, database.connection() as connection:
        await apply_migrations(connection)
        for _ in range(2):
            await apply_roles(connection, roles)
        for name in (roles.owner, roles.writer, roles.reader):
            await connection.execute(f"CREATE ROLE {name}_login LOGIN IN ROLE {name}")
    yield Site(dsn, schema, roles)
    await asyncio.to_thread(headwater_databases.drop, dsn)


async def outcome(connection: asyncpg.Connection, statement: str) -> str:
    """The SQLSTATE that a statement ends with; whatever it did is undone."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statement)
        return "done"
    except asyncpg.PostgresError as error:
        return str(error.sqlstate)
    finally:
        await transaction.rollback()


async def relations(connection: asyncpg.Connection, schema: str) -> list[asyncpg.Record]:
    return await connection.fetch(
        """
        SELECT c.relname AS name, c.relkind::text AS kind, min(a.attname) FILTER (WHERE a.attnum = 1) AS column
          FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
         WHERE c.relnamespace = $1::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
         GROUP BY c.oid
        """,
        schema,
    )


async def functions(connection: asyncpg.Connection, schema: str) -> list[asyncpg.Record]:
    return await connection.fetch(
        """
        SELECT p.proname AS name, p.oid::regprocedure::text AS signature, p.prosecdef AS is_definer, p.proconfig AS settings, p.oid,
               (SELECT coalesce(string_agg(format('NULL::%s', format_type(t.oid, NULL)), ', ' ORDER BY t.n), '')
                  FROM unnest(p.proargtypes) WITH ORDINALITY AS t(oid, n)) AS nulls
          FROM pg_proc AS p
         WHERE p.pronamespace = $1::regnamespace
        """,
        schema,
    )


def granted(role: str) -> dict[str, set[str]]:
    """What the script grants to a role, by name of the thing."""
    found: dict[str, set[str]] = {}
    for rights, things, grantees in re.findall(
        r"^GRANT ([A-Z, ]+?) ON\s+(?!SCHEMA)(?:FUNCTION )?(.+?)\s+TO ([^;]+);", GRANTS, re.MULTILINE | re.DOTALL
    ):
        if f"{{{role}}}" in grantees:
            for thing in re.findall(r"headwater\.(\w+)", things):
                found.setdefault(thing, set()).update(rights.split(", "))
    return found


def statements(schema: str, relation: asyncpg.Record) -> dict[str, str]:
    """One for every right that a table, a view or a sequence knows."""
    name = f'"{schema}".{relation["name"]}'
    if relation["kind"] == "S":
        return {
            "SELECT": f"SELECT last_value FROM {name}",
            "USAGE": f"SELECT nextval('{schema}.{relation['name']}')",
            "UPDATE": f"SELECT setval('{schema}.{relation['name']}', 1)",
            "ALTER": f"ALTER SEQUENCE {name} RESTART",
        }
    return {
        "SELECT": f"SELECT FROM {name}",
        "INSERT": f"INSERT INTO {name} DEFAULT VALUES",
        "UPDATE": f"UPDATE {name} SET {relation['column']} = DEFAULT",
        "DELETE": f"DELETE FROM {name}",
        "TRUNCATE": f"TRUNCATE {name}",
        "ALTER": f"ALTER {'VIEW' if relation['kind'] == 'v' else 'TABLE'} {name} RENAME TO taken",
        "DROP": f"DROP {'VIEW' if relation['kind'] == 'v' else 'TABLE'} {name}",
    }


# -- declared


async def test_everything_in_the_schema_is_declared(site: Site) -> None:
    """Whoever adds a table or a function says in `sql/grant_roles.sql` who may use it, if only that it is the owner's alone."""
    async with Database(site.dsn, schema=site.schema) as database, database.connection() as connection:
        names = {row["name"] for row in [*await relations(connection, site.schema), *await functions(connection, site.schema)]}
    declared = set(re.findall(r"headwater\.(\w+)", GRANTS))
    assert names - declared == set(), (
        "name these in headwater/postgres/sql/grant_roles.sql: GRANT to writer or reader, or REVOKE at its end"
    )
    assert declared - names == set()


async def test_functions_run_by_others_are_closed_to_the_public_and_keep_their_search_path(site: Site) -> None:
    async with Database(site.dsn, schema=site.schema) as database, database.connection() as connection:
        found = await functions(connection, site.schema)
        owners = {row["owner"] for row in await connection.fetch(
            "SELECT DISTINCT relowner::regrole::text AS owner FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind <> 'i' "
            "UNION SELECT proowner::regrole::text FROM pg_proc WHERE pronamespace = $1::regnamespace "
            "UNION SELECT nspowner::regrole::text FROM pg_namespace WHERE oid = $1::regnamespace", site.schema)}  # fmt: skip
        open_to_all = await connection.fetch(
            "SELECT p.proname FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS acl "
            "WHERE p.pronamespace = $1::regnamespace AND acl.grantee = 0", site.schema)  # fmt: skip
    assert owners == {site.roles.owner}
    assert [row["proname"] for row in open_to_all] == []
    definers = [row for row in found if row["is_definer"]]
    assert {row["name"] for row in definers} >= {"append_events", "open_log"}
    for row in definers:
        assert "search_path=pg_catalog, pg_temp" in (row["settings"] or []), row["name"]


# -- tried


@pytest.mark.parametrize("kind", ["writer", "reader"])
async def test_each_role_may_do_what_is_granted_and_nothing_else(site: Site, kind: str) -> None:
    rights, tried = granted(kind), 0
    connection = await asyncpg.connect(site.login(kind))
    for relation in await relations(connection, site.schema):
        for right, statement in statements(site.schema, relation).items():
            ended = await outcome(connection, statement)
            tried += 1
            if right in rights.get(relation["name"], ()):
                assert ended not in REFUSED, (statement, ended)
            else:
                assert ended in (REFUSED if relation["kind"] != "v" else REFUSED + NOT_POSSIBLE), (statement, ended)
    for function in await functions(connection, site.schema):
        ended = await outcome(connection, f'SELECT "{site.schema}".{function["name"]}({function["nulls"]})')
        tried += 1
        assert (ended not in REFUSED) == ("EXECUTE" in rights.get(function["name"], ())), (function["signature"], ended)
    for statement in (
        f'CREATE TABLE "{site.schema}".mine (x int)',
        f"CREATE FUNCTION \"{site.schema}\".mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        f'DROP SCHEMA "{site.schema}" CASCADE',
        f"SET ROLE {site.roles.owner}",
        f"GRANT {site.roles.owner} TO CURRENT_USER",
    ):
        assert await outcome(connection, statement) in REFUSED, statement
    await connection.close()
    assert tried > 80


@pytest.mark.parametrize("kind", ["writer", "reader"])
async def test_nobody_but_the_owner_touches_events(site: Site, kind: str) -> None:
    """Said again by hand, so that no mistake in the script's own words can hide here."""
    async with Database(site.dsn, schema=site.schema) as database:
        await PostgresEventStore(database).append("order-1", [OrderPlaced()], expected_version=0)
    connection = await asyncpg.connect(site.login(kind))
    schema = f'"{site.schema}"'
    for statement in (
        f"INSERT INTO {schema}.events SELECT * FROM {schema}.events",
        f"UPDATE {schema}.events SET data = '{{}}'",
        f"DELETE FROM {schema}.events",
        f"TRUNCATE {schema}.events",
        f"SELECT FROM {schema}.events FOR UPDATE",
        f"LOCK TABLE {schema}.events IN ACCESS EXCLUSIVE MODE",
        f"COPY {schema}.events FROM STDIN",
        f"INSERT INTO {schema}.streams (stream_name) VALUES ('order-2')",
        f"SELECT nextval('{site.schema}.global_position_seq')",
        f"SELECT setval('{site.schema}.global_position_seq', 1)",
        f"ALTER TABLE {schema}.events DISABLE TRIGGER ALL",
        f"CREATE RULE r AS ON INSERT TO {schema}.events DO INSTEAD NOTHING",
        f"SELECT {schema}.take_append_lock()",
        f"DELETE FROM {schema}.log_epochs",
        f"DELETE FROM {schema}.migrations",
        f"INSERT INTO {schema}.roles VALUES ('owner', 'me')",
    ):
        assert await outcome(connection, statement) in REFUSED, statement
    await connection.close()


async def test_the_reader_reads_the_log_and_appends_nothing(site: Site) -> None:
    async with Database(site.login("writer"), schema=site.schema) as database:
        await PostgresEventStore(database).append("order-1", [OrderPlaced()], expected_version=0)
    async with Database(site.login("reader"), schema=site.schema) as database:
        store = PostgresEventStore(database)
        assert [event.version async for event in store.read_stream("order-1")] == [1]
        assert [event.global_position for event in (await store.read_log(after=0)).events] == [1]
        assert (await store.identity()).log_id
        with pytest.raises(StorageError, match=r"permission denied.*migrate --roles"):
            await store.append("order-1", [OrderPlaced()], expected_version=ANY)


async def test_a_login_without_a_role_sees_nothing(site: Site, role_prefix: str) -> None:
    async with Database(site.dsn, schema=site.schema) as database, database.connection() as connection:
        await connection.execute(f"CREATE ROLE {role_prefix}_plain LOGIN")
    connection = await asyncpg.connect(as_user(site.dsn, f"{role_prefix}_plain"))
    for relation in ("events", "log", "migrations"):
        assert await outcome(connection, f'SELECT FROM "{site.schema}".{relation}') in REFUSED
    assert await outcome(connection, f'SELECT "{site.schema}".read_horizon()') in REFUSED
    await connection.close()


@pytest.mark.parametrize("schema", ["acme"], indirect=False)
async def test_a_whole_service_runs_as_the_writer(site: Site, kafka_bootstrap: str) -> None:
    """In a schema of its own, for the topics of the default one are other tests' topics."""
    schema = f"t{uuid4().hex[:10]}"
    async with Database(site.dsn, schema=schema) as database, database.connection() as connection:
        await apply_migrations(connection)
        await apply_roles(connection, site.roles)
    service = shop(Settings(postgres=site.login("writer"), kafka=kafka_bootstrap, log_schema=schema, topic_partitions=2))
    async with service:
        await work(service, "chai", "miso")
        await service.replay("lines_per_sku")


# -- setting up


async def test_the_owner_migrates_and_what_is_new_is_granted(site: Site) -> None:
    """By a login that acts for the owner; the script grants to the roles that were set up."""
    script = migration_script(load_migrations()[:1], schema="other", roles=site.roles)
    assert f"SET LOCAL ROLE {site.roles.owner}" in script
    assert f"TO {site.roles.writer}" in script
    async with Database(site.login("owner"), schema=site.schema) as database, database.connection() as connection:
        assert await recorded_roles(connection) == site.roles
        assert await apply_migrations(connection) == ()


async def test_roles_need_someone_who_may_create_them(role_prefix: str, headwater_databases: MigratedDatabases) -> None:
    """A plain owner of the database migrates, and is told what an administrator has to run."""
    dsn = await asyncio.to_thread(headwater_databases.create, migrated=False)
    name = urlsplit(dsn).path[1:]
    await asyncio.to_thread(headwater_databases._administer, f"CREATE ROLE {role_prefix}_plain LOGIN")
    await asyncio.to_thread(headwater_databases._administer, f'ALTER DATABASE "{name}" OWNER TO {role_prefix}_plain')
    async with Database(as_user(dsn, f"{role_prefix}_plain")) as database, database.connection() as connection:
        await apply_migrations(connection)
        with pytest.raises(StorageError, match=r"administrator.*headwater migrate --roles --sql"):
            await apply_roles(connection, Roles.named(role_prefix))
        assert await recorded_roles(connection) is None
    await asyncio.to_thread(headwater_databases.drop, dsn)


async def test_an_administrator_who_is_no_superuser_sets_them_up(role_prefix: str, headwater_databases: MigratedDatabases) -> None:
    """As on managed servers: CREATEROLE and the database's owner, no more."""
    dsn = await asyncio.to_thread(headwater_databases.create, migrated=False)
    name = urlsplit(dsn).path[1:]
    await asyncio.to_thread(headwater_databases._administer, f"CREATE ROLE {role_prefix}_plain LOGIN CREATEROLE")
    await asyncio.to_thread(headwater_databases._administer, f'ALTER DATABASE "{name}" OWNER TO {role_prefix}_plain')
    roles = Roles.named(role_prefix)
    async with Database(as_user(dsn, f"{role_prefix}_plain")) as database, database.connection() as connection:
        await apply_migrations(connection)
        for _ in range(2):
            await apply_roles(connection, roles)
        await connection.execute(f"CREATE ROLE {roles.writer}_login LOGIN IN ROLE {roles.writer}")
        assert await recorded_roles(connection) == roles
    async with Database(as_user(dsn, f"{roles.writer}_login")) as database:
        result = await PostgresEventStore(database).append("order-1", [OrderPlaced()], expected_version=0)
        assert result.global_position == 1
    await asyncio.to_thread(headwater_databases.drop, dsn)
    for role in (f"{roles.writer}_login", roles.writer, roles.reader, roles.owner):
        await asyncio.to_thread(headwater_databases._administer, f"DROP ROLE {role}")

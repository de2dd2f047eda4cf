"""Statements are written for one schema and sent to any; names that cannot be one are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headwater.errors import UsageError
from headwater.postgres import (
    DEFAULT_SCHEMA,
    Roles,
    check_schema,
    for_schema,
    load_migrations,
    migration_script,
    roles_script,
    topic_prefix,
)
from headwater.postgres.statements import SCHEMA_CHARACTERS_MAX
from headwater.projections.definition import HOME_CHARACTERS_MAX, ProjectionDefinition

PACKAGE = Path(__file__).parents[3] / "headwater"
SQL_FILES = sorted(path for path in PACKAGE.rglob("*.sql") if path.name != "schema.sql")
# What people read may name Headwater, a savepoint is nobody else's to see, and a channel's name ends with the log's own number.
_ALLOWED = re.compile(r"--.*$|headwater (?:migrate|replay|[a-z-]+ [a-z]+)|headwater_handler|headwater_log_", re.MULTILINE)


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("SELECT headwater.read_horizon()", 'SELECT "acme".read_horizon()'),
        ("SELECT nextval('headwater.global_position_seq')", "SELECT nextval('acme.global_position_seq')"),
        ("current_setting('headwater.append_lock', true)", "current_setting('acme.append_lock', true)"),
        ("WHERE relnamespace = 'headwater'::regnamespace", "WHERE relnamespace = 'acme'::regnamespace"),
        ("hashtext('headwater.' || $1)", "hashtext('acme.' || $1)"),
        ("CREATE SCHEMA headwater;", 'CREATE SCHEMA "acme";'),
        ("ALL TABLES IN SCHEMA headwater FROM", 'ALL TABLES IN SCHEMA "acme" FROM'),
        ("SAVEPOINT headwater_handler|headwater_log_", "SAVEPOINT headwater_handler|headwater_log_"),
        ("RAISE EXCEPTION 'run: headwater migrate'", "RAISE EXCEPTION 'run: headwater migrate'"),
        ("my_headwater.x other.headwater.y", "my_headwater.x other.headwater.y"),
    ],
)
def test_statements_are_sent_to_the_tenants_schema(written: str, sent: str) -> None:
    assert for_schema(written, "acme") == sent
    assert for_schema(written, DEFAULT_SCHEMA) == written


@pytest.mark.parametrize("path", SQL_FILES, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_nothing_of_a_statement_stays_with_the_default_schema(path: Path) -> None:
    """A new way to spell the schema must be taught to `for_schema`, or the statement would reach another tenant's log."""
    sent = _ALLOWED.sub("", for_schema(path.read_text(encoding="utf-8"), "acme"))
    assert "headwater" not in sent


def test_statements_that_are_filled_in_do_not_name_the_schema() -> None:
    """What `format` gives is no text of a file any more, so a tenant's connection sends it as it is; these few are rewritten where they are made."""
    filled = {
        path.stem
        for path in SQL_FILES
        if re.search(r"\{[a-z_]+\}", path.read_text("utf-8")) and "headwater" in _ALLOWED.sub("", path.read_text("utf-8"))
    }
    assert filled == {"record_migration", "create_roles", "grant_roles"}


def test_no_python_names_the_default_schema_to_the_driver() -> None:
    """A COPY takes the schema apart from the statement: give it `log_schema(connection)`."""
    found = [path for path in PACKAGE.rglob("*.py") if re.search(r"schema_name=[\"']headwater", path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize("kind", ["advisory_lock", "advisory_xact_lock"])
def test_every_advisory_lock_belongs_to_one_log(kind: str) -> None:
    """The migrators' lock alone is meant for all logs of a database: it is how they choose different namespaces."""
    calls = [
        (path.name, call) for path in SQL_FILES for call in re.findall(rf"pg_(?:try_)?{kind}(?:_shared)?\((.*)", path.read_text("utf-8"))
    ]
    for name, call in calls:
        assert "append_lock_namespace()" in call or "'headwater." in call or "7522525896805148018" in call, (name, call)


@pytest.mark.parametrize("name", ["acme", "a", "tenant_7", "order", "x" * SCHEMA_CHARACTERS_MAX, "a_1_b"])
def test_names_that_a_log_may_have(name: str) -> None:
    assert check_schema(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "public", "information_schema", "pg_toast", "pg_x", "plpgsql", "projection_units", "Acme", "1a", "a-b", "a.b", 'a"b'),
        *("a__b", "a_", "_a", "x" * (SCHEMA_CHARACTERS_MAX + 1), "é", "a b", "a;drop"),
    ],
)
def test_names_that_a_log_may_not_have(name: str) -> None:
    with pytest.raises(UsageError, match="schema cannot be named"):
        check_schema(name)


def test_the_script_by_hand_is_the_tenants() -> None:
    script = migration_script(load_migrations(), schema="acme", roles=Roles.named("acme"))
    assert 'CREATE TABLE "acme".events' in script
    assert "SET LOCAL ROLE acme_owner" in script
    assert "headwater." not in _ALLOWED.sub("", script)
    assert "headwater." not in _ALLOWED.sub("", roles_script(Roles.named("acme"), schema="acme"))


@pytest.mark.parametrize("prefix", ["", "Acme", "pg_acme", "a-b", 'a"', "x" * 51])
def test_role_prefixes_that_are_refused(prefix: str) -> None:
    with pytest.raises(UsageError, match="roles cannot be named"):
        Roles.named(prefix)


def test_read_models_of_two_logs_never_share_a_schema() -> None:
    names = ["units_ordered", "u" * 40, "u" * 39 + "v", "a"]
    schemas = [DEFAULT_SCHEMA, "acme", "acme_a", "a", "b", "x" * 40, "x" * 39 + "y"]
    homes = [ProjectionDefinition(name, object, False, {}).schema_name(role, log_schema=schema)  # type: ignore[arg-type]
             for name in names for schema in schemas for role in ("live", "next", "old", "verify")]  # fmt: skip
    assert len(set(homes)) == len(homes)
    assert max(map(len, homes)) <= HOME_CHARACTERS_MAX + len("__verify") <= 63
    assert "projection_units_ordered" in homes
    assert "acme__units_ordered" in homes


def test_topics_of_the_default_log_keep_their_names() -> None:
    assert (topic_prefix(DEFAULT_SCHEMA), topic_prefix("acme")) == ("", "acme.")

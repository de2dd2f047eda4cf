"""Headwater's own SQL, and the schema it is meant for.

Every statement, migration and function is written for the schema `headwater`. A log that lives in another schema of the same database gets
the same text with that schema's name in it, made once for each statement. Only the statements of Headwater's own files are touched: what a user's
handler sends may say `headwater.` in its data.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from importlib import resources
from typing import Any, Final

from headwater.errors import UsageError

DEFAULT_SCHEMA: Final = "headwater"
SCHEMA_CHARACTERS_MAX: Final = 40
"""With it Kafka's topics (249 characters) and the schemas of read models (63) keep their room."""
_STATEMENTS_CACHED_MAX: Final = 8_192
_NAME: Final = re.compile(r"[a-z](?:_?[a-z0-9])*")
_TAKEN: Final = frozenset({"public", "information_schema", "plpgsql"})
_TAKEN_PREFIXES: Final = ("pg_", "projection_")


_own_statements: Final[set[str]] = set()


@cache
def sql_file(package: str, name: str) -> str:
    """The statement in `<package>/sql/<name>.sql`, read once."""
    text = resources.files(package).joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
    _own_statements.add(text)
    return text


def is_own(sql: str) -> bool:
    """Whether this is one of Headwater's statements, as it stands in its file."""
    return sql in _own_statements


@lru_cache(maxsize=_STATEMENTS_CACHED_MAX)
def for_schema(sql: str, schema: str) -> str:
    """Headwater's SQL as it is sent to a log in this schema."""
    if schema == DEFAULT_SCHEMA:
        return sql
    return _MENTION.sub(lambda found: _renamed(found, schema), sql)


# A name at the beginning of a quoted text (a setting, a sequence for nextval, a schema's name) is written without quotes of its own.
_MENTION: Final = re.compile(
    r"'headwater(?=['.])|(?<![\w.'\"])headwater(?=\.)|(?<=\bSCHEMA )headwater\b|(?<=\bSCHEMA IF NOT EXISTS )headwater\b"
)


def _renamed(found: re.Match[str], schema: str) -> str:
    return f"'{schema}" if found[0].startswith("'") else f'"{schema}"'


_known_schemas: Final[set[str]] = {DEFAULT_SCHEMA}


def check_schema(name: str) -> str:
    """The name, if a log may live in a schema of this name; errors about that schema are then recognised as the log's.

    Raises:
        UsageError: it cannot, and why.
    """
    if not _NAME.fullmatch(name) or len(name) > SCHEMA_CHARACTERS_MAX:
        raise UsageError(
            f"a log's schema cannot be named {name[:60]!r}: use at most {SCHEMA_CHARACTERS_MAX} lower-case letters, digits and single underscores, "
            "starting with a letter and not ending with an underscore"
        )
    if name in _TAKEN or name.startswith(_TAKEN_PREFIXES):
        raise UsageError(f"a log's schema cannot be named {name!r}: PostgreSQL or Headwater has its own use for that name; choose another")
    _known_schemas.add(name)
    return name


def names_log_schema(message: str) -> bool:
    """Whether a server's message speaks of a log's schema, or of something in one."""
    return any(f"{schema}." in message or f'schema "{schema}"' in message for schema in _known_schemas)


def log_schema(connection: Any) -> str:
    """The schema of the log that Headwater's statements reach on this connection."""
    schema: str = getattr(connection, "log_schema", DEFAULT_SCHEMA)
    return schema


def topic_prefix(schema: str) -> str:
    """What the Kafka topics and groups of a log in this schema begin with; nothing for the default schema."""
    return "" if schema == DEFAULT_SCHEMA else f"{schema}."

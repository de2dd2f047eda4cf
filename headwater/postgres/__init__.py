"""PostgreSQL as every room uses it: the pool, transactions, migrations, and errors translated once.

Who is authoritative: the database. A `Database` holds nothing but connections; it can be dropped at any moment and opened again.
What can fail: the server cannot be reached or goes away (`StorageUnavailable`: an open transaction's outcome is then unknown until the caller
looks), the schema is not ours (`MigrationNeeded`), a transaction loses against another (`TransactionConflict`: repeat the whole of it).

Connections come from outside: inside a room, a function that touches the database takes the connection as its first argument; only the
outermost object opens one.
"""

from headwater.postgres.addresses import check_address
from headwater.postgres.connections import (
    CONNECTIONS_MAX,
    CallerConnection,
    Database,
    Pooling,
    driver_connection,
)
from headwater.postgres.errors import translate_data_errors, translate_errors
from headwater.postgres.migrations import (
    Migration,
    MigrationStatus,
    apply_migrations,
    load_migrations,
    migration_script,
    migration_status,
    require_current_schema,
)
from headwater.postgres.roles import Roles, apply_roles, recorded_roles, roles_script
from headwater.postgres.sessions import Connection
from headwater.postgres.statements import DEFAULT_SCHEMA, check_schema, for_schema, log_schema, sql_file, topic_prefix

__all__ = [
    "CONNECTIONS_MAX",
    "DEFAULT_SCHEMA",
    "CallerConnection",
    "Connection",
    "Database",
    "Migration",
    "MigrationStatus",
    "Pooling",
    "Roles",
    "apply_migrations",
    "apply_roles",
    "check_address",
    "check_schema",
    "driver_connection",
    "for_schema",
    "load_migrations",
    "log_schema",
    "migration_script",
    "migration_status",
    "recorded_roles",
    "require_current_schema",
    "roles_script",
    "sql_file",
    "topic_prefix",
    "translate_data_errors",
    "translate_errors",
]

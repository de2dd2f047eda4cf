"""PostgreSQL as every room uses it: the pool, transactions, migrations, and errors translated once.

Who is authoritative: the database. A `Database` holds nothing but connections; it can be dropped at any moment and opened again.
What can fail: the server cannot be reached or goes away (`StorageUnavailable`: an open transaction's outcome is then unknown until the caller
looks), the schema is not ours (`MigrationNeeded`), a transaction loses against another (`TransactionConflict`: repeat the whole of it).

Connections come from outside: inside a room, a function that touches the database takes the connection as its first argument; only the
outermost object opens one.
"""

from headwater.postgres.connections import (
    CallerConnection,
    Connection,
    Database,
    driver_connection,
    sql_file,
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

__all__ = [
    "CallerConnection",
    "Connection",
    "Database",
    "Migration",
    "MigrationStatus",
    "apply_migrations",
    "driver_connection",
    "load_migrations",
    "migration_script",
    "migration_status",
    "require_current_schema",
    "sql_file",
    "translate_data_errors",
    "translate_errors",
]

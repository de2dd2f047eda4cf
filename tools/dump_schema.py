"""Write headwater/postgres/schema.sql: the whole schema as the migrations leave it, for people to read.

    python tools/dump_schema.py            write it
    python tools/dump_schema.py --check    exit 1 if it is not what the migrations give

Runs the migrations on an embedded PostgreSQL and takes what pg_dump says, without what differs between two runs.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from headwater.embedded import EmbeddedPostgres, bin_directory
from headwater.testing import MigratedDatabases

SCHEMA_FILE = Path(__file__).resolve().parent.parent / "headwater" / "postgres" / "schema.sql"
HEADER = """-- The whole schema, as the migrations leave it. For reading; `headwater migrate` applies the migrations.
-- Written by `python tools/dump_schema.py`; a test compares it with the migrations.

"""
# Settings of the session that dumps, a key drawn anew for each dump, and comments that name pg_dump's own version.
_NOISE = re.compile(r"^(?:SET |SELECT pg_catalog\.set_config|\\(?:un)?restrict|--).*$", re.MULTILINE)


def dump_schema(dsn: str) -> str:
    """What a database's schema `headwater` looks like; the same text for the same schema."""
    options = ["--schema-only", "--schema=headwater", "--no-owner", "--no-privileges", "--no-comments"]
    dumped = subprocess.run([bin_directory() / "pg_dump", *options, f"--dbname={dsn}"], capture_output=True, text=True, check=False)
    if dumped.returncode != 0:
        raise SystemExit(f"dump_schema: pg_dump says: {dumped.stderr.strip()}")
    statements = _without_noise(dumped.stdout)
    return HEADER + re.sub(r"\n{3,}", "\n\n", statements).strip() + "\n"


def _without_noise(dump: str) -> str:
    # Function bodies have comments of their own, which stay.
    parts = re.split(r"(\$\$.*?\$\$)", dump, flags=re.DOTALL)
    return "".join(part if part.startswith("$$") else _NOISE.sub("", part) for part in parts)


def main() -> int:
    if unknown := [word for word in sys.argv[1:] if word != "--check"]:
        print(f"dump_schema: {unknown[0]} is not --check", file=sys.stderr)
        return 2
    with EmbeddedPostgres() as server:
        databases = MigratedDatabases(server.dsn)
        text = dump_schema(databases.create())
    if "--check" in sys.argv:
        current = SCHEMA_FILE.exists() and SCHEMA_FILE.read_text(encoding="utf-8") == text
        print("dump_schema: fine" if current else "dump_schema: schema.sql is behind the migrations; run python tools/dump_schema.py")
        return 0 if current else 1
    SCHEMA_FILE.write_text(text, encoding="utf-8")
    print(f"dump_schema: {text.count(chr(10))} lines written")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The examples of docs/sql-append.md run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from headwater.embedded import bin_directory

PAGE = (Path(__file__).parents[3] / "docs" / "sql-append.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```(sql|python)\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def no_role_stays(postgres_dsn: str) -> Iterator[None]:
    yield
    with psycopg.connect(postgres_dsn) as connection:
        connection.execute("DROP OWNED BY doc_writer; DROP ROLE doc_writer")


def test_examples_run_one_after_the_other(postgres_dsn: str, no_role_stays: None) -> None:
    assert [language for language, _ in EXAMPLES] == ["sql", "python", "python", "sql", "sql", "sql"]
    names: dict[str, object] = {"DSN": postgres_dsn}
    output = ""
    for language, text in EXAMPLES:
        if language == "python":
            exec(compile(text, "docs/sql-append.md", "exec"), names)
        else:
            command = [bin_directory() / "psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--file=-", postgres_dsn]
            done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            output = done.stdout
    assert len(re.findall("OrderPlaced", output)) == 3, "the last example reads what the others appended"


def test_every_error_code_of_the_function_is_explained() -> None:
    migration = (Path(__file__).parents[3] / "headwater" / "postgres" / "migrations" / "0001_expand_log.sql").read_text(encoding="utf-8")
    for code in set(re.findall(r"ERRCODE = '(\w+)'", migration)):
        assert f"`{code}`" in PAGE, f"{code} is not in docs/sql-append.md"

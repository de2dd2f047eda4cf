"""Each house rule that tidy.py holds: a snippet that breaks it, and one beside it that does not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools import tidy

ROOM_FILE = "headwater/bus/lanes.py"


def messages(source: str, path: str = ROOM_FILE) -> list[str]:
    return [finding.message for finding in tidy.code_findings(path, source)]


@pytest.mark.parametrize(
    "source",
    [
        "import time\n",
        "import random as dice\n",
        "from time import monotonic\n",
        "from secrets import token_hex\n",
        "def later():\n    import time\n",
        "from asyncio import sleep\n",
        "import asyncio\nasync def f(): await asyncio.sleep(1)\n",
        "import asyncio as aio\nwait = aio.sleep\n",
        "from datetime import UTC, datetime\nnow = datetime.now(UTC)\n",
        "import datetime as dt\nnow = dt.datetime.utcnow()\n",
        "from datetime import date\ntoday = date.today()\n",
        "import uuid\nnew_id = uuid.uuid4\n",
        "from uuid import UUID, uuid7\n",
        "import os\nnoise = os.urandom(4)\n",
        "import asyncio\nnow = asyncio.get_running_loop().time()\n",
        "def f(self): return self._loop.time()\n",
    ],
)
def test_time_and_randomness_outside_their_modules_are_found(source: str) -> None:
    [message] = messages(source)
    assert "headwater.clock" in message or "headwater.randomness" in message


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio\nasync def f():\n    async with asyncio.timeout(1): await asyncio.wait_for(g(), 1)\n",
        "from datetime import UTC, datetime, timedelta\nmoment = datetime.fromtimestamp(0, UTC) + timedelta(1)\n",
        "from uuid import UUID, uuid5\n",
        "from headwater.clock import SYSTEM_CLOCK\nnow = SYSTEM_CLOCK.now()\n",
        "def f(event): return event.time, event.clock.now(), event.today()\n",
        "from .time import now\n",
        "import os\nhome = os.environ\n",
    ],
)
def test_what_only_resembles_time_and_randomness_passes(source: str) -> None:
    assert messages(source) == []


def test_clock_and_randomness_may_use_their_sources() -> None:
    assert messages("import time\nimport random\n", "headwater/clock.py") == []
    assert messages("import os\nnoise = os.urandom(4)\n", "headwater/randomness.py") == []
    assert messages("import time\n", "tools/lock.py") == []


@pytest.mark.parametrize(
    "literal",
    [
        '"SELECT 1 FROM headwater.events"',
        '"""\n    INSERT INTO headwater.events\n    VALUES ($1)\n"""',
        'f"UPDATE {table} SET position = 1"',
        '"DELETE FROM headwater.events"',
        '"CREATE TABLE headwater.events ()"',
        '"WITH newest AS (SELECT max(version) FROM headwater.events) TABLE newest"',
        '"select version from headwater.events"',
        '"SELECT version FROM events"  # sql:',
    ],
)
def test_sql_text_in_python_is_found(literal: str) -> None:
    [message] = messages(f"statement = {literal}\n")
    assert "sql/<verb>_<noun>.sql" in message


@pytest.mark.parametrize(
    "source",
    [
        'statement = "SELECT 1 FROM headwater.events"  # sql: the doctor asks it on any version of the schema\n',
        'statement = """\nSELECT 1 FROM headwater.events\n"""  # sql: the same\n',
        '"""Explains SELECT version FROM events."""\n',
        'def f():\n    """Runs INSERT INTO events."""\n',
        'help_text = "Select a stream and update it, then delete it from the set."\n',
        'where = "headwater.postgres"\n',
    ],
)
def test_reasoned_sql_and_prose_pass(source: str) -> None:
    assert messages(source) == []


def test_sql_outside_the_package_passes() -> None:
    assert messages('statement = "SELECT 1 FROM events"\n', "benchmarks/append.py") == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (ROOM_FILE, "from headwater.eventstore.store import EventStore\n"),
        (ROOM_FILE, "import headwater.eventstore.store\n"),
        (ROOM_FILE, "from ..eventstore.store import EventStore\n"),
        ("headwater/bus/__init__.py", "from ..eventstore.store import EventStore\n"),
        ("headwater/service/service.py", "from headwater.embedded.postgres import start\n"),
        ("headwater/__init__.py", "from .eventstore.store import EventStore\n"),
        ("headwater/testing/given.py", "from headwater.eventstore.memory import MemoryStore\n"),
        ("headwater/cli/main.py", "def f():\n    from headwater.projections.rebuild import rebuild\n"),
    ],
)
def test_reaching_into_another_room_is_found(path: str, source: str) -> None:
    [message] = messages(source, path)
    assert "knock at the door" in message


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            ROOM_FILE,
            "from headwater.eventstore import EventStore\nfrom headwater import eventstore\nfrom headwater.errors import UsageError\n",
        ),
        (ROOM_FILE, "from headwater.bus.delivery import deliver\nfrom .delivery import deliver\nfrom . import delivery\n"),
        (ROOM_FILE, "from ..eventstore import EventStore\n"),
        ("headwater/bus/sources/kafka.py", "from ..delivery import deliver\nfrom headwater.bus.sources.memory import x\n"),
        ("headwater/bus/__init__.py", "from .lanes import Lane\n"),
    ],
)
def test_doors_and_own_files_pass(path: str, source: str) -> None:
    assert messages(source, path) == []


def test_long_function_is_found_and_its_docstring_is_free() -> None:
    limit = tidy.FUNCTION_LINES_MAX
    docstring = '    """' + "Words.\n" * 50 + '    """\n'
    fitting = f"def f():\n{docstring}" + "    pass\n" * (limit - 1)
    assert messages(fitting) == []
    [message] = messages(fitting + "    pass\n")
    assert f"{limit + 1} lines" in message


def test_long_module_is_found() -> None:
    assert messages("x = 1\n" * tidy.MODULE_LINES_MAX) == []
    [message] = messages("x = 1\n" * (tidy.MODULE_LINES_MAX + 1))
    assert "second noun" in message


@pytest.mark.parametrize(
    "line",
    [
        f"index-url = https://{tidy.REGISTRY_HOSTS[0]}/x",
        "https://files." + "python" + "hosted.org/packages/a.whl",
        "https://mirror.example" + "/simple/",
        "repo1." + "maven" + ".org",
        "cd /" + "root/project",
        "source: /" + "work/main",
        "see /srv/checkout/notes",
    ],
)
def test_registry_hosts_and_machine_paths_are_found(line: str) -> None:
    [finding] = tidy.hygiene_findings("docs/page.md", f"fine\n{line}\n", ("/srv/checkout/",))
    assert (finding.path, finding.line) == ("docs/page.md", 2)


@pytest.mark.parametrize(
    "line", ["docs/work/notes.md", "https://example.org/simplest", "../root/x", "the root / work / play", 'url = "asyncpg.whl"']
)
def test_ordinary_lines_pass_hygiene(line: str) -> None:
    assert tidy.hygiene_findings("docs/page.md", line) == []


def test_hygiene_sees_files_before_they_are_added_and_skips_ignored_ones(tmp_path: Path) -> None:
    host = tidy.REGISTRY_HOSTS[0]
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text(".venv/\n")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "pip.conf").write_text(host)
    (tmp_path / "new.toml").write_text(host)
    (tmp_path / "binary.bin").write_bytes(b"\0" + host.encode())
    assert [finding.path for finding in tidy.check_hygiene(tmp_path)] == ["new.toml"]

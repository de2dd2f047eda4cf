"""`headwater doctor` as an operator or a deployment runs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from headwater.embedded import EmbeddedPostgres
from headwater.testing import MigratedDatabases
from tests.acceptance.cli.conftest import Command

PATIENTS = """
from typing import Annotated

from headwater import Event, Personal, Service

service = Service("clinic")

class PatientAdmitted(Event):
    patient: str
    name: Annotated[str, Personal(subject="patient")]
"""


@pytest.fixture(scope="module")
def databases() -> Iterator[MigratedDatabases]:
    """On a server as durable as a real one: the one that tests share is not, and the doctor would say so."""
    with EmbeddedPostgres() as server:
        made = MigratedDatabases(server.dsn)
        yield made
        made.close()


def findings(headwater: Command, *arguments: str, status: int = 0, **environment: str) -> dict[str, dict[str, Any]]:
    """What `doctor --json` finds, by name."""
    outcome = headwater.run("doctor", "--json", *arguments, **environment)
    assert outcome.returncode == status, (outcome.stdout, outcome.stderr)
    report = json.loads(outcome.stdout)
    assert set(report) == {"healthy", "counts", "findings"}
    assert report["healthy"] == (status == 0) == (report["counts"]["failure"] == 0)
    assert sum(report["counts"].values()) == len(report["findings"])
    for finding in report["findings"]:
        assert set(finding) == {"name", "severity", "found", "expected", "cost", "remedy"}
    return {finding["name"]: finding for finding in report["findings"]}


def test_a_healthy_pair_ends_with_0_and_finds_the_folders_service(
    headwater: Command, databases: MigratedDatabases, kafka_server: str
) -> None:
    found = findings(headwater, HEADWATER_POSTGRES=databases.create(), HEADWATER_KAFKA=kafka_server)
    assert found["service"] == found["service"] | {"severity": "ok", "found": "shop"}
    assert found["migrations"]["severity"] == "ok"
    assert found["unclean-leader-election"]["severity"] == "ok"


def test_a_failure_ends_with_1_and_says_what_it_costs_and_what_to_do(headwater: Command, databases: MigratedDatabases) -> None:
    dsn = databases.create(migrated=False)
    with_password = urlsplit(dsn)._replace(netloc=urlsplit(dsn).netloc.replace("@", ":hush-7731@")).geturl()
    outcome = headwater.run("doctor", HEADWATER_POSTGRES=with_password)
    assert outcome.returncode == 1
    lines = [" ".join(line.split()) for line in outcome.stdout.splitlines()]
    assert lines[:4] == [
        "failure migrations schema headwater: no log was set up here",
        "expected: the schema of this version",
        "costs: Services of this version refuse to start.",
        "do: headwater migrate",
    ]
    assert any(line.startswith("ok fsync") for line in lines)
    assert lines[-1].startswith("1 failure, 0 warnings, ")
    assert "hush-7731" not in outcome.stdout + outcome.stderr
    assert headwater.run("migrate", HEADWATER_POSTGRES=with_password).returncode == 0
    assert headwater.run("doctor", HEADWATER_POSTGRES=with_password).returncode == 0


def test_a_server_that_cannot_be_reached_is_a_failure_beside_the_other(headwater: Command, databases: MigratedDatabases) -> None:
    found = findings(headwater, status=1, HEADWATER_POSTGRES=databases.create(), HEADWATER_KAFKA="127.0.0.1:1")
    assert found["kafka"]["severity"] == "failure"
    assert found["fsync"]["severity"] == "ok"


def test_without_servers_it_says_that_embedded_ones_would_be_started(headwater: Command) -> None:
    outcome = headwater.run("doctor")
    assert outcome.returncode == 0, outcome.stderr
    assert "HEADWATER_POSTGRES is not set: an embedded server would be started, which is for development" in outcome.stdout
    assert "HEADWATER_KAFKA is not set" in outcome.stdout
    assert "fsync" not in outcome.stdout


def test_personal_fields_without_a_master_key_are_found_in_the_services_classes(headwater: Command) -> None:
    (headwater.folder / "clinic.py").write_text(PATIENTS)
    without = findings(headwater, "--service", "clinic:service")
    assert without["service"]["found"] == "clinic"
    assert without["master-key"]["severity"] == "warning"
    key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    assert findings(headwater, "--service", "clinic:service", HEADWATER_MASTER_KEY=key)["master-key"]["severity"] == "ok"


def test_a_module_that_cannot_be_imported_keeps_nobody_from_checking_servers(headwater: Command, databases: MigratedDatabases) -> None:
    (headwater.folder / "shop.py").write_text("from headwater import Service\nservice = Service('shop')\nraise ValueError('hush-7731')\n")
    found = findings(headwater, HEADWATER_POSTGRES=databases.create())
    assert found["service"]["severity"] == "note"
    assert "ValueError" in found["service"]["found"]
    assert "hush-7731" not in repr(found)
    assert found["fsync"]["severity"] == "ok"
    named = findings(headwater, "--service", "shop:service", status=1)
    assert named["service"]["severity"] == "failure"


def test_a_service_that_was_named_must_be_there(headwater: Command) -> None:
    outcome = headwater.run("doctor", "--service", "shop:nothing")
    assert outcome.returncode == 2
    assert "did you mean shop:service?" in outcome.stderr

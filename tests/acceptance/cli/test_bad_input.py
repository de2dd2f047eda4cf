"""Wrong use and servers that are away: each says what and what to do, with exit status 1 or 2."""

from __future__ import annotations

import json
import socket

import pytest

from tests.acceptance.cli.conftest import Command


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("shop", "module:attribute"),
        ("shop:", "module:attribute"),
        ("sho p:service", "module:attribute"),
        ("nothing:service", "no module 'nothing'"),
        ("shop:servic", "did you mean shop:service?"),
        ("shop:not_a_service", "not a Service"),
    ],
)
def test_a_wrong_target_is_told_with_what_was_meant(headwater: Command, target: str, says: str) -> None:
    outcome = headwater.run("run", target)
    assert outcome.returncode == 2
    assert says in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("arguments", [["nonsense"], ["run"], ["replay"], ["migrate", "--nonsense"], ["up", "extra"]])
def test_a_wrong_command_line_is_wrong_use(headwater: Command, arguments: list[str]) -> None:
    outcome = headwater.run(*arguments)
    assert outcome.returncode == 2
    assert "--help" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_an_unknown_setting_value_is_named(headwater: Command) -> None:
    outcome = headwater.run("migrate", HEADWATER_TOPIC_PARTITIONS="many")
    assert outcome.returncode == 2
    assert "HEADWATER_TOPIC_PARTITIONS" in outcome.stderr


def test_postgres_out_of_reach_is_told_without_the_password(headwater: Command) -> None:
    address = f"postgresql://shop:s3cret@127.0.0.1:{closed_port()}/shop"
    for arguments in (["migrate"], ["run", "shop:service"], ["replay", "units_ordered"]):
        outcome = headwater.run(*arguments, HEADWATER_POSTGRES=address, HEADWATER_KAFKA="127.0.0.1:1")
        assert outcome.returncode == 1, outcome.stderr
        assert "cannot be reached" in outcome.stderr
        assert "HEADWATER_POSTGRES" in outcome.stderr
        assert "s3cret" not in outcome.stderr
        assert "Traceback" not in outcome.stderr


def test_kafka_out_of_reach_is_told(headwater: Command, postgres_dsn: str) -> None:
    outcome = headwater.run("run", "shop:service", HEADWATER_POSTGRES=postgres_dsn, HEADWATER_KAFKA=f"127.0.0.1:{closed_port()}")
    assert outcome.returncode == 1
    assert "HEADWATER_KAFKA" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_an_address_that_is_none_is_wrong_use(headwater: Command, postgres_dsn: str) -> None:
    outcome = headwater.run("migrate", HEADWATER_POSTGRES="mysql://nowhere")
    assert outcome.returncode == 2
    assert "postgresql://" in outcome.stderr
    outcome = headwater.run("run", "shop:service", HEADWATER_POSTGRES=postgres_dsn, HEADWATER_KAFKA="http://localhost")
    assert outcome.returncode == 2
    assert "HEADWATER_KAFKA" in outcome.stderr


def test_a_database_without_the_schema_is_refused_with_what_to_run(headwater: Command, empty_postgres_dsn: str, kafka_server: str) -> None:
    outcome = headwater.run("run", "shop:service", HEADWATER_POSTGRES=empty_postgres_dsn, HEADWATER_KAFKA=kafka_server)
    assert outcome.returncode == 1
    assert "headwater migrate" in outcome.stderr


def test_an_unknown_projection_is_told_with_the_known_ones(headwater: Command, postgres_dsn: str) -> None:
    outcome = headwater.run("replay", "units_orderd", HEADWATER_POSTGRES=postgres_dsn)
    assert outcome.returncode == 1
    assert "units_ordered" in outcome.stderr


def test_replay_without_a_log_says_which_setting_is_missing(headwater: Command) -> None:
    outcome = headwater.run("replay", "units_ordered")
    assert outcome.returncode == 2
    assert "HEADWATER_POSTGRES" in outcome.stderr


def test_several_services_must_be_told_apart(headwater: Command, postgres_dsn: str) -> None:
    (headwater.folder / "other.py").write_text('from headwater import Service\nother = Service("other")\n')
    outcome = headwater.run("replay", "units_ordered", HEADWATER_POSTGRES=postgres_dsn)
    assert outcome.returncode == 2
    assert "other:other, shop:service" in outcome.stderr


def test_errors_are_json_where_json_was_asked_for(headwater: Command) -> None:
    outcome = headwater.run("replay", "units_ordered", "--json")
    assert json.loads(outcome.stderr.splitlines()[-1])["error"] == "ConfigurationError"
    assert outcome.stdout == ""

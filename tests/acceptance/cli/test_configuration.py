"""`headwater config`, and commands that run by a configuration file."""

from __future__ import annotations

import json

import pytest

from headwater.config import Settings
from headwater.config.file_source import fields_by_name
from tests.acceptance.cli.conftest import Command

FILE = """\
# the shop in production
postgres: postgresql://shop:s3cret@db.example/shop?sslmode=require
kafka: kafka.example:9093
schema: acme
kafka_security_protocol: SASL_SSL
kafka_sasl_mechanism: SCRAM-SHA-512
kafka_sasl_username: shop
kafka_sasl_password: s3cret
master_key: czNjcmV0czNjcmV0czNjcmV0czNjcmV0czNjcmV0czM=
"""


def configure(headwater: Command, content: str, name: str = "headwater.yaml") -> None:
    (headwater.folder / name).write_text(content, encoding="utf-8")


def test_show_tells_every_setting_and_where_it_comes_from(headwater: Command) -> None:
    configure(headwater, FILE)
    outcome = headwater.run("config", "show", HEADWATER_TOPIC_PARTITIONS="12", HEADWATER_KAFKA="other.example:9093")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "s3cret" not in outcome.stdout
    assert "czNjcmV0" not in outcome.stdout
    rows = {line.split()[0]: line.split()[1:] for line in outcome.stdout.splitlines() if line.strip()}
    assert rows["file:"] == ["headwater.yaml"]
    assert rows["postgres"] == ["postgresql://shop:***@db.example/shop?sslmode=require", "headwater.yaml:2"]
    assert rows["kafka"] == ["other.example:9093", "HEADWATER_KAFKA"]
    assert rows["topic_partitions"] == ["12", "HEADWATER_TOPIC_PARTITIONS"]
    assert rows["kafka_sasl_password"] == ["***", "headwater.yaml:8"]
    assert rows["instance_id"] == ["-", "default"]
    assert set(fields_by_name(Settings)) <= set(rows)


def test_show_as_json_is_for_programs(headwater: Command) -> None:
    configure(headwater, FILE)
    outcome = headwater.run("config", "show", "--json", HEADWATER_LOG_LEVEL="debug")
    assert outcome.returncode == 0
    assert "s3cret" not in outcome.stdout
    assert "czNjcmV0" not in outcome.stdout
    shown = json.loads(outcome.stdout)
    assert shown["file"] == "headwater.yaml"
    assert [setting["name"] for setting in shown["settings"]] == list(fields_by_name(Settings))
    by_name = {setting["name"]: setting for setting in shown["settings"]}
    assert by_name["schema"] == {"name": "schema", "value": "acme", "source": "file", "variable": "HEADWATER_SCHEMA", "line": 4}
    assert (by_name["log_level"]["value"], by_name["log_level"]["source"]) == ("debug", "environment")
    assert (by_name["topic_partitions"]["value"], by_name["topic_partitions"]["source"]) == (6, "default")
    assert by_name["master_key"]["value"] == "***"


def test_show_without_a_file_says_so(headwater: Command) -> None:
    outcome = headwater.run("config", "show")
    assert outcome.returncode == 0
    assert "file: none" in outcome.stdout
    assert json.loads(headwater.run("config", "show", "--json").stdout)["file"] is None


def test_check_of_a_sound_file(headwater: Command) -> None:
    configure(headwater, FILE, "production.yaml")
    outcome = headwater.run("config", "check", HEADWATER_CONFIG="production.yaml")
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "production.yaml is sound\n", "")
    outcome = headwater.run("config", "check", "--json")
    assert (outcome.returncode, json.loads(outcome.stdout)) == (0, {"file": None, "valid": True, "message": None})


@pytest.mark.parametrize(
    ("content", "environment", "says"),
    [
        ("topic_partitons: 3\n", {}, "headwater.yaml:1:1: there is no setting topic_partitons; did you mean topic_partitions?"),
        ("log_level: info\nlog_level: info\n", {}, "headwater.yaml:2:1: log_level is set twice"),
        ("kafka: [\n", {}, "headwater.yaml:1:8: "),
        ("log_level: info\n", {"HEADWATER_LOG_LEVEL": "loud"}, "HEADWATER_LOG_LEVEL: "),
        ("log_level: info\n", {"HEADWATER_CONFIG": "nowhere.yaml"}, "HEADWATER_CONFIG names nowhere.yaml"),
        ("master_key: s3cret\n", {}, "HEADWATER_MASTER_KEY must be 32 bytes in base64"),
        ("schema: Acme\n", {}, "a log's schema cannot be named 'Acme'"),
        ("postgres: mysql://me:s3cret@host/db\n", {}, "cannot be used"),
        ("postgres: postgresql://me:s3cret@host/db?sslmode=verify-full&sslrootcert=ca.pem\n", {}, "sslrootcert=ca.pem, where there is no file"),
        ("kafka: me:s3cret@host:9092\n", {}, "holds a login"),
        ("kafka: a:1\nkafka_security_protocol: SASL_SSL\n", {"HEADWATER_KAFKA_SASL_PASSWORD": "s3cret"}, "kafka_sasl_mechanism and kafka_sasl_username"),
        ("kafka: a:1\nkafka_security_protocol: SSL\nkafka_ssl_cafile: ca.pem\n", {}, "kafka_ssl_cafile is ca.pem, where there is no file"),
    ],
)  # fmt: skip
def test_check_tells_what_is_wrong(headwater: Command, content: str, environment: dict[str, str], says: str) -> None:
    configure(headwater, content)
    outcome = headwater.run("config", "check", **environment)
    assert outcome.returncode == 1
    assert says in outcome.stderr
    assert "s3cret" not in outcome.stderr + outcome.stdout
    assert "Traceback" not in outcome.stderr
    outcome = headwater.run("config", "check", "--json", **environment)
    told = json.loads(outcome.stdout)
    assert (outcome.returncode, told["valid"]) == (1, False)
    assert says in told["message"]


def test_every_command_refuses_a_faulty_file(headwater: Command) -> None:
    configure(headwater, "log_level: info\nkafak: a:1\n")
    for arguments in (["migrate"], ["run", "shop:service"], ["log", "tail"], ["config", "show"], ["replay", "units_ordered"]):
        outcome = headwater.run(*arguments)
        assert outcome.returncode == 2, arguments
        assert "headwater.yaml:2:1: there is no setting kafak; did you mean kafka?" in outcome.stderr
    assert headwater.run("config", "--help").returncode == 0


def test_help_teaches(headwater: Command) -> None:
    outcome = headwater.run("config", "--help")
    assert outcome.returncode == 0
    for word in ("headwater.yaml", "HEADWATER_CONFIG", "headwater config show", "check"):
        assert word in outcome.stdout
    assert "config" in headwater.run("--help").stdout
    assert "HEADWATER_CONFIG=deploy/headwater.yaml headwater config check" in headwater.run("config", "check", "--help").stdout


def test_arguments_count_over_the_environment_and_that_over_the_file(headwater: Command, empty_postgres_dsn: str) -> None:
    configure(headwater, f"postgres: {empty_postgres_dsn}\nschema: from_file\n")

    def migrated(*arguments: str, **environment: str) -> str:
        outcome = headwater.run("migrate", "--json", *arguments, **environment)
        assert outcome.returncode == 0, outcome.stderr
        return str(json.loads(outcome.stdout)["schema"])

    assert migrated() == "from_file"
    assert migrated(HEADWATER_SCHEMA="from_environment") == "from_environment"
    assert migrated("--schema", "from_argument", HEADWATER_SCHEMA="from_environment") == "from_argument"
    outcome = headwater.run("log", "stats")
    assert outcome.returncode == 0, outcome.stderr


def test_the_service_comes_from_argument_environment_or_file(headwater: Command) -> None:
    """Each names a service that is not there, so that the message tells which one was meant."""
    configure(headwater, "service: in_file:service\n")
    assert "no module 'in_file'" in headwater.run("replay", "units_ordered").stderr
    assert "no module 'in_environment'" in headwater.run("replay", "units_ordered", HEADWATER_SERVICE="in_environment:service").stderr
    arguments = ("replay", "units_ordered", "--service", "in_argument:service")
    assert "no module 'in_argument'" in headwater.run(*arguments, HEADWATER_SERVICE="in_environment:service").stderr


def test_a_service_is_not_started_on_settings_that_cannot_work(headwater: Command, postgres_dsn: str) -> None:
    configure(headwater, f"postgres: {postgres_dsn}\nkafka: 127.0.0.1:1\nkafka_sasl_username: shop\n")
    outcome = headwater.run("run", "shop:service")
    assert outcome.returncode == 2
    assert "kafka_sasl_username is set, but kafka_security_protocol PLAINTEXT has no login; set it to SASL_SSL" in outcome.stderr

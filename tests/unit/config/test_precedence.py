"""Arguments over environment over file over defaults, for every setting; and where each value is said to come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from headwater.config import Settings, effective_settings, load_settings
from headwater.config.file_source import fields_by_name
from tests.unit.config.conftest import Write

# Three values for each setting, none its default: in the file, in the environment, as an argument.
VALUES: dict[str, tuple[Any, Any, Any]] = {
    "postgres": ("postgresql://file/db", "postgresql://environment/db", "postgresql://argument/db"),
    "postgres_pooling": ("transaction", "session", "transaction"),
    "schema": ("file", "environment", "argument"),
    "source": ("postgres", "kafka", "postgres"),
    "kafka": ("file:1", "environment:1", "argument:1"),
    "kafka_security_protocol": ("SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    "kafka_sasl_mechanism": ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"),
    "kafka_sasl_username": ("file", "environment", "argument"),
    "kafka_sasl_password": ("file", "environment", "argument"),
    "kafka_ssl_cafile": ("file", "environment", "argument"),
    "kafka_ssl_certfile": ("file", "environment", "argument"),
    "kafka_ssl_keyfile": ("file", "environment", "argument"),
    "topic_partitions": (2, 3, 4),
    "topic_replication_factor": (2, 3, 4),
    "topic_min_insync_replicas": (2, 3, 4),
    "instance_id": ("file", "environment", "argument"),
    "master_key": ("file", "environment", "argument"),
    "service": ("file:service", "environment:service", "argument:service"),
    "log_format": ("json", "console", "json"),
    "log_level": ("debug", "warning", "error"),
}
FIELDS = fields_by_name(Settings)
SECRETS = ("kafka_sasl_password", "master_key")


def read(name: str, **arguments: object) -> object:
    value = getattr(load_settings(**arguments), FIELDS[name])
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def test_every_setting_is_tried() -> None:
    assert list(VALUES) == list(FIELDS)


@pytest.mark.parametrize("name", VALUES)
def test_each_source_counts_over_the_one_before(name: str, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    in_file, in_environment, in_argument = VALUES[name]
    write(f"{name}: {in_file}\n")
    assert read(name) == in_file
    monkeypatch.setenv(f"HEADWATER_{name.upper()}", str(in_environment))
    assert read(name) == in_environment
    assert read(name, **{FIELDS[name]: None}) == in_environment
    assert read(name, **{FIELDS[name]: in_argument}) == in_argument


def test_code_counts_over_environment_and_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("schema: file\nkafka: file:1\nlog_level: debug\n")
    monkeypatch.setenv("HEADWATER_SCHEMA", "environment")
    monkeypatch.setenv("HEADWATER_KAFKA", "environment:1")
    settings = Settings(log_schema="code")
    assert (settings.log_schema, settings.kafka, settings.log_level) == ("code", "environment:1", "debug")


@pytest.mark.parametrize("name", VALUES)
def test_each_origin_is_told(name: str, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def origin() -> tuple[str, object]:
        (found,) = [setting for setting in effective_settings() if setting.name == name]
        return found.origin, found.value

    in_file, in_environment, _ = VALUES[name]
    default, value = origin()
    assert (default, value) == ("default", Settings.model_fields[FIELDS[name]].default)
    write(f"\n# first\n{name}: {in_file}\n")
    assert origin() == ("headwater.yaml:3", "***" if name in SECRETS else in_file)
    monkeypatch.setenv(f"HEADWATER_{name.upper()}", str(in_environment))
    assert origin() == (f"HEADWATER_{name.upper()}", "***" if name in SECRETS else in_environment)


def test_the_environment_is_known_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("headwater_kafka", "small:1")
    (found,) = [setting for setting in effective_settings() if setting.name == "kafka"]
    assert (found.value, found.source) == ("small:1", "environment")


def test_a_variable_named_as_in_code_is_told_as_such(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("schema: file\n")
    monkeypatch.setenv("HEADWATER_LOG_SCHEMA", "code")
    (found,) = [setting for setting in effective_settings() if setting.name == "schema"]
    assert found.value == load_settings().log_schema
    assert (found.value, found.origin) == ("code", "HEADWATER_LOG_SCHEMA")
    monkeypatch.setenv("HEADWATER_SCHEMA", "first")
    (found,) = [setting for setting in effective_settings() if setting.name == "schema"]
    assert (found.value, found.origin) == ("first", "HEADWATER_SCHEMA")


def test_secrets_are_masked(write: Write) -> None:
    write("postgres: postgresql://me:s3cret@host/db?sslmode=require&sslpassword=s3cret\nmaster_key: s3cret\nkafka_sasl_password: s3cret\n")
    shown = {setting.name: setting.value for setting in effective_settings()}
    assert shown["postgres"] == "postgresql://me:***@host/db?sslmode=require"
    assert (shown["master_key"], shown["kafka_sasl_password"]) == ("***", "***")
    assert "s3cret" not in str(effective_settings())


def test_the_file_is_the_one_that_was_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "other.yaml").write_text("log_level: debug\n", encoding="utf-8")
    monkeypatch.setenv("HEADWATER_CONFIG", "other.yaml")
    (found,) = [setting for setting in effective_settings() if setting.name == "log_level"]
    assert (found.origin, found.source, found.line) == ("other.yaml:1", "file", 1)

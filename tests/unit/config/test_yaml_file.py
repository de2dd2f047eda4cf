"""The configuration file: what it may say, and where each fault is."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.clock import SYSTEM_CLOCK
from headwater.config import FILE_BYTES_MAX, Settings, load_settings
from headwater.config.file_source import FAULTS_SHOWN_MAX, fields_by_name
from headwater.errors import ConfigurationError
from tests.unit.config.conftest import Write


def faults() -> list[str]:
    with pytest.raises(ConfigurationError) as told:
        load_settings()
    return str(told.value).splitlines()


def test_every_kind_of_value_is_read(write: Write) -> None:
    write(
        "# the shop\n"
        "postgres: postgresql://me:secret@host/shop  # the log\n"
        'kafka: "a:9092,b:9092"\n'
        "topic_partitions: 12\n"
        "topic_replication_factor: -1\n"
        "schema: acme\n"
        "kafka_security_protocol: SASL_SSL\n"
        "kafka_sasl_password: 'it''s'\n"
        "instance_id: ~\n"
    )
    found = load_settings()
    assert (found.postgres, found.kafka) == ("postgresql://me:secret@host/shop", "a:9092,b:9092")
    assert (found.topic_partitions, found.topic_replication_factor, found.log_schema) == (12, -1, "acme")
    assert found.kafka_sasl_password is not None
    assert found.kafka_sasl_password.get_secret_value() == "it's"
    assert found.instance_id is None
    assert "secret" not in repr(found)
    assert "it's" not in repr(found)


@pytest.mark.parametrize("content", ["", "\n\n", "# nothing is set\n", "---\n", "{}\n", "---\n...\n"])
def test_a_file_may_say_nothing(write: Write, content: str) -> None:
    write(content)
    assert load_settings() == Settings.model_construct()


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfkafka: a:1\n", b"kafka: a:1\r\n", "kafka: a:1 # größer\n".encode()])
def test_other_editors_files_are_read(write: Write, content: bytes) -> None:
    write(content)
    assert load_settings().kafka == "a:1"


WRONG = {
    # unknown names, with the nearest known one
    "topic_partitons: 3": (1, 1, "did you mean topic_partitions?"),
    "kafka: a:1\n\n  \nlog_schema: x": (4, 1, "did you mean schema?"),
    "Kafka-SASL-Username: x": (1, 1, "did you mean kafka_sasl_username?"),
    "HEADWATER_KAFKA: a:1": (1, 1, "did you mean kafka?"),
    "zzz: 1": (1, 1, "headwater config show"),
    "1: 2": (1, 1, "there is no setting 1"),
    "'': 2": (1, 1, "there is no setting ''"),
    '"a\\x07b": 2': (1, 1, r"there is no setting 'a\x07b'"),
    # names that come twice
    "kafka: a:1\nlog_level: info\nkafka: b:1": (3, 1, "kafka is set twice, first in line 1"),
    "{kafka: a:1, kafka: b:1}": (1, 14, "kafka is set twice"),
    # values that the setting does not take
    "topic_partitions: 0": (1, 19, "greater than or equal to 1"),
    "topic_partitions: 1001": (1, 19, "less than or equal to 1000"),
    "topic_partitions: many": (1, 19, "valid integer"),
    "topic_partitions: '6'": (1, 19, "valid integer"),
    "topic_partitions: 6.0": (1, 19, "valid integer"),
    "topic_partitions: yes": (1, 19, "valid integer"),
    "topic_partitions:": (1, 18, "valid integer"),
    "log_level: loud": (1, 12, "'debug', 'info', 'warning' or 'error'"),
    "kafka_security_protocol: ssl": (1, 26, "'PLAINTEXT', 'SSL'"),
    "kafka: 1:30": (1, 8, "put it in quotes"),
    "kafka_sasl_password: 123": (1, 22, "put it in quotes"),
    "kafka_sasl_password: no": (1, 22, "put it in quotes"),
    "kafka_sasl_password: ''": (1, 22, "at least 1"),
    "instance_id: 2024-01-31": (1, 14, "put it in quotes"),
    "instance_id: 2024-13-31": (1, 14, "put it in quotes"),
    "instance_id: ''": (1, 14, "at least 1"),
    "kafka:\n  - a:1": (2, 3, "no list"),
    "kafka: [a:1]": (1, 8, "no list"),
    "kafka:\n  address: a:1": (2, 3, "no nested settings"),
    # what YAML offers besides, and a file of ours has no use for
    "kafka: &a a:1": (1, 8, "anchors"),
    "&a kafka: a:1": (1, 1, "anchors"),
    "kafka: *a": (1, 8, "no alias"),
    "kafka: !!str a:1": (1, 8, "tags"),
    "kafka: !!python/object/apply:os.system [ls]": (1, 8, "no list"),
    "kafka: !!python/name:os.system x": (1, 8, "tags"),
    "!!map {kafka: a:1}": (1, 1, "tags"),
    "<<: {kafka: a:1}": (1, 5, "no nested settings"),
    "? [a]\n: b": (1, 3, "the name of a setting"),
    "kafka: a:1\n---\nkafka: b:1": (2, 1, "second document"),
    "---\n---\n": (2, 1, "second document"),
    "- kafka": (1, 1, "name: value"),
    "kafka a:1": (1, 1, "is the colon missing"),
    "*a": (1, 1, "name: value"),
    # what is no YAML
    "kafka: a: b": (1, 9, "no YAML"),
    "kafka: a:1\n log_level: info": (2, 11, "no YAML"),
    "kafka: 'a:1": (1, 12, "no YAML"),
    "log_level: info\n\tkafka: a:1": (2, 1, "no YAML"),
    "kafka: @a": (1, 8, "no YAML"),
    "%YAML 7.0\n---\n": (1, 1, "no YAML"),
    "log_level: info\nkafka: \x07": (2, 8, "control character"),
    "[" * 5000: (1, 1, "name: value"),
    "{" * 5000: (1, 2, "the name of a setting"),
    "kafka: " + "[" * 5000: (1, 8, "no list"),
}


@pytest.mark.parametrize("content", WRONG, ids=lambda content: content[:30])
def test_a_fault_is_told_with_line_and_column(write: Write, content: str) -> None:
    line, column, says = WRONG[content]
    write(content)
    told = faults()[-1]
    assert told.startswith(f"headwater.yaml:{line}:{column}: ")
    assert says in told


def test_bytes_that_are_no_text_are_told_with_their_place(write: Write) -> None:
    write("log_level: info\nkafka: ü\N{SNOWMAN}".encode() + b"\xff\n")
    assert faults() == ["headwater.yaml:2:10: this is not UTF-8; save the file as UTF-8"]


def test_all_faults_are_told_at_once_in_their_order(write: Write) -> None:
    write("kafak: a:1\ntopic_partitions: 0\nlog_level: info\nlog_level: loud\npostgres: [x]\n")
    assert [told.split(": ")[0] for told in faults()] == [f"headwater.yaml:{place}" for place in ("1:1", "2:19", "4:1", "5:11")]


def test_faults_without_number_are_told_in_part(write: Write) -> None:
    write("".join(f"unknown_{number}: 1\n" for number in range(FAULTS_SHOWN_MAX + 5)))
    told = faults()
    assert len(told) == FAULTS_SHOWN_MAX + 1
    assert told[-1] == "(and more)"


def test_thousands_of_faults_take_no_time(write: Write) -> None:
    """Each kind at its most for the size: the work is bounded by what is shown."""
    for line in ("a{}: 1\n", "kafka: {}\n", "kafka_{}: [\n"):
        write("".join(line.format(number) for number in range(4_000))[: FILE_BYTES_MAX - 100])
        started = SYSTEM_CLOCK.monotonic()
        assert len(faults()) <= FAULTS_SHOWN_MAX + 1
        assert SYSTEM_CLOCK.monotonic() - started < 10


def test_a_value_is_never_repeated(write: Write) -> None:
    write(
        "postgres: [postgresql://me:s3cret@host/db]\n",
    )
    assert "s3cret" not in faults()[0]
    for content in (
        "postgres postgresql://me:s3cret@host/db",
        "master_key: {s3cret: 1}",
        "topic_partitions: s3cret",
        "kafka_sasl_password: 'x\nmaster_key: s3cret",
        "log_level: s3cret",
        "kafka: s3cret\nkafka: s3cret",
        "kafka: @s3cret",
        "kafka: s3cret: x",
    ):
        write(content)
        assert "s3cret" not in "".join(faults())


def test_a_fault_of_the_file_counts_even_where_the_environment_goes_over_it(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("topic_partitions: 0")
    monkeypatch.setenv("HEADWATER_TOPIC_PARTITIONS", "3")
    assert faults()[0].startswith("headwater.yaml:1:19: ")


# -- which file


def test_without_a_file_there_are_defaults() -> None:
    assert load_settings() == Settings.model_construct()


def test_another_file_is_named_by_the_environment(folder: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("kafka: default:1")
    other = folder / "sub" / "other.yml"
    other.parent.mkdir()
    other.write_text("kafka: other:1\nx: 1", encoding="utf-8")
    monkeypatch.setenv("HEADWATER_CONFIG", str(other))
    assert faults() == [f"{other}:2:1: there is no setting x; headwater config show lists all settings"]
    other.write_text("kafka: other:1", encoding="utf-8")
    assert load_settings().kafka == "other:1"
    monkeypatch.setenv("HEADWATER_CONFIG", "")
    assert load_settings().kafka == "default:1"


@pytest.mark.parametrize("named", ["nowhere.yaml", ".", "sub/", "x" * 5000, "/dev/null"])
def test_a_named_file_must_be_there(write: Write, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    write("kafka: default:1")
    monkeypatch.setenv("HEADWATER_CONFIG", named)
    assert faults()[0].startswith("HEADWATER_CONFIG names ")


def test_a_folder_in_its_place_is_told(folder: Path) -> None:
    (folder / "headwater.yaml").mkdir()
    assert faults()[0].startswith("headwater.yaml is no file")


def test_a_file_that_may_not_be_read_is_told(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusal is made here."""
    write("kafka: a:1")

    def refuse(*_arguments: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refuse)
    assert faults()[0].startswith("headwater.yaml cannot be read (Permission denied)")


def test_a_file_has_a_limit(write: Write) -> None:
    line = "kafka: a:1\n"
    write(line + "#" * (FILE_BYTES_MAX - len(line)))
    assert load_settings().kafka == "a:1"
    write(line + "#" * (FILE_BYTES_MAX - len(line) + 1))
    assert faults()[0].startswith("headwater.yaml has more than 64 KiB")


# -- any text

_NAMES = list(fields_by_name(Settings))
_SNIPPETS = st.sampled_from(
    [*_NAMES, ": ", ":", "\n", "  ", "- ", "? ", "&a ", "*a", "!!int ", "!x ", "<<", "[", "]", "{", "}", "'", '"', "|", ">", "---\n"]
)
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.datetimes()
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=5)
_TEXTS = st.one_of(
    st.binary(),
    st.text().map(str.encode),
    st.lists(_SNIPPETS | st.text(max_size=4), max_size=30).map(lambda parts: "".join(parts).encode(errors="replace")),
    st.dictionaries(st.sampled_from(_NAMES) | st.text(), _VALUES, max_size=5).map(
        lambda data: yaml.safe_dump(data, allow_unicode=True).encode()
    ),
)


@given(content=_TEXTS)
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_gives_settings_or_a_configuration_error(write: Write, content: bytes) -> None:
    write(content)
    with contextlib.suppress(ConfigurationError):
        load_settings()

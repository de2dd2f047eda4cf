"""docs/configuration.md tells of every setting, and its example can be used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headwater.config import FILE_BYTES_MAX, Settings, load_settings
from headwater.config.file_source import fields_by_name
from headwater.errors import ConfigurationError
from tests.unit.config.conftest import Write

PAGE = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `([a-z_]+)` \| (.*?) \| .+ \|$", PAGE, re.MULTILINE))


def test_every_setting_has_its_row_and_no_other_thing_has() -> None:
    assert list(ROWS) == list(fields_by_name(Settings))


@pytest.mark.parametrize("name", ROWS)
def test_defaults_are_right(name: str) -> None:
    default = Settings.model_fields[fields_by_name(Settings)[name]].default
    assert ROWS[name].partition(":")[0] == ("none" if default is None else f"`{default}`")


def test_every_setting_says_what_it_is() -> None:
    source = (Path(__file__).parents[3] / "headwater" / "config" / "settings.py").read_text(encoding="utf-8")
    for field in Settings.model_fields:
        assert re.search(rf'^    {field}: .+\n    """\S', source, re.MULTILINE), field


def test_the_example_can_be_used(write: Write) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    write(example)
    settings = load_settings()
    assert (settings.topic_partitions, settings.kafka_security_protocol, settings.service) == (12, "SASL_SSL", "shop:service")


def test_the_limit_is_right() -> None:
    assert f"at most {FILE_BYTES_MAX // 1024} KiB" in PAGE


def test_the_messages_are_those_that_come(write: Write) -> None:
    write("# one\n# two\ntopic_partitons: 3\n\n\n\nlog_level: loud\n")
    with pytest.raises(ConfigurationError) as told:
        load_settings()
    for line in str(told.value).splitlines():
        assert f"    {line}\n" in PAGE

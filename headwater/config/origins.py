"""Every setting with its value and where that comes from, fit to be shown."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from headwater.config.addresses import redact
from headwater.config.file_source import CheckedFile, read_checked_file, setting_name
from headwater.config.settings import PREFIX, Settings, load_settings

MASK: Final = "***"


@dataclass(frozen=True, slots=True)
class EffectiveSetting:
    """One setting as it counts here and now; secrets masked."""

    name: str
    value: str | int | None
    source: str
    """`default`, `file` or `environment`."""
    variable: str
    """The environment variable that sets it."""
    file: Path | None = None
    line: int | None = None
    """Where in the file, counted from 1."""

    @property
    def origin(self) -> str:
        """Where it comes from, in words."""
        if self.source == "file":
            return f"{self.file}:{self.line}"
        return self.variable if self.source == "environment" else self.source


def effective_settings() -> list[EffectiveSetting]:
    """Every setting, in the order of the class.

    Raises:
        ConfigurationError: the file has a fault, or a value is not allowed.
    """
    settings, checked = load_settings(), read_checked_file(Settings)
    variables = {name.upper() for name in os.environ}
    return [_effective(field, settings, checked, variables) for field in Settings.model_fields]


def _effective(field: str, settings: Settings, checked: CheckedFile | None, variables: set[str]) -> EffectiveSetting:
    name = setting_name(Settings, field)
    value, variable = masked(field, getattr(settings, field)), f"{PREFIX}{name.upper()}"
    # pydantic-settings also knows a field by its name in code: HEADWATER_LOG_SCHEMA besides HEADWATER_SCHEMA.
    for known in (variable, f"{PREFIX}{field.upper()}"):
        if known in variables:
            return EffectiveSetting(name, value, "environment", known)
    if checked is not None and field in checked.entries:
        return EffectiveSetting(name, value, "file", variable, checked.path, checked.entries[field].line)
    return EffectiveSetting(name, value, "default", variable)


def masked(field: str, value: object) -> str | int | None:
    """The value without what is secret in it."""
    if isinstance(value, SecretStr):
        return MASK
    if field == "postgres" and isinstance(value, str):
        return redact(value)
    assert isinstance(value, str | int | None), "a setting is text or a number"
    return value

"""The file as a source of settings: its names are known, and each value is one that its setting takes."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from headwater.config.yaml_file import Entry, Fault, config_path, printable_name, read_entries
from headwater.errors import ConfigurationError

FAULTS_SHOWN_MAX: Final = 10
"""A message tells of so many faults; the rest shows when these are mended."""


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """The entries of a file without faults, by the fields they set."""

    path: Path
    entries: dict[str, Entry]


def read_checked_file(settings_class: type[BaseSettings]) -> CheckedFile | None:
    """The configuration file of here and now, or None where there is none.

    Raises:
        ConfigurationError: it cannot be read, or has faults; the message names line and column of each.
    """
    if (path := config_path()) is None:
        return None
    entries, faults = read_entries(path)
    fields = fields_by_name(settings_class)
    wrong = (fault for entry in entries if (fault := _fault_of(entry, settings_class, fields)) is not None)
    # Both come in the order of the file, so the first of all are among these; naming the nearest setting for thousands would take long.
    faults += islice(wrong, FAULTS_SHOWN_MAX + 1)
    if faults:
        faults.sort(key=lambda fault: (fault.line, fault.column))
        more = ["(and more)"] if len(faults) > FAULTS_SHOWN_MAX else []
        raise ConfigurationError("\n".join([*(fault.at(path) for fault in faults[:FAULTS_SHOWN_MAX]), *more]))
    return CheckedFile(path, {fields[entry.name]: entry for entry in entries})


def fields_by_name(settings_class: type[BaseSettings]) -> dict[str, str]:
    """The class's fields by the names that the file has for them: the environment variables' without prefix, in lower case."""
    return {setting_name(settings_class, field): field for field in settings_class.model_fields}


def setting_name(settings_class: type[BaseSettings], field: str) -> str:
    """What a field is called in the file."""
    alias = settings_class.model_fields[field].validation_alias
    prefix = settings_class.model_config.get("env_prefix", "")
    return alias.removeprefix(prefix).lower() if isinstance(alias, str) else field


def _fault_of(entry: Entry, settings_class: type[BaseSettings], fields: dict[str, str]) -> Fault | None:
    if entry.name not in fields:
        prefix = str(settings_class.model_config.get("env_prefix", "")).lower()
        near = difflib.get_close_matches(entry.name.lower().replace("-", "_").removeprefix(prefix), fields, n=1)
        instead = f"did you mean {near[0]}?" if near else "headwater config show lists all settings"
        return Fault(entry.line, entry.column, f"there is no setting {printable_name(entry.name)}; {instead}")
    try:
        _adapter(settings_class, fields[entry.name]).validate_python(entry.value, strict=True)
    except ValidationError as error:
        text = any(found["type"] == "string_type" for found in error.errors())
        hint = "; put it in quotes" if text and entry.value is not None else ""
        wrong = error.errors()[0]["msg"]
        return Fault(entry.value_line, entry.value_column, f"{entry.name}: {wrong}{hint}")
    return None


@cache
def _adapter(settings_class: type[BaseSettings], field: str) -> TypeAdapter[Any]:
    info = settings_class.model_fields[field]
    accepted: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    return TypeAdapter(accepted)


class FileSource(PydanticBaseSettingsSource):
    """The configuration file, for pydantic-settings."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError("the file is read as a whole")  # asked for by the base class, called by none

    def __call__(self) -> dict[str, Any]:
        """The values of the file by the keys under which the class takes them.

        Raises:
            ConfigurationError: the file has faults.
        """
        checked = read_checked_file(self.settings_cls)
        if checked is None:
            return {}
        fields, said = self.settings_cls.model_fields, self.current_state
        keys = {name: str(fields[name].validation_alias or name) for name in checked.entries}
        # A field with an alias may have been set under its own name, beside which a value under the alias would count.
        return {keys[name]: entry.value for name, entry in checked.entries.items() if name not in said and keys[name] not in said}

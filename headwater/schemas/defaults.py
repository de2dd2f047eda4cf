"""Default values as Avro writes them in a schema."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, cast

from headwater.schemas.logical import LOGICAL

NO_DEFAULT: Final = object()
_LONG_BITS: Final = 63


def with_default(kind: Any, value: Any, named: Mapping[str, dict[str, Any]]) -> tuple[Any, Any]:
    """The type and the default for a JSON value; in a union the default's branch moves to the front, where Avro wants it.

    The default is `NO_DEFAULT` where Avro has no way to write it.
    """
    if isinstance(kind, list):
        branches = cast("list[Any]", kind)
        for branch in branches:
            if (default := default_of(branch, value, named)) is not NO_DEFAULT:
                return [branch, *(other for other in branches if other is not branch)], default
        return branches, NO_DEFAULT
    return kind, default_of(kind, value, named)


def default_of(kind: Any, value: Any, named: Mapping[str, dict[str, Any]]) -> Any:
    """The JSON value as a default of this type, or `NO_DEFAULT`."""
    if isinstance(kind, list):
        return default_of(kind[0], value, named)  # inside another default only the first branch may be used
    if isinstance(kind, str):
        return default_of(named[kind], value, named) if kind in named else _primitive(kind, value)
    if not kind:
        return NO_DEFAULT  # the record is being built, and its default would contain itself
    if (convert := LOGICAL.get(kind.get("logicalType", ""))) is not None and isinstance(value, str):
        try:
            native = convert(kind).to_avro(value)
        except ValueError:
            return NO_DEFAULT
        return native.decode("latin-1") if isinstance(native, bytes) else native
    match kind["type"]:
        case "record":
            return _record(kind, value, named)
        case "enum":
            return value if value in kind["symbols"] else NO_DEFAULT
        case "array":
            items = [default_of(kind["items"], one, named) for one in cast("list[Any]", value)] if isinstance(value, list) else [NO_DEFAULT]
            return NO_DEFAULT if NO_DEFAULT in items else items
        case "map":
            if not isinstance(value, dict):
                return NO_DEFAULT
            values = {name: default_of(kind["values"], one, named) for name, one in cast("dict[str, Any]", value).items()}
            return NO_DEFAULT if NO_DEFAULT in values.values() else values
        case _:
            return NO_DEFAULT if kind.get("logicalType") == "json" else _primitive(kind["type"], value)


def _record(kind: Mapping[str, Any], value: Any, named: Mapping[str, dict[str, Any]]) -> Any:
    if not isinstance(value, dict):
        return NO_DEFAULT
    given = cast("dict[str, Any]", value)
    found: dict[str, Any] = {}
    for field in kind["fields"]:
        json_name = field.get("json", field["name"])
        found[field["name"]] = default_of(field["type"], given[json_name], named) if json_name in given else NO_DEFAULT
    known = {field.get("json", field["name"]) for field in kind["fields"]}
    return NO_DEFAULT if NO_DEFAULT in found.values() or given.keys() - known else found


def _primitive(kind: str, value: Any) -> Any:
    fits = {
        "null": value is None,
        "boolean": isinstance(value, bool),
        "string": isinstance(value, str),
        "int": False,
        "long": isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= _LONG_BITS,
        "double": isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value),
    }
    if not fits.get(kind, False):
        return NO_DEFAULT
    return float(value) if kind == "double" else value

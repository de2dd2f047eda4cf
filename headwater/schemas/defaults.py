"""Default values as Avro writes them in a schema."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, TypeGuard

from headwater.schemas.logical import LOGICAL
from headwater.schemas.unions import is_union

NO_DEFAULT: Final = object()
_LONG_BITS: Final = 63


def is_array(value: Any) -> TypeGuard[list[Any]]:
    """A JSON array."""
    return isinstance(value, list)


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """A JSON object."""
    return isinstance(value, dict)


def with_default(kind: Any, value: Any, named: Mapping[str, dict[str, Any]]) -> tuple[Any, Any]:
    """The type and the default for a JSON value; in a union the default's branch moves to the front, where Avro wants it.

    The default is `NO_DEFAULT` where Avro has no way to write it.
    """
    if is_union(kind):
        for branch in kind:
            if (default := default_of(branch, value, named)) is not NO_DEFAULT:
                return [branch, *(other for other in kind if other is not branch)], default
        return kind, NO_DEFAULT
    return kind, default_of(kind, value, named)


def default_of(kind: Any, value: Any, named: Mapping[str, dict[str, Any]]) -> Any:
    """The JSON value as a default of this type, or `NO_DEFAULT`."""
    if is_union(kind):
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
    return _structured(kind, value, named)


def _structured(kind: Mapping[str, Any], value: Any, named: Mapping[str, dict[str, Any]]) -> Any:
    match kind["type"]:
        case "record":
            return _record(kind, value, named)
        case "enum":
            return value if value in kind["symbols"] else NO_DEFAULT
        case "array":
            items = [default_of(kind["items"], one, named) for one in value] if is_array(value) else [NO_DEFAULT]
            return NO_DEFAULT if NO_DEFAULT in items else items
        case "map":
            values = {name: default_of(kind["values"], one, named) for name, one in value.items()} if is_object(value) else {"": NO_DEFAULT}
            return NO_DEFAULT if NO_DEFAULT in values.values() else values
        case primitive:
            return NO_DEFAULT if kind.get("logicalType") == "json" else _primitive(primitive, value)


def _record(kind: Mapping[str, Any], value: Any, named: Mapping[str, dict[str, Any]]) -> Any:
    if not is_object(value):
        return NO_DEFAULT
    found: dict[str, Any] = {}
    for field in kind["fields"]:
        json_name = field.get("json", field["name"])
        found[field["name"]] = default_of(field["type"], value[json_name], named) if json_name in value else NO_DEFAULT
    known = {field.get("json", field["name"]) for field in kind["fields"]}
    return NO_DEFAULT if NO_DEFAULT in found.values() or value.keys() - known else found


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

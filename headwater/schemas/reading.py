"""From what fastavro reads to JSON, by what the writer's schema says each value means."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import orjson

from headwater.schemas.logical import BYTES, LOGICAL
from headwater.schemas.unions import is_union, kind_of

ToJson: TypeAlias = Callable[[Any], Any]


def json_writer(schema: Mapping[str, Any]) -> ToJson | None:
    """What makes a datum fit for JSON; None when it is already."""
    return _Reading().conversion(schema)


def physical(kind: Any) -> Any:
    """The schema without meanings: the same bytes, and fastavro leaves the values alone."""
    if is_union(kind):
        return [physical(one) for one in kind]
    if isinstance(kind, str):
        return kind
    given = cast("dict[str, Any]", kind)
    if given["type"] not in {"record", "enum", "fixed", "array", "map"}:
        return physical(given["type"])
    bare: dict[str, Any] = {name: given[name] for name in ("type", "name", "namespace", "symbols", "size") if name in given}
    bare |= {inside: physical(given[inside]) for inside in ("items", "values") if inside in given}
    if given["type"] == "record":
        bare["fields"] = [{"name": field["name"], "type": physical(field["type"])} for field in given["fields"]]
    return bare


def _from_double(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _from_fixed(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode()


class _Reading:
    def __init__(self) -> None:
        self._named: dict[str, list[ToJson | None]] = {}
        """A cell for each named type: empty while it is built."""

    def conversion(self, kind: Any) -> ToJson | None:
        if is_union(kind):
            return self._union(kind)
        if isinstance(kind, str):
            return self._primitive(kind)
        if (logical := LOGICAL.get(kind.get("logicalType", ""))) is not None:
            return logical(kind).to_json
        match kind["type"]:
            case "record":
                return self._record(kind)
            case "enum":
                self._named[kind["name"]] = [None]
                return None
            case "array":
                return _each_item(self.conversion(kind["items"]))
            case "map":
                return _each_value(self.conversion(kind["values"]))
            case "fixed":
                self._named[kind["name"]] = [_from_fixed]
                return _from_fixed
            case "string" if kind.get("logicalType") == "json":
                return orjson.Fragment
            case inner:
                return self.conversion(inner)

    def _primitive(self, kind: str) -> ToJson | None:
        if kind in {"float", "double"}:
            return _from_double
        if kind == "bytes":
            return BYTES.to_json
        if (cell := self._named.get(kind)) is None:
            return None
        return cell[0] if cell else lambda value: _apply(cell[0], value)

    def _record(self, kind: Mapping[str, Any]) -> ToJson | None:
        cell = self._named[kind["name"]] = []
        conversions = [(field["name"], to_json) for field in kind["fields"] if (to_json := self.conversion(field["type"])) is not None]
        renamed = [(field["name"], field["json"]) for field in kind["fields"] if "json" in field]
        cell.append(_record_conversion(conversions, renamed) if conversions or renamed else None)
        return cell[0]

    def _union(self, branches: list[Any]) -> ToJson | None:
        by_type: dict[type, ToJson] = {}
        records: dict[str, ToJson] = {}
        for branch in branches:
            to_json = self.conversion(branch)
            kind = kind_of(branch)
            if kind == "named":
                # fastavro says which record it read; an enum's symbol is text.
                records[branch if isinstance(branch, str) else branch["name"]] = to_json or _as_it_is
            elif to_json is not None:
                by_type[_PYTHON_TYPES[kind]] = to_json
        if records:
            by_type[tuple] = lambda pair: records[pair[0]](pair[1])
        if not by_type:
            return None

        def choose(value: Any) -> Any:
            to_json = by_type.get(value.__class__)
            return value if to_json is None else to_json(value)

        return choose


_PYTHON_TYPES: dict[str, type] = {
    "null": type(None),
    "boolean": bool,
    "integer": int,
    "double": float,
    "string": str,
    "bytes": bytes,
    "array": list,
    "map": dict,
}


def _as_it_is(value: Any) -> Any:
    return value


def _apply(to_json: ToJson | None, value: Any) -> Any:
    return value if to_json is None else to_json(value)


def _each_item(to_json: ToJson | None) -> ToJson | None:
    return None if to_json is None else lambda items: [to_json(item) for item in items]


def _each_value(to_json: ToJson | None) -> ToJson | None:
    return None if to_json is None else lambda items: {name: to_json(item) for name, item in items.items()}


def _record_conversion(conversions: list[tuple[str, ToJson]], renamed: list[tuple[str, str]]) -> ToJson:
    """Changes the record that fastavro has just made."""

    def convert(record: dict[str, Any]) -> dict[str, Any]:
        for name, to_json in conversions:
            record[name] = to_json(record[name])
        if renamed:
            found = {name: record.pop(name) for name, _ in renamed}
            record.update((json_name, found[name]) for name, json_name in renamed)
        return record

    return convert

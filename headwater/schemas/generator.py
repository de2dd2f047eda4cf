"""Avro schemas from event classes.

The schema describes the class's JSON form exactly: whatever the log may hold of this class, Avro carries without loss. Where Avro's own type
carries only the usual values (a moment in UTC, a decimal with the declared places), the field is a union of that type and a string, and unusual
values travel as their text. What has no fixed shape (`Any`) travels as JSON text.

| JSON form of | Avro |
|---|---|
| str, bool, float, int | string, boolean, double, long |
| int with a declared bound beyond 64 bits, `Any`, open dictionaries' values | string, `logicalType: json` |
| UUID | string, `uuid` |
| Decimal | string, `decimal-text`; with `max_digits` and `decimal_places`: union of bytes `decimal` and string |
| datetime, time | union of long `timestamp-micros` (`local-timestamp-micros` for `NaiveDatetime`, `time-micros`) and string |
| date, timedelta, bytes | int `date`, string `duration-text`, bytes |
| Enum | enum when all values are Avro names, else string or long |
| list, set, tuple, dict, model | array, array, array of a union, map, record |

Attributes of ours: `json` on a field whose JSON name is no Avro name.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping
from typing import Any, Final, TypeAlias, cast

from headwater.errors import SchemaError
from headwater.messages import Event
from headwater.personal import personal_fields_of
from headwater.schemas.defaults import NO_DEFAULT, with_default
from headwater.schemas.json_form import HINT, json_form
from headwater.schemas.names import AVRO_NAME, avro_name, avro_namespace
from headwater.schemas.unions import JSON_TEXT, is_union, union_of

AvroType: TypeAlias = Any
"""A name, a union as a list, or a dictionary: what JSON makes of it."""

_LONG_MIN, _LONG_MAX = -(2**63), 2**63 - 1
_REFERENCE: Final = "#/$defs/"
_LEAVES: Final[Mapping[str, AvroType]] = {
    "uuid": {"type": "string", "logicalType": "uuid"},
    "decimal-text": {"type": "string", "logicalType": "decimal-text"},
    "duration-text": {"type": "string", "logicalType": "duration-text"},
    "date": {"type": "int", "logicalType": "date"},
    "timestamp-micros": [{"type": "long", "logicalType": "timestamp-micros"}, "string"],
    "local-timestamp-micros": [{"type": "long", "logicalType": "local-timestamp-micros"}, "string"],
    "time-micros": [{"type": "long", "logicalType": "time-micros"}, "string"],
    "bytes": "bytes",
}
_JSON_TYPES: Final[Mapping[str, AvroType]] = {"string": "string", "boolean": "boolean", "number": "double", "null": "null"}


def avro_schema(event_class: type[Event]) -> dict[str, Any]:
    """The Avro schema of an event class: a record named by the event type, in the namespace of its category. The same at every call.

    Raises:
        SchemaError: a field cannot be represented; the message names class and field.
    """
    return _Generator(event_class).generate()


def canonical_text(schema: object) -> str:
    """The schema as text that is the same wherever the schema is the same; `doc` included."""
    return json.dumps(schema, ensure_ascii=True, separators=(",", ":"), allow_nan=False)


class _Generator:
    def __init__(self, event_class: type[Event]) -> None:
        self._class = event_class
        personal = personal_fields_of(event_class)
        self._sealed: Container[str] = personal.by_name if personal is not None else ()
        """Fields that may hold a sealed value, which is text, in place of their own."""
        self._form = json_form(event_class)
        self._forms: Mapping[str, Any] = self._form.get("$defs", {})
        self._namespace = avro_namespace(event_class.event_category)
        self._named: dict[str, dict[str, Any]] = {}
        """Records and enums by full name; while they are built, an empty one stands for them."""
        self._names: dict[str, str] = {}
        """Full names by pydantic's name of the definition."""
        self._inlining: list[str] = []

    def generate(self) -> dict[str, Any]:
        form = self._form
        if set(form) >= {"$ref", "$defs"}:
            own = str(form["$ref"]).removeprefix(_REFERENCE)
            form = self._forms[own]
            self._names[own] = self._full_name(self._class.event_type)
        if form.get("type") != "object" or ("properties" not in form and not self._is_empty(form)):
            raise SchemaError(
                f"{self._class.event_type} does not write its fields as a JSON object (a model serializer?); its shape cannot be known"
            )
        name = self._full_name(self._class.event_type)
        self._named[name] = {}
        self._named[name] = self._record(name, form, self._class.event_type)
        return cast("dict[str, Any]", self._defined_at_first_use(name, set()))

    @staticmethod
    def _is_empty(form: Mapping[str, Any]) -> bool:
        return form.get("additionalProperties") is False or not set(form) - {"title", "type", "description", "$defs"}

    def _full_name(self, name: str) -> str:
        taken = {known.rpartition(".")[2] for known in self._named.keys() | set(self._names.values())}
        local = avro_name(name)
        return f"{self._namespace}.{local if local not in taken or name == self._class.event_type else avro_name(name, taken)}"

    # -- one type ------------------------------------------------------------------------------------------------------

    def _type(self, form: Mapping[str, Any], path: str) -> AvroType:
        if (reference := form.get("$ref")) is not None:
            return self._definition(str(reference).removeprefix(_REFERENCE), path)
        if (several := form.get("anyOf") or form.get("oneOf")) is not None:
            return union_of(self._type(one, path) for one in several)
        if len(parts := form.get("allOf", ())) == 1:
            return self._type(parts[0], path)
        if (hint := form.get(HINT)) is not None:
            return _leaf(hint, form)
        if "const" in form or "enum" in form:
            return union_of(_type_of_constant(value) for value in _constants(form))
        if isinstance(kinds := form.get("type"), list):
            return union_of(self._type({**form, "type": kind}, path) for kind in cast("list[str]", kinds))
        match kinds:
            case "integer":
                return _integer(form)
            case "array":
                return {"type": "array", "items": self._items(form, path)}
            case "object":
                return self._object(form, path)
            case _:
                return _JSON_TYPES.get(str(kinds), JSON_TEXT)

    def _items(self, form: Mapping[str, Any], path: str) -> AvroType:
        several = list(form.get("prefixItems", ()))
        if isinstance(rest := form.get("items"), dict):
            several.append(rest)
        return union_of(self._type(one, f"{path}[]") for one in several) if several else JSON_TEXT

    def _object(self, form: Mapping[str, Any], path: str) -> AvroType:
        """An object without a name of its own: a dictionary."""
        if "properties" in form:
            return JSON_TEXT
        values = [form["additionalProperties"]] if isinstance(form.get("additionalProperties"), dict) else []
        values += form.get("patternProperties", {}).values()
        return {"type": "map", "values": union_of(self._type(one, f"{path}{{}}") for one in values) if values else JSON_TEXT}

    # -- named types ---------------------------------------------------------------------------------------------------

    def _definition(self, name: str, path: str) -> AvroType:
        if (known := self._names.get(name)) is not None:
            return known
        form = self._forms[name]
        if _is_record(form):
            full_name = self._names[name] = self._full_name(name)
            self._named[full_name] = {}
            self._named[full_name] = self._record(full_name, form, path)
            return full_name
        if _is_enum(form):
            full_name = self._names[name] = self._full_name(name)
            self._named[full_name] = _with_doc({"type": "enum", "name": full_name, "symbols": list(form["enum"])}, form)
            return full_name
        if name in self._inlining:
            # It contains itself without a record in between; Avro has no name for that.
            return JSON_TEXT
        self._inlining.append(name)
        try:
            return self._type(form, path)
        finally:
            self._inlining.pop()

    def _record(self, full_name: str, form: Mapping[str, Any], path: str) -> dict[str, Any]:
        fields: list[dict[str, Any]] = []
        taken: set[str] = set()
        for json_name, field_form in form.get("properties", {}).items():
            name = avro_name(json_name, taken)
            taken.add(name)
            kind = self._type(field_form, f"{path}.{json_name}")
            if path == self._class.event_type and json_name in self._sealed:
                kind = union_of((kind, "string"))
            field: dict[str, Any] = {"name": name, "type": kind}
            if name != json_name:
                field["json"] = json_name
            fields.append(self._with_default(_with_doc(field, field_form), field_form))
        record: dict[str, Any] = {"type": "record", "name": full_name}
        return _with_doc(record, form) | {"fields": fields}

    def _with_default(self, field: dict[str, Any], form: Mapping[str, Any]) -> dict[str, Any]:
        if "default" not in form:
            return field
        kind, default = with_default(field["type"], form["default"], self._named)
        return field if default is NO_DEFAULT else {**field, "type": kind, "default": default}

    def _defined_at_first_use(self, kind: Any, defined: set[str]) -> Any:
        """Names replaced by their definitions where they come first, as Avro wants it."""
        if isinstance(kind, str):
            if kind not in self._named or kind in defined:
                return kind
            defined.add(kind)
            return self._defined_at_first_use(self._named[kind], defined)
        if is_union(kind):
            return [self._defined_at_first_use(one, defined) for one in kind]
        found = dict(cast("dict[str, Any]", kind))
        for part in ("items", "values"):
            if part in found:
                found[part] = self._defined_at_first_use(found[part], defined)
        if "fields" in found:
            found["fields"] = [{**field, "type": self._defined_at_first_use(field["type"], defined)} for field in found["fields"]]
        return found


def _is_record(form: Mapping[str, Any]) -> bool:
    """A model, dataclass or TypedDict whose every field is always there."""
    properties = form.get("properties")
    return form.get("type") == "object" and properties is not None and set(properties) <= set(form.get("required", ()))


def _is_enum(form: Mapping[str, Any]) -> bool:
    symbols = form.get("enum", ())
    return bool(symbols) and all(isinstance(symbol, str) and AVRO_NAME.fullmatch(symbol) for symbol in symbols)


def _leaf(hint: str, form: Mapping[str, Any]) -> AvroType:
    if hint == "decimal":
        return [{"type": "bytes", "logicalType": "decimal", "precision": form["precision"], "scale": form["scale"]}, "string"]
    return _LEAVES[hint]


def _integer(form: Mapping[str, Any]) -> AvroType:
    """A long, unless the class itself says that values go beyond 64 bits."""
    low = form.get("minimum", form.get("exclusiveMinimum", _LONG_MIN))
    high = form.get("maximum", form.get("exclusiveMaximum", _LONG_MAX))
    return "long" if low >= _LONG_MIN and high <= _LONG_MAX else JSON_TEXT


def _constants(form: Mapping[str, Any]) -> Iterable[object]:
    return cast("Iterable[object]", form["enum"]) if "enum" in form else (form["const"],)


def _type_of_constant(value: object) -> AvroType:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "long" if _LONG_MIN <= value <= _LONG_MAX else JSON_TEXT
    return "double" if isinstance(value, float) else "string" if isinstance(value, str) else JSON_TEXT


def _with_doc(target: dict[str, Any], form: Mapping[str, Any]) -> dict[str, Any]:
    description = form.get("description")
    return {**target, "doc": description} if isinstance(description, str) else target

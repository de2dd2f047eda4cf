"""From JSON text to what fastavro writes, in one pass of pydantic's own parser.

fastavro's writer trusts its input: it turns 1.5 into the long 1 and anything into a boolean, without a word. So the JSON is read through a
validator made from the Avro schema, which refuses whatever the schema does not carry exactly, fields it does not know included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic_core import CoreConfig, CoreSchema, SchemaValidator, core_schema, to_json

from headwater.schemas.logical import BYTES, LOGICAL
from headwater.schemas.unions import is_union, kind_of

_BITS: Final = {"int": 31, "long": 63}
_NOT_FINITE: Final = ("NaN", "Infinity", "-Infinity")
_TRY_ORDER: Final = ("null", "boolean", "integer", "double", "bytes", "named", "string", "array", "map")
"""Native forms before their text."""


def json_validator(schema: Mapping[str, Any]) -> SchemaValidator:
    """A validator whose `validate_json` gives the datum that fastavro writes with this schema."""
    return SchemaValidator(_Writing(schema).core_schema(), CoreConfig(cache_strings="keys"))


def _to_text(value: Any) -> str:
    return to_json(value, inf_nan_mode="constants").decode()


def _exact_double(value: Any) -> float:
    if type(value) is not float:
        raise ValueError("not a floating-point number")
    return value


class _Writing:
    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._definitions: dict[str, CoreSchema] = {}

    def core_schema(self) -> CoreSchema:
        top = self._type(self._schema)
        return core_schema.definitions_schema(top, list(self._definitions.values()))

    def _type(self, kind: Any) -> CoreSchema:
        if is_union(kind):
            return self._union(kind)
        if isinstance(kind, str):
            return self._primitive(kind)
        if (logical := LOGICAL.get(kind.get("logicalType", ""))) is not None:
            return core_schema.no_info_after_validator_function(logical(kind).to_avro, core_schema.str_schema(strict=True))
        match kind["type"]:
            case "record":
                return self._record(kind)
            case "enum":
                self._definitions[kind["name"]] = core_schema.literal_schema(list(kind["symbols"]), ref=kind["name"])
                return core_schema.definition_reference_schema(kind["name"])
            case "array":
                return core_schema.list_schema(self._type(kind["items"]), strict=True)
            case "map":
                return core_schema.dict_schema(core_schema.str_schema(strict=True), self._type(kind["values"]), strict=True)
            case "string" if kind.get("logicalType") == "json":
                return core_schema.no_info_after_validator_function(_to_text, core_schema.any_schema())
            case inner:
                return self._type(inner)

    def _primitive(self, kind: str) -> CoreSchema:
        match kind:
            case "null":
                return core_schema.none_schema()
            case "boolean":
                return core_schema.bool_schema(strict=True)
            case "int" | "long":
                limit = 2 ** _BITS[kind]
                return core_schema.int_schema(strict=True, ge=-limit, le=limit - 1)
            case "float" | "double":
                text = core_schema.no_info_after_validator_function(float, core_schema.literal_schema(list(_NOT_FINITE)))
                number = core_schema.float_schema(strict=True, allow_inf_nan=False)
                return core_schema.union_schema([number, text], mode="left_to_right")
            case "string":
                return core_schema.str_schema(strict=True)
            case "bytes":
                return core_schema.no_info_after_validator_function(BYTES.to_avro, core_schema.str_schema(strict=True))
            case name:
                return core_schema.definition_reference_schema(name)

    def _record(self, kind: Mapping[str, Any]) -> CoreSchema:
        fields: dict[str, core_schema.TypedDictField] = {}
        for field in kind["fields"]:
            value = self._type(field["type"])
            if "default" in field:
                value = core_schema.with_default_schema(value, default=_default(field["type"], field["default"]))
            fields[field["name"]] = core_schema.typed_dict_field(value, required="default" not in field, validation_alias=field.get("json"))
        self._definitions[kind["name"]] = core_schema.typed_dict_schema(fields, extra_behavior="forbid", ref=kind["name"])
        return core_schema.definition_reference_schema(kind["name"])

    def _union(self, branches: list[Any]) -> CoreSchema:
        has_integers = any(kind_of(one) == "integer" and not isinstance(one, dict) for one in branches)
        choices: list[CoreSchema | tuple[CoreSchema, str]] = []
        for branch in sorted(branches, key=lambda one: _TRY_ORDER.index(kind_of(one))):
            choice = self._type(branch)
            if kind_of(branch) == "double" and has_integers:
                choice = core_schema.no_info_after_validator_function(_exact_double, core_schema.any_schema())
            if (tag := _tag(branch, branches)) is not None:
                choice = core_schema.no_info_after_validator_function(tag, choice)
            choices.append(choice)
        return core_schema.union_schema(choices, mode="left_to_right")


def _tag(branch: Any, branches: list[Any]) -> Callable[[Any], Any] | None:
    """Names the branch for fastavro where the value alone would not."""
    kind = kind_of(branch)
    if kind == "named":
        name = branch if isinstance(branch, str) else branch["name"]
        if isinstance(branch, dict) and branch["type"] == "enum":
            return None
        return lambda value: value if isinstance(value, str) else (name, value)
    kinds = {kind_of(one) for one in branches}
    if kind in {"integer", "double"} and {"integer", "double"} <= kinds and isinstance(branch, str):
        return lambda value: (branch, value)
    return None


def _default(kind: Any, default: Any) -> Any:
    """A default as the datum it stands for, down to bytes; a union's default is of its first branch."""
    first = kind[0] if is_union(kind) else kind
    inner: Any = first if isinstance(first, str) else first["type"]
    datum = default.encode("latin-1") if inner == "bytes" else default
    tag = _tag(first, kind) if is_union(kind) else None
    return tag(datum) if tag is not None else datum

"""The shape of the JSON an event class writes, as pydantic tells it, with what JSON Schema alone would not say.

Avro on Kafka is made from the JSON in the log. So what matters is the JSON form of a field, custom serializers included, not its Python type:
each value gets the hint `avro`, which names the Avro type that carries exactly that JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from headwater.errors import SchemaError
from headwater.messages import Event

HINT: Final = "avro"
_EMPTY_CONTAINERS: Final[Mapping[Any, Any]] = {list: [], set: [], frozenset: [], tuple: [], dict: {}}


def json_form(event_class: type[Event]) -> dict[str, Any]:
    """The JSON schema of what the class writes into the log, with hints.

    Raises:
        SchemaError: a field has no JSON form that can be known, or one that the class itself could not read back.
    """
    by_alias = bool(event_class.model_config.get("serialize_by_alias"))
    try:
        return event_class.model_json_schema(mode="serialization", by_alias=by_alias, schema_generator=_HintedJsonSchema)
    except PydanticUserError as error:
        raise SchemaError(_explain(event_class, error)) from error


def _explain(event_class: type[Event], error: PydanticUserError) -> str:
    what = str(error).partition("\n")[0]
    for name, field in event_class.model_fields.items():
        probe: Any = {"__annotations__": {"probed": field.annotation}, "__module__": event_class.__module__}
        try:
            probe_class: type[BaseModel] = type("Probe", (BaseModel,), {**probe, "model_config": {"arbitrary_types_allowed": True}})
            probe_class.model_json_schema(mode="serialization", schema_generator=_HintedJsonSchema)
        except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
            return (
                f"{event_class.event_type}.{name} ({field.annotation!r}) cannot be written as Avro: {what}; give it a type with a JSON form, "
                "or a serializer whose return type is annotated"
            )
    return f"{event_class.event_type} cannot be written as Avro: {what}"


class _HintedJsonSchema(GenerateJsonSchema):
    """Pydantic's own generator; the overrides add hints and nothing else."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - pydantic declares it so

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        precision, scale = schema.get("max_digits"), schema.get("decimal_places")
        if precision is None or scale is None or not 0 <= scale <= precision:
            return {"type": "string", HINT: "decimal-text"}
        return {"type": "string", HINT: "decimal", "precision": precision, "scale": scale}

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        hint = "local-timestamp-micros" if schema.get("tz_constraint") == "naive" else "timestamp-micros"
        return _hinted(super().datetime_schema(schema), hint)

    def date_schema(self, schema: core_schema.DateSchema) -> JsonSchemaValue:
        return _hinted(super().date_schema(schema), "date")

    def time_schema(self, schema: core_schema.TimeSchema) -> JsonSchemaValue:
        return _hinted(super().time_schema(schema), "time-micros")

    def timedelta_schema(self, schema: core_schema.TimedeltaSchema) -> JsonSchemaValue:
        return _hinted(super().timedelta_schema(schema), "duration-text")

    def uuid_schema(self, schema: core_schema.UuidSchema) -> JsonSchemaValue:
        return _hinted(super().uuid_schema(schema), "uuid")

    def bytes_schema(self, schema: core_schema.BytesSchema) -> JsonSchemaValue:
        plain = super().bytes_schema(schema)
        return _hinted(plain, "bytes") if plain.get("format") == "base64url" else plain

    def complex_schema(self, schema: core_schema.ComplexSchema) -> JsonSchemaValue:
        return {**super().complex_schema(schema), "type": "string"}

    def ser_schema(self, schema: Any) -> JsonSchemaValue | None:
        # A serializer that does not say what it returns may return anything.
        if schema["type"].startswith("function-") and schema.get("return_schema") is None:
            return {}
        return super().ser_schema(schema)

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        found = super().default_schema(schema)
        empty = _EMPTY_CONTAINERS.get(schema.get("default_factory"))
        return found if empty is None else {**found, "default": empty}

    def field_is_required(self, field: Any, total: bool) -> bool:
        # Required here means: always there in the JSON.
        if field.get("serialization_exclude_if") is not None:
            return False
        return bool(field.get("required", total)) if field["type"] == "typed-dict-field" else True

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        _check_read_back(schema["cls"])
        return super().model_schema(schema)


def _hinted(plain: JsonSchemaValue, hint: str) -> JsonSchemaValue:
    """With the hint, where the JSON form is text; configuration may turn times into numbers."""
    return {**plain, HINT: hint} if plain.get("type") == "string" else plain


def _check_read_back(model: type[BaseModel]) -> None:
    config = model.model_config
    if config.get("populate_by_name") or config.get("validate_by_name") or config.get("serialize_by_alias"):
        return
    for name, field in model.model_fields.items():
        if field.validation_alias is not None and field.validation_alias != name and field.exclude is not True:
            raise SchemaError(
                f"{model.__name__}.{name} is written as {name!r} but read as {field.validation_alias!r}, so no stored event could be read "
                f"back; add validate_by_name=True to the model_config of {model.__name__}"
            )

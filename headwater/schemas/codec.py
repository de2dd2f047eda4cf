"""JSON text to Avro bytes and back, compiled once per schema; and the five bytes before them in a Kafka value.

The codec knows schemas, not classes: the bytes carry the JSON, and coming back gives JSON that reads the same. So whatever holds for an
event read from the log (its validators, defaults for fields that came later, fields that are gone) holds for one read from Kafka.
"""

# fastavro types its streams as IO of anything.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from typing import Any, Final, Generic

import fastavro
import orjson
from pydantic import ValidationError

from headwater.errors import InvalidEvent, SchemaMismatch
from headwater.messages import EventT, faults
from headwater.schemas.generator import avro_schema, canonical_text
from headwater.schemas.reading import json_writer, physical
from headwater.schemas.writing import json_validator

_MAGIC: Final = 0
_FRAME: Final = struct.Struct(">bI")
_UNREADABLE: Final = (EOFError, IndexError, KeyError, ValueError, TypeError, OverflowError, StopIteration, struct.error, MemoryError)


class SchemaCodec:
    """JSON text to Avro and back, for one schema."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema: Final = schema
        self.name: Final = str(schema["name"])
        self._parsed: Any = fastavro.parse_schema(physical(schema))
        self._validate_json: Final = json_validator(schema).validate_json
        self._to_json: Final = json_writer(schema)

    def encode_json(self, text: str | bytes, *, prefix: bytes = b"") -> bytes:
        """The Avro bytes of an event's JSON, after a prefix.

        Raises:
            SchemaMismatch: the JSON holds what the schema does not carry exactly: an unknown field, an integer beyond 64 bits, another type.
        """
        try:
            datum = self._validate_json(text)
        except ValidationError as error:
            raise SchemaMismatch(f"the JSON does not fit the schema {self.name}: {faults(error)}") from None
        out = io.BytesIO()
        out.write(prefix)
        fastavro.schemaless_writer(out, self._parsed, datum)
        return out.getvalue()

    def decode_json(self, content: bytes, *, start: int = 0) -> bytes:
        """The JSON of Avro bytes, from an offset to the end.

        Raises:
            SchemaMismatch: the bytes are damaged, or were not written with this schema.
        """
        source = io.BytesIO(content)
        source.seek(start)
        try:
            datum: Any = fastavro.schemaless_reader(source, self._parsed, None, return_record_name=True)
            if source.tell() != len(content):
                raise ValueError(f"{len(content) - source.tell()} bytes are left over")
            return orjson.dumps(datum if self._to_json is None else self._to_json(datum))
        except _UNREADABLE as error:
            raise SchemaMismatch(
                f"the value was not written with the schema {self.name}, or is damaged: {str(error) or type(error).__name__}"
            ) from error


class AvroCodec(Generic[EventT]):
    """Typed events of one class to Avro and back.

    Raises:
        SchemaError: the class cannot be represented; the message names class and field.
    """

    def __init__(self, event_class: type[EventT]) -> None:
        self.event_class: Final = event_class
        self.schema: Final = avro_schema(event_class)
        self.schema_text: Final = canonical_text(self.schema)
        self.own: Final = SchemaCodec(self.schema)

    def encode(self, event: EventT) -> bytes:
        """The event's Avro bytes.

        Raises:
            SchemaMismatch: an integer beyond 64 bits in a field that declares no such bound.
        """
        return self.own.encode_json(event.__pydantic_serializer__.to_json(event))

    def encode_json(self, text: str | bytes) -> bytes:
        """The Avro bytes of the event's JSON, as the log holds it."""
        return self.own.encode_json(text)

    def decode(self, body: bytes, writer: SchemaCodec | None = None) -> EventT:
        """The typed event from Avro bytes; fields of the writer's schema that the class lacks are passed over, new ones take their default.

        Raises:
            SchemaMismatch: the bytes do not belong to the writer's schema.
            InvalidEvent: the values do not fit the class.
        """
        text = (writer or self.own).decode_json(body)
        try:
            return self.event_class.model_validate_json(text, extra="ignore")
        except ValidationError as error:
            raise InvalidEvent(f"the value does not fit {self.event_class.event_type}: {faults(error)}") from None


def frame(schema_id: int) -> bytes:
    """What stands before the Avro bytes in the Confluent wire format."""
    return _FRAME.pack(_MAGIC, schema_id)


FRAME_BYTES: Final = _FRAME.size


def schema_id_of(value: bytes | None) -> int:
    """The schema's id in a value in the Confluent wire format.

    Raises:
        SchemaMismatch: it is no such value.
    """
    if value is None or len(value) < FRAME_BYTES or value[0] != _MAGIC:
        raise SchemaMismatch("the value is not Avro in the Confluent wire format (a zero, the schema's id in four bytes, the content)")
    return int(_FRAME.unpack_from(value)[1])

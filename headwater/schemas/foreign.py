"""Avro that somebody else wrote, under a schema that no class of ours made."""

# fastavro types its streams as IO of anything.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import io
import json
import struct
from typing import Any, Final

import fastavro
from pydantic_core import PydanticSerializationError, to_json

from headwater.errors import SchemaError, SchemaMismatch
from headwater.schemas.codec import FRAME_BYTES

_UNREADABLE: Final = (
    EOFError, IndexError, KeyError, ValueError, TypeError, OverflowError, StopIteration, struct.error, MemoryError, RecursionError, ArithmeticError,
    PydanticSerializationError,
)  # fmt: skip


class ForeignSchemaCodec:
    """Reads values in the Confluent wire format as JSON: moments in ISO 8601, decimals as text, bytes in base64, as event classes take them.

    Raises:
        SchemaError: the schema cannot be used.
    """

    def __init__(self, schema_id: int, schema_text: str) -> None:
        self._schema_id = schema_id
        try:
            self._parsed: Any = fastavro.parse_schema(json.loads(schema_text))
        except Exception as error:
            # fastavro raises many kinds for a schema that is none.
            raise SchemaError(f"the schema {schema_id} cannot be used: {error!r}") from error

    def decode(self, value: bytes) -> str:
        """The JSON text of a value that names this schema.

        Raises:
            SchemaMismatch: it is damaged, or was not written with this schema.
        """
        source = io.BytesIO(value)
        source.seek(FRAME_BYTES)
        try:
            datum: Any = fastavro.schemaless_reader(source, self._parsed, None)
            if source.tell() != len(value):
                raise ValueError(f"{len(value) - source.tell()} bytes are left over")
            return to_json(datum, inf_nan_mode="strings", bytes_mode="base64").decode()
        except _UNREADABLE as error:
            raise SchemaMismatch(
                f"the value was not written with the schema {self._schema_id}, or is damaged: {str(error) or type(error).__name__}"
            ) from error

"""What stands in a record's value: the event's JSON, or whatever an encoder of a higher room makes of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from headwater.errors import SchemaMismatch
from headwater.messages import RecordedEvent

JSON_CONTENT: Final = b"application/json"
AVRO_CONTENT: Final = b"application/avro"
"""Avro in the Confluent wire format: a zero, the schema's id in four bytes, the content."""

EncodedValue = tuple[bytes, bytes]
"""A value, and its content type."""


class ValueEncoder(Protocol):
    """Makes values of events."""

    async def prepare(self, event_types: Iterable[str]) -> None:
        """Do what must be done before events of these types can be encoded; free when there is nothing new.

        Raises:
            StorageUnavailable, BrokerUnavailable: try again.
        """
        ...

    def encode(self, event: RecordedEvent) -> EncodedValue:
        """The value and its content type; whatever the log accepts can be encoded."""
        ...


class ValueDecoder(Protocol):
    """Reads values as JSON text."""

    async def prepare(self, values: Iterable[bytes | None], *, again: bool = False) -> None:
        """Do what must be done before these values can be decoded; free when there is nothing new.

        Args:
            again: look also for what was just looked for in vain.
        Raises:
            BrokerUnavailable: try again.
        """
        ...

    def decode(self, value: bytes | None, content_type: bytes | None) -> str:
        """The JSON text of a value.

        Raises:
            UnknownSchema: nobody published its schema.
            SchemaMismatch: it is damaged.
        """
        ...


class JsonEncoder:
    """Events as the log holds them."""

    async def prepare(self, event_types: Iterable[str]) -> None:
        """Nothing to do."""

    def encode(self, event: RecordedEvent) -> EncodedValue:
        """The event's JSON."""
        return event.data.encode(), JSON_CONTENT


class JsonDecoder:
    """Reads JSON, and says so when it meets something else."""

    async def prepare(self, values: Iterable[bytes | None], *, again: bool = False) -> None:
        """Nothing to do."""

    def decode(self, value: bytes | None, content_type: bytes | None) -> str:
        """The JSON text of a value; see `ValueDecoder.decode`."""
        if content_type == AVRO_CONTENT:
            raise SchemaMismatch("the value is Avro, which this reader was not given a decoder for; give it headwater.schemas.AvroDecoder")
        return json_text(value)


def json_text(value: bytes | None) -> str:
    """The text of a value that holds JSON.

    Raises:
        SchemaMismatch: it is missing or damaged.
    """
    if not value:
        raise SchemaMismatch("the value is missing" if value is None else "the value is empty")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise SchemaMismatch(f"the value is not UTF-8 text: {error}") from None


JSON_ENCODER: Final[ValueEncoder] = JsonEncoder()
JSON_DECODER: Final[ValueDecoder] = JsonDecoder()

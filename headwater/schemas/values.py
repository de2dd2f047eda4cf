"""Values on Kafka: Avro for the event classes we know, JSON for whatever Avro would not carry exactly; and back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from headwater.errors import SchemaError, SchemaMismatch, UnknownEventType, UnknownSchema
from headwater.messages import Event, EventRegistry, RecordedEvent
from headwater.schemas.codec import FRAME_BYTES, AvroCodec, SchemaCodec, frame, schema_id_of
from headwater.schemas.store import SchemaBoard, SchemaRegistry
from headwater.telemetry import logger

AVRO: Final = b"application/avro"
JSON: Final = b"application/json"
_UNKNOWN_IDS_MAX: Final = 10_000

_log = logger("schemas")


@dataclass(frozen=True, slots=True)
class _Writer:
    codec: SchemaCodec
    prefix: bytes


class AvroEncoder:
    """Writes events as Avro in the Confluent wire format, under schemas that every reader of the cluster can find.

    An event travels as JSON instead when its class is not known here, or when its JSON holds what the class's schema does not carry exactly:
    a field that a newer version of the class wrote, an integer beyond 64 bits. So nothing is refused and nothing is lost.
    """

    def __init__(self, event_classes: EventRegistry, registry: SchemaRegistry, board: SchemaBoard) -> None:
        self._event_classes, self._registry, self._board = event_classes, registry, board
        self._writers: dict[str, _Writer] = {}
        self._told: set[str] = set()

    def check(self) -> None:
        """Make sure that every registered class has a schema.

        Raises:
            SchemaError: one has none; the message names class and field.
        """
        for event_class in self._event_classes:
            AvroCodec(event_class)

    async def prepare(self, event_types: Iterable[str]) -> None:
        """Register and publish the schemas of these types, where that was not done yet. Free when there is nothing new.

        Raises:
            StorageUnavailable, BrokerUnavailable: try again.
            SchemaError: the schema's id is taken in this Kafka cluster.
        """
        for event_type in set(event_types) - self._writers.keys():
            if (event_class := self._find(event_type)) is not None:
                await self._register(event_type, event_class)

    def encode(self, event: RecordedEvent) -> tuple[bytes, bytes]:
        """The value and its content type, as of the last `prepare`."""
        if (writer := self._writers.get(event.type)) is not None:
            try:
                return writer.codec.encode_json(event.data, prefix=writer.prefix), AVRO
            except SchemaMismatch as error:
                self._tell(event.type, str(error))
        return event.data.encode(), JSON

    def _find(self, event_type: str) -> type[Event] | None:
        try:
            return self._event_classes.find(event_type)
        except UnknownEventType as error:
            self._tell(event_type, str(error))
            return None

    async def _register(self, event_type: str, event_class: type[Event]) -> None:
        try:
            codec = AvroCodec(event_class)
        except SchemaError as error:
            self._tell(event_type, str(error))
            return
        registered = await self._registry.register(f"{event_class.event_category}-{codec.own.name}", codec.schema_text)
        await self._board.publish(registered.schema_id, codec.schema_text)
        self._writers[event_type] = _Writer(codec.own, frame(registered.schema_id))

    def _tell(self, event_type: str, reason: str) -> None:
        if event_type not in self._told:
            self._told.add(event_type)
            _log.warning("events_sent_as_json", event_type=event_type, reason=reason)


class AvroDecoder:
    """Reads values of both kinds, whoever wrote them, as JSON text."""

    def __init__(self, board: SchemaBoard) -> None:
        self._board = board
        self._codecs: dict[int, SchemaCodec] = {}
        self._unknown: set[int] = set()

    async def prepare(self, values: Iterable[bytes | None]) -> None:
        """Look up the schemas of these values, where that was not done yet. Free when there is nothing new.

        Raises:
            BrokerUnavailable: try again.
        """
        ids = {value[1:FRAME_BYTES] for value in values if value and not value[0] and len(value) >= FRAME_BYTES}
        missing = {int.from_bytes(schema_id, "big") for schema_id in ids} - self._codecs.keys() - self._unknown
        if not missing:
            return
        await self._board.refresh()
        for schema_id in missing:
            try:
                text = self._board.find(schema_id)
                if text is not None:
                    self._codecs[schema_id] = _compile(schema_id, text)
            except SchemaError as error:
                _log.error("schema_unusable", schema_id=schema_id, reason=str(error))
        if len(self._unknown) >= _UNKNOWN_IDS_MAX:
            self._unknown.clear()
        # Writers publish before they write: what is not there now will not come by itself.
        self._unknown |= missing - self._codecs.keys()

    def decode(self, value: bytes, content_type: bytes | None) -> str:
        """The JSON text of a value.

        Raises:
            UnknownSchema: its schema was never published, or cannot be used.
            SchemaMismatch: it is damaged.
        """
        if content_type != AVRO:
            try:
                return value.decode()
            except UnicodeDecodeError as error:
                raise SchemaMismatch(f"the value is not UTF-8 text: {error}") from None
        schema_id = schema_id_of(value)
        codec = self._codecs.get(schema_id)
        if codec is None:
            raise UnknownSchema(f"the value was written with the schema {schema_id}, which was never published in this Kafka cluster")
        return codec.decode_json(value, start=FRAME_BYTES).decode()


def _compile(schema_id: int, text: str) -> SchemaCodec:
    try:
        return SchemaCodec(json.loads(text))
    except Exception as error:
        # fastavro and pydantic raise many kinds for a schema that is none; anyone may write to the topic.
        raise SchemaError(f"the schema {schema_id} cannot be used: {error!r}") from error

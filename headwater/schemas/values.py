"""Values on Kafka: Avro for the event classes we know, JSON for whatever Avro would not carry exactly; and back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import SchemaError, SchemaMismatch, UnknownEventType, UnknownSchema
from headwater.kafka import AVRO_CONTENT, JSON_CONTENT, EncodedValue, json_text
from headwater.messages import Event, EventRegistry, RecordedEvent
from headwater.schemas.codec import FRAME_BYTES, AvroCodec, SchemaCodec, frame, schema_id_of
from headwater.schemas.store import SchemaBoard, SchemaRegistry
from headwater.telemetry import logger

LOOK_AGAIN_SECONDS: Final = 10.0
"""An id that nobody published is looked for again after this: an operator may have restored the topic."""
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
        self._codecs: dict[type[Event], AvroCodec[Event]] = {}
        self._writers: dict[str, _Writer | None] = {}
        """By event type; None for one that has no schema."""
        self._told: set[str] = set()

    def check(self) -> None:
        """Make sure that every registered class has a schema.

        Raises:
            SchemaError: one has none; the message names class and field.
        """
        for event_class in self._event_classes:
            self._codec(event_class)

    async def prepare(self, event_types: Iterable[str]) -> None:
        """Register the schemas of these types and publish them, where that was not done yet; see `ValueEncoder.prepare`."""
        new = {event_type: codec for event_type in set(event_types) - self._writers.keys() if (codec := self._find(event_type)) is not None}
        if not new:
            return
        ids = {
            event_type: schema_id for event_type, codec in new.items() if (schema_id := await self._register(event_type, codec)) is not None
        }
        # Together, for connecting takes longer than publishing.
        clashes = await self._board.publish({schema_id: new[event_type].schema_text for event_type, schema_id in ids.items()})
        for event_type, schema_id in ids.items():
            if (clash := clashes.get(schema_id)) is not None:
                self._refuse(event_type, str(clash))
            else:
                self._writers[event_type] = _Writer(new[event_type].own, frame(schema_id))

    def encode(self, event: RecordedEvent) -> EncodedValue:
        """The value and its content type, as of the last `prepare`."""
        if (writer := self._writers.get(event.type)) is not None:
            try:
                return writer.codec.encode_json(event.data, prefix=writer.prefix), AVRO_CONTENT
            except SchemaMismatch as error:
                self._tell(event.type, str(error))
        return event.data.encode(), JSON_CONTENT

    def _codec(self, event_class: type[Event]) -> AvroCodec[Event]:
        if (codec := self._codecs.get(event_class)) is None:
            codec = self._codecs[event_class] = AvroCodec(event_class)
        return codec

    def _find(self, event_type: str) -> AvroCodec[Event] | None:
        try:
            return self._codec(self._event_classes.find(event_type))
        except UnknownEventType as error:
            # Its class may yet be imported.
            self._tell(event_type, str(error))
        except SchemaError as error:
            self._refuse(event_type, str(error))
        return None

    async def _register(self, event_type: str, codec: AvroCodec[Event]) -> int | None:
        subject = f"{codec.event_class.event_category}-{codec.own.name}"
        try:
            return (await self._registry.register(subject, codec.schema_text)).schema_id
        except SchemaError as error:
            self._refuse(event_type, str(error))
            return None

    def _refuse(self, event_type: str, reason: str) -> None:
        """Never Avro in this process."""
        self._writers[event_type] = None
        self._tell(event_type, reason)

    def _tell(self, event_type: str, reason: str) -> None:
        if event_type not in self._told:
            self._told.add(event_type)
            _log.warning("events_sent_as_json", event_type=event_type, reason=reason)


class AvroDecoder:
    """Reads values of both kinds, whoever wrote them, as JSON text."""

    def __init__(self, board: SchemaBoard, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._board, self._clock = board, clock
        self._codecs: dict[int, SchemaCodec] = {}
        self._unknown_until: dict[int, float] = {}
        """Ids that were looked for in vain, and when to look again."""

    async def prepare(self, values: Iterable[bytes | None], *, again: bool = False) -> None:
        """Look up the schemas of these values, where that was not done yet; see `ValueDecoder.prepare`."""
        ids = {value[1:FRAME_BYTES] for value in values if value and not value[0] and len(value) >= FRAME_BYTES}
        missing = {int.from_bytes(schema_id, "big") for schema_id in ids} - self._codecs.keys()
        now = self._clock.monotonic()
        missing = {schema_id for schema_id in missing if again or self._unknown_until.get(schema_id, now) <= now}
        if not missing:
            return
        self._compile(missing)
        missing -= self._codecs.keys()
        if not missing:
            return
        await self._board.refresh()
        self._compile(missing)
        if len(self._unknown_until) >= _UNKNOWN_IDS_MAX:
            self._unknown_until.clear()
        # Writers publish before they write: what is not there now will not come by itself.
        self._unknown_until |= dict.fromkeys(missing - self._codecs.keys(), self._clock.monotonic() + LOOK_AGAIN_SECONDS)

    def _compile(self, schema_ids: Iterable[int]) -> None:
        """What the board has seen by now."""
        for schema_id in schema_ids:
            try:
                text = self._board.find(schema_id)
                if text is not None:
                    self._codecs[schema_id] = _compile(schema_id, text)
            except SchemaError as error:
                _log.error("schema_unusable", schema_id=schema_id, reason=str(error))

    def decode(self, value: bytes | None, content_type: bytes | None) -> str:
        """The JSON text of a value.

        Raises:
            UnknownSchema: its schema was never published, or cannot be used.
            SchemaMismatch: it is damaged.
        """
        if content_type != AVRO_CONTENT:
            return json_text(value)
        schema_id = schema_id_of(value)
        assert value is not None, "has an id"
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

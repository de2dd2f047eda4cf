"""Topics of other producers: records without Headwater's headers, read by the class that a service declares for them.

Each record is translated as it is received: it gets the headers that a relay would have given it, with its offset as its position, and from there on it is
a message like any other, with retries, dead letters and its effects once. What its value is, its topic says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, Protocol, TypeAlias, get_args
from uuid import UUID, uuid5

from headwater.bus.values import SourceRecord
from headwater.checks import CONTROL, METADATA_BYTES_MAX
from headwater.errors import SchemaError, SchemaMismatch, UnknownSchema, UsageError
from headwater.kafka import AVRO_CONTENT, Envelope, Partition, ValueDecoder, encode_envelope, json_text
from headwater.messages import (
    CATEGORY_CHARACTERS_MAX,
    CAUSATION_ID,
    CORRELATION_ID,
    EVENT_BYTES_MAX,
    LOG_START,
    STREAM_NAME_CHARACTERS_MAX,
    TRACEPARENT,
    Event,
    LogPosition,
    RecordedEvent,
)
from headwater.schemas import ForeignSchemaCodec, schema_id_of

ForeignFormat: TypeAlias = Literal["json", "avro"]
"""What the values of a topic are: JSON in UTF-8, or Avro in the Confluent wire format."""

FOREIGN_VALUE_BYTES_MAX: Final = EVENT_BYTES_MAX
"""The largest value that is read; a larger one becomes a dead letter."""
STORY_CHARACTERS_MAX: Final = 200
"""The longest correlation id, causation id or trace context that is taken over from a record's headers."""
SCHEMAS_LOOKED_UP_MAX: Final = 10_000
"""Ids of schemas that are remembered as unknown."""

_TOPIC: Final = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_FOREIGN: Final = UUID("0199a5f0-b3d2-7c18-8f5e-61a4c0d97e35")
"""The namespace of ids of foreign topics and their records."""
_SOURCE: Final = "/foreign"
_RESERVED: Final = "headwater_"
"""Metadata that only Headwater writes: what is sealed, and who waits for a reply."""
_STORY: Final = frozenset({CORRELATION_ID, CAUSATION_ID, TRACEPARENT})


class FindsSchemas(Protocol):
    """A schema registry, as far as reading goes."""

    async def find(self, schema_id: int) -> str | None:
        """The text of the Avro schema with this id; None when there is none.

        Raises:
            BrokerUnavailable: the registry cannot be asked; what was received is received again later.
            SchemaError: it knows the id, and the schema cannot be used; its values become dead letters with this cause.
        """
        ...


@dataclass(frozen=True, slots=True)
class ForeignTopic:
    """A topic of another producer, as a service declares it."""

    name: str
    event_class: type[Event]
    format: ForeignFormat
    schemas: FindsSchemas | None
    """Where the schemas of Avro values are; None: among those that Headwater's services publish in the cluster."""

    @classmethod
    def of(cls, name: str, event_class: type[Event], format: str, schemas: FindsSchemas | None) -> ForeignTopic:  # noqa: A002 - the user's word
        """The same, checked.

        Raises:
            UsageError: no topic can have this name, or there is no such format.
        """
        if not _TOPIC.fullmatch(name):
            raise UsageError(f"on_topic({name[:60]!r}): a topic's name has 1 to 249 letters, digits, '.', '_' or '-'")
        if format not in get_args(ForeignFormat):
            raise UsageError(f"on_topic({name!r}, format={format!r}): values are 'json' or 'avro'")
        if schemas is not None and format != "avro":
            raise UsageError(f"on_topic({name!r}, schemas=…): only Avro values have schemas; say format='avro'")
        return cls(name, event_class, "avro" if format == "avro" else "json", schemas)

    @property
    def event_type(self) -> str:
        """What its messages are called in dead letters: the class, and where they come from."""
        return f"{self.event_class.event_type}@{self.name}"

    @property
    def content_type(self) -> bytes:
        return f"application/{self.format};topic={self.name}".encode()


# -- records -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TranslatedRecord:
    """A foreign record with the headers that a relay would have given it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class ForeignRecords:
    """Translates the records of foreign topics, and lets all others pass."""

    def __init__(self, topics: Mapping[str, ForeignTopic]) -> None:
        self._topics = topics

    def translate(self, received: Mapping[Partition, Sequence[SourceRecord]]) -> Mapping[Partition, Sequence[SourceRecord]]:
        """The same, those of foreign topics translated."""
        if not self._topics:
            return received
        return {
            partition: records
            if (topic := self._topics.get(partition.topic)) is None
            else [translated(topic, record) for record in records]
            for partition, records in received.items()
        }


def translated(topic: ForeignTopic, record: SourceRecord) -> TranslatedRecord:
    """The record as a relay would have written it; whatever it holds, this succeeds."""
    position = LogPosition(1, record.offset + 1)
    event = RecordedEvent(
        global_position=position.global_position,
        stream_name=stream_of(topic.name, record.key, record.partition),
        version=position.global_position,
        type=topic.event_type,
        data="",
        metadata=_metadata(record.headers),
        event_id=uuid5(_FOREIGN, f"{topic.name}/{record.partition}/{record.offset}"),
        recorded_at=_moment(record.timestamp),
    )
    # Every one begins anew: no foreign producer says what came before. What was applied, the offset tells.
    envelope = Envelope(event, log_id=uuid5(_FOREIGN, topic.name), position=position, previous=LOG_START)
    key, _, headers, _ = encode_envelope(envelope, source=_SOURCE, encoded=(b"", topic.content_type))
    value = None if record.value is None else ForeignValue(record.value)
    if value is not None:
        value.topic_name = topic.name
    return TranslatedRecord(record.topic, record.partition, record.offset, record.timestamp, key, value, headers)


def stream_of(topic_name: str, key: bytes | None, partition: int) -> str:
    """The stream that a foreign record counts to: its key in its topic, or its partition where it has none."""
    category = topic_name.replace("-", "_").lstrip("._")[:CATEGORY_CHARACTERS_MAX] or "foreign"
    if key is None:
        return f"{category}-partition:{partition}"
    try:
        text = key.decode()
    except UnicodeDecodeError:
        text = f"hex:{key.hex()}"
    if CONTROL.search(text):
        text = f"hex:{key.hex()}"
    if len(category) + 1 + len(text) > STREAM_NAME_CHARACTERS_MAX:
        text = f"hash:{uuid5(_FOREIGN, key.hex())}"
    return f"{category}-{text}"


def _moment(milliseconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0, UTC)


def _metadata(headers: Sequence[tuple[str, bytes]]) -> dict[str, str]:
    """What of the record's headers is text, as far as metadata may be large; nothing that would mean something else here."""
    found: dict[str, str] = {}
    size = 0
    for name, content in headers:
        text = _text(content)
        if (
            text is None
            or name.startswith(_RESERVED)
            or CONTROL.search(name)
            or (name in _STORY and not 1 <= len(text) <= STORY_CHARACTERS_MAX)
        ):
            continue
        size += len(name.encode()) + len(content)
        if size > METADATA_BYTES_MAX // 2:
            break
        found[name] = text
    return found


def _text(content: bytes | None) -> str | None:
    try:
        text = None if content is None else content.decode()
    except UnicodeDecodeError:
        return None
    return None if text is None or CONTROL.search(text) else text


# -- values ------------------------------------------------------------------------------------------------------------


class ForeignValue(bytes):
    """A value that knows which topic's format it is in."""

    topic_name: str


class ForeignValues:
    """A `ValueDecoder` that reads the values of foreign topics, too."""

    def __init__(self, inner: ValueDecoder, topics: Iterable[ForeignTopic]) -> None:
        self._inner = inner
        self._formats = {topic.content_type: _Format(topic, inner) for topic in topics}
        self._by_topic = {each.topic.name: each for each in self._formats.values()}

    @classmethod
    def around(cls, inner: ValueDecoder, topics: Mapping[str, ForeignTopic]) -> ValueDecoder:
        """What reads these topics as well; the decoder itself where there are none."""
        return cls(inner, topics.values()) if topics else inner

    async def prepare(self, values: Iterable[bytes | None], *, again: bool = False) -> None:
        """Look up the schemas of these values; see `ValueDecoder.prepare`."""
        own: list[bytes | None] = []
        foreign: dict[str, list[bytes]] = {}
        for value in values:
            if isinstance(value, ForeignValue):
                foreign.setdefault(value.topic_name, []).append(value)
            else:
                own.append(value)
        await self._inner.prepare(own, again=again)
        for topic_name, some in foreign.items():
            await self._by_topic[topic_name].prepare(some, again=again)
        if again:
            # A dead letter's value does not know any more where it came from.
            for each in self._formats.values():
                await each.prepare([value for value in own if value is not None], again=True)

    def decode(self, value: bytes | None, content_type: bytes | None) -> str:
        """The JSON text of a value; see `ValueDecoder.decode`."""
        if content_type is not None and (found := self._formats.get(content_type)) is not None:
            return found.decode(value)
        return self._inner.decode(value, content_type)


class _Format:
    """One topic's values."""

    def __init__(self, topic: ForeignTopic, inner: ValueDecoder) -> None:
        self.topic, self._inner = topic, inner
        self._codecs: dict[int, ForeignSchemaCodec | SchemaError] = {}

    async def prepare(self, values: Sequence[bytes], *, again: bool) -> None:
        if self.topic.format != "avro":
            return
        if self.topic.schemas is None:
            await self._inner.prepare(values, again=again)
            return
        for value in values:
            try:
                schema_id = schema_id_of(value)
            except SchemaMismatch:
                continue
            known = self._codecs.get(schema_id)
            if known is None or (again and isinstance(known, SchemaError)):
                self._codecs[schema_id] = await self._look_up(schema_id, self.topic.schemas)

    async def _look_up(self, schema_id: int, schemas: FindsSchemas) -> ForeignSchemaCodec | SchemaError:
        if len(self._codecs) >= SCHEMAS_LOOKED_UP_MAX:
            self._codecs.clear()
        try:
            text = await schemas.find(schema_id)
            if text is None:
                return UnknownSchema(
                    f"the value in {self.topic.name!r} was written with the schema {schema_id}, which its registry does not know"
                )
            return ForeignSchemaCodec(schema_id, text)
        except SchemaError as error:
            return error

    def decode(self, value: bytes | None) -> str:
        if value is None:
            raise SchemaMismatch(f"the record in {self.topic.name!r} is a tombstone: it has a key and no value")
        if len(value) > FOREIGN_VALUE_BYTES_MAX:
            raise SchemaMismatch(
                f"the value in {self.topic.name!r} takes {len(value):,} bytes; at most {FOREIGN_VALUE_BYTES_MAX:,} are read"
            )
        return self._from_avro(value) if self.topic.format == "avro" else json_text(value)

    def _from_avro(self, value: bytes) -> str:
        schema_id = schema_id_of(value)
        if self.topic.schemas is None:
            return self._inner.decode(bytes(value), AVRO_CONTENT)
        codec = self._codecs.get(schema_id)
        if isinstance(codec, SchemaError):
            raise codec
        if codec is None:
            raise UnknownSchema(f"the schema {schema_id} of a value in {self.topic.name!r} was not looked up")
        return codec.decode(value)

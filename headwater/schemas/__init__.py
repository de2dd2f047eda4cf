"""Avro from event classes: schemas, the codec, ids, and the values that go to Kafka.

Who is authoritative: the JSON in the log for what an event says; the class for which JSON there can be; the schema for what the bytes mean, for
ever, because records outlive classes. Avro is the log's JSON in other clothes: a codec turns JSON text into bytes and bytes into JSON that reads
the same, and refuses what it would have to change. So validators, defaults and upcasting work alike on what came from the log and from Kafka.

A schema's life: made from the class → registered (an id, from the schema's own text, in the service's database) → published (the topic
`_headwater_schemas`, before the first record that needs it) → found by any reader of the cluster, years later too.

Beside it, `log_files`: files of a log, JSON lines and Avro container files, written and read as a stream. A file begins with a header (which log,
which part of it) and ends with a count, so that one that was cut off is never taken for a whole one; `LogFileDamaged` names the line.

What can fail: a class has no schema (`SchemaError`, when the service starts), a value does not fit its schema (`SchemaMismatch`: the relay sends
JSON instead, a reader makes a dead letter), an id that nobody published (`UnknownSchema`). Decision: docs/decisions/0007-avro-and-schema-ids.md.
"""

from headwater.schemas.codec import FRAME_BYTES, AvroCodec, SchemaCodec, frame, schema_id_of
from headwater.schemas.foreign import ForeignSchemaCodec
from headwater.schemas.generator import avro_schema, canonical_text
from headwater.schemas.http import HttpSchemaRegistry
from headwater.schemas.kafka import SCHEMAS_TOPIC, KafkaSchemaBoard
from headwater.schemas.log_files import (
    FileEvent,
    LogFileFormat,
    LogFileHeader,
    LogFileReader,
    LogFileWriter,
    format_of,
    open_reader,
    open_writer,
)
from headwater.schemas.postgres import PostgresSchemas
from headwater.schemas.store import (
    PublishedSchemas,
    RegisteredSchema,
    SchemaBoard,
    SchemaRegistry,
    candidate_ids,
    fingerprint_of,
    no_id_left,
)
from headwater.schemas.values import AvroDecoder, AvroEncoder

__all__ = [
    "FRAME_BYTES",
    "SCHEMAS_TOPIC",
    "AvroCodec",
    "AvroDecoder",
    "AvroEncoder",
    "FileEvent",
    "ForeignSchemaCodec",
    "HttpSchemaRegistry",
    "KafkaSchemaBoard",
    "LogFileFormat",
    "LogFileHeader",
    "LogFileReader",
    "LogFileWriter",
    "PostgresSchemas",
    "PublishedSchemas",
    "RegisteredSchema",
    "SchemaBoard",
    "SchemaCodec",
    "SchemaRegistry",
    "avro_schema",
    "candidate_ids",
    "canonical_text",
    "fingerprint_of",
    "format_of",
    "frame",
    "no_id_left",
    "open_reader",
    "open_writer",
    "schema_id_of",
]

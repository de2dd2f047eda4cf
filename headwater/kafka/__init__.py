"""Kafka as Headwater uses it: envelopes, topics, tails, and a producer that fences its predecessor.

Who is authoritative: the log in PostgreSQL for what must be in Kafka; Kafka for what is. A producer's life: connected → fenced (its epoch's
marker stands in every partition, nothing older gets in any more) → writing → failed or abandoned, which is the end: nothing is retried or
flushed here; whoever comes next fences again and reads what got in.

A record's value is the event's JSON, or what a `ValueEncoder` from above makes of it (`headwater.schemas`: Avro); the headers tell which.

What can fail: Kafka cannot be reached (`BrokerUnavailable`: nothing is lost, try again), another relay took over (`RelayFenced`), a batch is
not accepted for what it holds (`RecordRefused`), a right is missing (`BrokerDenied`), a record was not written by a relay (`NotAnEnvelope`).

`producer`, `couriers`, `fence` and `client` reach into aiokafka 0.14.0; tests/unit/kafka/test_seam.py pins what they rely on.
"""

from headwater.kafka.client import check_broker
from headwater.kafka.couriers import SharedCouriers
from headwater.kafka.envelope import (
    Envelope,
    Provenance,
    Record,
    RecordDecoder,
    RecordEncoder,
    decode_headers,
    decode_record,
    encode_envelope,
    event_topic,
    kind_of,
    position_text,
    provenance_of,
    topic_of,
)
from headwater.kafka.errors import BrokerDenied, translate_kafka_errors
from headwater.kafka.groups import GroupFacts, inspect_groups
from headwater.kafka.inspection import FETCH_VERSION_OF_3_5, ClusterFacts, PartitionFacts, TopicFacts, inspect_cluster
from headwater.kafka.partitions import Partition, partition_of
from headwater.kafka.producer import FencedProducer, RecordBatch
from headwater.kafka.security import KafkaSecurity
from headwater.kafka.settings import REQUEST_SECONDS_MAX, KafkaSettings
from headwater.kafka.tails import OffsetRange, PartitionReader, Scan, open_reader
from headwater.kafka.topics import RECORD_BYTES_MAX, TOPIC_SETTINGS, KafkaTopics
from headwater.kafka.values import (
    AVRO_CONTENT,
    JSON_CONTENT,
    JSON_DECODER,
    JSON_ENCODER,
    EncodedValue,
    ValueDecoder,
    ValueEncoder,
    json_text,
)

__all__ = [
    "AVRO_CONTENT",
    "FETCH_VERSION_OF_3_5",
    "JSON_CONTENT",
    "JSON_DECODER",
    "JSON_ENCODER",
    "RECORD_BYTES_MAX",
    "REQUEST_SECONDS_MAX",
    "TOPIC_SETTINGS",
    "BrokerDenied",
    "ClusterFacts",
    "EncodedValue",
    "Envelope",
    "FencedProducer",
    "GroupFacts",
    "KafkaSecurity",
    "KafkaSettings",
    "KafkaTopics",
    "OffsetRange",
    "Partition",
    "PartitionFacts",
    "PartitionReader",
    "Provenance",
    "Record",
    "RecordBatch",
    "RecordDecoder",
    "RecordEncoder",
    "Scan",
    "SharedCouriers",
    "TopicFacts",
    "ValueDecoder",
    "ValueEncoder",
    "check_broker",
    "decode_headers",
    "decode_record",
    "encode_envelope",
    "event_topic",
    "inspect_cluster",
    "inspect_groups",
    "json_text",
    "kind_of",
    "open_reader",
    "partition_of",
    "position_text",
    "provenance_of",
    "topic_of",
    "translate_kafka_errors",
]

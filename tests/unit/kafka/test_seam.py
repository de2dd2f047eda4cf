"""What the fence and the producer rely on inside aiokafka. When one of these fails after an upgrade, read headwater/kafka/ before anything else."""

from __future__ import annotations

import inspect

import aiokafka
import aiokafka.errors as kafka_errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest
from aiokafka.record.memory_records import MemoryRecords

from headwater.kafka import RecordBatch
from headwater.kafka.errors import FENCED_CODES, REFUSED_CODES
from headwater.kafka.fence import ProducerIdentity


def test_the_version_is_the_one_that_was_read() -> None:
    assert aiokafka.__version__ == "0.14.0"


def test_requests_take_what_we_give_them() -> None:
    InitProducerIdRequest(transactional_id="t", transaction_timeout_ms=1)
    AddPartitionsToTxnRequest(transactional_id="t", producer_id=1, producer_epoch=2, topics=[("a", [0, 1])])
    EndTxnRequest(transactional_id="t", producer_id=1, producer_epoch=2, transaction_result=False)
    assert ProduceRequest(transactional_id=None, required_acks=-1, timeout=1, topics=[("a", [(0, b"")])]).required_acks == -1


def test_a_batch_carries_our_producer_id_epoch_and_sequence_and_is_not_transactional() -> None:
    batch = RecordBatch(ProducerIdentity(producer_id=77, epoch=5))
    assert batch.append((b"k", b"v", [("h", b"1")], 1_700_000_000_000))
    assert batch.append((b"k", b"w", [], 1_700_000_000_001))
    records = MemoryRecords(batch.build(first_sequence=40)).next_batch()
    assert (records.producer_id, records.producer_epoch, records.base_sequence) == (77, 5, 40)
    assert not records.is_transactional
    assert not records.is_control_batch
    assert [(r.key, r.value, tuple(r.headers), r.timestamp) for r in records] == [
        (b"k", b"v", (("h", b"1"),), 1_700_000_000_000),
        (b"k", b"w", (), 1_700_000_000_001),
    ]


def test_a_full_batch_takes_no_more_but_an_empty_one_takes_anything() -> None:
    batch = RecordBatch(ProducerIdentity(1, 1))
    assert batch.append((b"k", b"x" * 1_048_576, [], 1))
    assert not batch.append((b"k", b"y", [], 1))
    assert batch.record_count == 1


def test_the_client_has_what_we_call() -> None:
    for name, parameters in {
        "bootstrap": ["self"],
        "close": ["self"],
        "set_topics": ["self", "topics"],
        "ready": ["self", "node_id", "group"],
        "send": ["self", "node_id", "request", "group"],
        "coordinator_lookup": ["self", "coordinator_type", "coordinator_key"],
    }.items():
        assert list(inspect.signature(getattr(AIOKafkaClient, name)).parameters) == parameters
    assert (ConnectionGroup.COORDINATION, CoordinationType.TRANSACTION) == (1, 1)


def test_connections_keep_their_sockets_where_we_abort_them() -> None:
    assert "self._conns = {}" in inspect.getsource(AIOKafkaClient.__init__)
    connect = inspect.getsource(AIOKafkaConnection.connect)
    assert "writer = asyncio.StreamWriter(transport, protocol, reader, loop)" in connect
    assert "self._reader, self._writer, self._protocol = reader, writer, protocol" in connect


def test_error_codes_are_those_of_the_protocol() -> None:
    assert sorted(FENCED_CODES) == [47, 90]
    assert sorted(REFUSED_CODES) == [2, 10, 18, 32, 87]
    assert kafka_errors.ConcurrentTransactions.errno == 51
    # Ours, because aiokafka does not know them; when it does, use its own.
    assert kafka_errors.for_code(87) is kafka_errors.UnknownError
    assert kafka_errors.for_code(90) is kafka_errors.UnknownError

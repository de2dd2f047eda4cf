import asyncio
import logging
import time
from collections.abc import Iterator

import aiokafka
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from headwater.embedded import EmbeddedKafka
from headwater.embedded.kafka_node import brokers_in_service
from headwater.errors import BrokerUnavailable, UsageError


@pytest.fixture(autouse=True)
def quiet_client() -> None:
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka(nodes=3) as kafka:
        yield kafka


async def create_topic(bootstrap: str, topic: str, *, partitions: int = 2, replicas: int = 1) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(topic, partitions, replicas)])
        assert all(code == 0 for _, code, *_ in answer.topic_errors)
    finally:
        await admin.close()


async def write(bootstrap: str, topic: str, *values: bytes) -> None:
    async with aiokafka.AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True) as producer:
        for value in values:
            await producer.send_and_wait(topic, value, key=value)


async def read(bootstrap: str, topic: str, count: int) -> list[bytes]:
    async with aiokafka.AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, group_id="readers", auto_offset_reset="earliest") as consumer:
        values = [(await consumer.getone()).value for _ in range(count)]
        await consumer.commit()
        return sorted(value for value in values if value is not None)


async def test_one_node_moves_messages_and_leaves_nothing_behind() -> None:
    started_at = time.monotonic()
    with EmbeddedKafka() as kafka:
        seconds = time.monotonic() - started_at
        folder, pid = kafka.nodes[0].folder, kafka.nodes[0].pid
        async with asyncio.timeout(30):
            await create_topic(kafka.bootstrap, "orders")
            await write(kafka.bootstrap, "orders", b"1", b"2")
            assert await read(kafka.bootstrap, "orders", 2) == [b"1", b"2"]
        assert kafka.start().nodes[0].pid == pid
    kafka.stop()
    assert not folder.exists()
    assert not kafka.running
    assert seconds < 30  # 1 s on a quiet machine, 20 s where everything is installed first
    with pytest.raises(UsageError, match="start"):
        _ = kafka.bootstrap


async def test_topics_are_not_created_by_being_named(three_nodes: EmbeddedKafka) -> None:
    async with aiokafka.AIOKafkaProducer(bootstrap_servers=three_nodes.bootstrap, request_timeout_ms=500) as producer:
        with pytest.raises(aiokafka.errors.KafkaError):
            await producer.send_and_wait("misspelt", b"1")


async def test_three_nodes_go_on_without_one_and_take_it_back(three_nodes: EmbeddedKafka) -> None:
    bootstrap, dead = three_nodes.bootstrap, three_nodes.nodes[1]
    async with asyncio.timeout(60):
        await create_topic(bootstrap, "orders", partitions=3, replicas=3)
        await write(bootstrap, "orders", b"1", b"2")
        dead.kill()
        assert not dead.running
        assert not three_nodes.running
        await write(bootstrap, "orders", b"3", b"4")  # led by another node once the dead one's session is over
        await asyncio.to_thread(dead.start)
        assert brokers_in_service(dead.port) == {1, 2, 3}
        assert await read(bootstrap, "orders", 4) == [b"1", b"2", b"3", b"4"]


async def test_a_paused_node_answers_after_it_is_resumed(three_nodes: EmbeddedKafka) -> None:
    node = three_nodes.nodes[0]
    node.pause()
    assert await asyncio.to_thread(brokers_in_service, node.port) == set()
    node.resume()
    async with asyncio.timeout(30):
        while brokers_in_service(node.port) != {1, 2, 3}:
            await asyncio.sleep(0.05)


def test_a_start_that_fails_shows_the_log_and_leaves_nothing() -> None:
    kafka = EmbeddedKafka(extra={"num.io.threads": "-1"})
    with pytest.raises(BrokerUnavailable, match=r"(?s)ended while starting.*num\.io\.threads"):
        kafka.start()
    assert not kafka.nodes[0].folder.exists()


def test_a_port_taken_meanwhile_is_exchanged_for_another(monkeypatch: pytest.MonkeyPatch, three_nodes: EmbeddedKafka) -> None:
    from headwater.embedded import kafka as room

    taken, real = [three_nodes.nodes[0].port], room.free_ports
    monkeypatch.setattr(room, "free_ports", lambda count: [taken.pop(), *real(count - 1)] if taken else real(count))
    with EmbeddedKafka() as kafka:
        assert kafka.nodes[0].port not in {node.port for node in three_nodes.nodes}

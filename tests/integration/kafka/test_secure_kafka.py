"""Kafka over TLS and with a login, on a real broker: a whole service, each mechanism, and what a wrong setting says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.conn import AIOKafkaConnection
from pydantic import SecretStr

from headwater import Event, Service
from headwater.bus.kafka import KafkaSource
from headwater.cli.running import run_async
from headwater.config import Settings
from headwater.errors import BrokerUnavailable, ConfigurationError, HeadwaterError
from headwater.kafka import KafkaSecurity, KafkaSettings, KafkaTopics, Partition, check_broker, open_reader
from tests.certificates import Authority
from tests.integration.kafka.secure_broker import MECHANISMS, PASSWORD, USERNAME, SecureBroker, secure_broker
from tests.integration.kafka.test_producer_on_kafka import open_producer, send


class ParcelSent(Event, category="parcel"):
    parcel_id: int


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    with secure_broker(tmp_path_factory.mktemp("secure")) as running:
        yield running


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, str]]:
    """Port and protocol of every connection that aiokafka makes."""
    made: set[tuple[int, str]] = set()
    connect = AIOKafkaConnection.connect

    async def noted(self: Any) -> Any:
        made.add((self._port, self._security_protocol))
        return await connect(self)

    monkeypatch.setattr(AIOKafkaConnection, "connect", noted)
    return made


class _Nobody:
    """A listener that takes whatever partitions come."""

    def __init__(self) -> None:
        self.partitions: asyncio.Queue[Partition] = asyncio.Queue()

    async def revoked(self, partitions: Any) -> dict[Partition, int]:
        return {}

    def committed(self) -> dict[Partition, int]:
        return {}

    async def assigned(self, partitions: Any) -> None:
        for partition in partitions:
            self.partitions.put_nowait(partition)


async def round_trip(settings: KafkaSettings) -> None:
    """A record is produced behind a fence, read back from the partition, and consumed as a member of a group."""
    topic = f"t{uuid4().hex[:12]}"
    assert await KafkaTopics(settings).ensure([topic]) == {topic: 1}
    partition = Partition(topic, 0)
    producer = await open_producer(settings, [partition])
    try:
        offset = await send(producer, partition, 7)
    finally:
        await producer.abandon()
    async with open_reader(settings) as reader:
        assert (await reader.bounds([partition]))[partition].end == offset + 1
    source, listener = KafkaSource(settings, group=topic), _Nobody()
    await source.open([topic], listener)
    try:
        async with asyncio.timeout(30):
            assert await listener.partitions.get() == partition
            source.start_at(partition, offset)
            while not (received := await source.receive(limit=10, timeout_seconds=1)):
                pass
    finally:
        await source.close()
    ((record,),) = received.values()
    assert record.offset == offset


async def test_a_service_runs_over_tls_with_a_login(postgres_dsn: str, broker: SecureBroker, connected: set[tuple[int, str]]) -> None:
    """From append over relay, schemas topic and group to a handler; no client of it speaks in the clear."""
    service = Service(
        f"parcels{uuid4().hex[:8]}",
        settings=Settings(
            postgres=postgres_dsn,
            kafka=broker.secure,
            kafka_security_protocol="SASL_SSL",
            kafka_sasl_mechanism="SCRAM-SHA-512",
            kafka_sasl_username=USERNAME,
            kafka_sasl_password=SecretStr(PASSWORD),
            kafka_ssl_cafile=broker.authority.certificate,
            topic_partitions=1,
        ),
    )
    handled: asyncio.Queue[int] = asyncio.Queue()

    @service.on(ParcelSent)
    async def sent(event: ParcelSent) -> None:
        handled.put_nowait(event.parcel_id)

    async with service:
        await service.store.append("parcel-1", [ParcelSent(parcel_id=7)], expected_version=0)
        async with asyncio.timeout(60):
            assert await handled.get() == 7
    assert connected == {(int(broker.secure.rpartition(":")[2]), "SASL_SSL")}


@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_one_record_goes_there_and_back_with_each_mechanism(broker: SecureBroker, mechanism: str) -> None:
    await round_trip(KafkaSettings.parse(broker.secure, topic_partitions=1, security=broker.sasl_ssl(mechanism)))


def test_on_the_loop_that_commands_run_on(broker: SecureBroker) -> None:
    run_async(round_trip(KafkaSettings.parse(broker.secure, topic_partitions=1, security=broker.sasl_ssl())))


async def test_a_login_in_the_clear(broker: SecureBroker) -> None:
    security = KafkaSecurity("SASL_PLAINTEXT", "SCRAM-SHA-256", USERNAME, SecretStr(PASSWORD))
    await round_trip(KafkaSettings.parse(broker.login, topic_partitions=1, security=security))


async def test_brokers_that_ask_for_a_certificate_get_it(broker: SecureBroker) -> None:
    client = broker.authority.issue("client")
    security = KafkaSecurity("SSL", ssl_cafile=broker.authority.certificate, ssl_certfile=client.certificate, ssl_keyfile=client.key)
    await round_trip(KafkaSettings.parse(broker.mutual, topic_partitions=1, security=security))


async def refusal(address: str, security: KafkaSecurity) -> str:
    settings = KafkaSettings.parse(address, security=security)
    with pytest.raises(HeadwaterError) as told:
        await check_broker(settings)
    assert isinstance(told.value, BrokerUnavailable)
    assert PASSWORD not in str(told.value)
    return str(told.value)


async def test_a_wrong_password_is_refused(broker: SecureBroker) -> None:
    for mechanism in MECHANISMS:
        assert "that the login is right" in await refusal(broker.secure, broker.sasl_ssl(mechanism, password="wrong"))


async def test_a_broker_that_the_authority_did_not_sign_is_not_spoken_to(broker: SecureBroker, tmp_path: Path) -> None:
    for other in (Authority(tmp_path, "another").certificate, None):
        security = KafkaSecurity("SASL_SSL", "PLAIN", USERNAME, SecretStr(PASSWORD), ssl_cafile=other)
        assert "signed by an authority in kafka_ssl_cafile" in await refusal(broker.secure, security)


async def test_a_broker_of_another_name_is_not_spoken_to(broker: SecureBroker) -> None:
    """The certificate is for 127.0.0.1 alone."""
    elsewhere = broker.secure.replace("127.0.0.1", "localhost")
    assert "its certificate is for this host" in await refusal(elsewhere, broker.sasl_ssl())


async def test_without_a_certificate_of_its_own_a_client_is_refused(broker: SecureBroker) -> None:
    assert "SSL" in await refusal(broker.mutual, KafkaSecurity("SSL", ssl_cafile=broker.authority.certificate))


async def test_in_the_clear_a_secure_listener_is_not_reached(broker: SecureBroker) -> None:
    assert "HEADWATER_KAFKA_SECURITY_PROTOCOL" in await refusal(broker.login, KafkaSecurity())


async def test_a_service_refuses_what_cannot_work_before_it_connects(postgres_dsn: str, connected: set[tuple[int, str]]) -> None:
    settings = Settings(postgres=postgres_dsn, kafka="127.0.0.1:1", kafka_security_protocol="SASL_SSL", kafka_sasl_mechanism="PLAIN")
    with pytest.raises(ConfigurationError, match="kafka_sasl_username and kafka_sasl_password are not set"):
        async with Service("refused", settings=settings):
            pass
    assert not connected


async def test_the_plain_listener_stays_as_it_is(broker: SecureBroker) -> None:
    plain = KafkaSettings.parse(broker.plain, topic_partitions=1)
    assert replace(plain, security=KafkaSecurity()) == plain
    await round_trip(plain)

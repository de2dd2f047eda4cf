"""A bare aiokafka client: opened with a deadline, dropped without a word.

aiokafka's own producer flushes when it is stopped and retries by itself; the relay may do neither (rule 14), so it stands on this layer.
"""

# aiokafka ships no types; its values get ours here. Its connections' sockets are private, and nothing public drops them unsent.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false
# ruff: noqa: SLF001

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.structs import TopicPartition

from headwater.errors import BrokerUnavailable
from headwater.kafka.errors import translate_kafka_errors
from headwater.kafka.partitions import Partition
from headwater.kafka.settings import REQUEST_SECONDS_MAX, KafkaSettings

CLOSE_SECONDS_MAX: Final = 2.0
"""How long dropping a client may take; its sockets are gone at once, this waits for the loop to notice."""


async def open_client(settings: KafkaSettings, topics: Iterable[str] = ()) -> AIOKafkaClient:
    """A client that knows the cluster and the leaders of these topics.

    Raises:
        BrokerUnavailable: none of the addresses answers.
    """
    client = AIOKafkaClient(**settings.client_options())
    try:
        with translate_kafka_errors(settings, "connecting"):
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                await client.bootstrap()
                if topics:
                    await client.set_topics(list(topics))
    except BaseException:
        await drop_client(client)
        raise
    return client


async def check_broker(settings: KafkaSettings) -> None:
    """Make sure that the cluster answers.

    Raises:
        BrokerUnavailable: none of the addresses answers.
    """
    await drop_client(await open_client(settings))


async def drop_client(client: AIOKafkaClient) -> None:
    """Close its sockets without sending what is still buffered, and end its tasks. Safe twice."""
    abort_connections(client)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS_MAX):
            await client.close()


def abort_connections(client: AIOKafkaClient) -> None:
    """Close its sockets without sending what is still buffered."""
    for connection in list(client._conns.values()):
        writer: Any = connection._writer
        if writer is not None:
            writer.transport.abort()


def leader_of(client: AIOKafkaClient, partition: Partition) -> int:
    """The broker that takes writes to this partition.

    Raises:
        BrokerUnavailable: it has none at the moment.
    """
    leader = client.cluster.leader_for_partition(TopicPartition(partition.topic, partition.number))
    if leader is None or leader == -1:
        raise BrokerUnavailable(f"the partition {partition} has no leader at the moment; nothing is lost, it is tried again")
    return int(leader)

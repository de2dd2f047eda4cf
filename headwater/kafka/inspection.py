"""A cluster as an operator looks at it: brokers, topics and their settings. Makes nothing and changes nothing."""

# aiokafka ships no types; its values get ours here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import aiokafka.errors as kafka
from aiokafka.admin.config_resource import ConfigResourceType
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import ApiVersionRequest, DescribeConfigsRequest
from aiokafka.protocol.metadata import MetadataRequest

from headwater.kafka.client import drop_client, open_client
from headwater.kafka.errors import translate_kafka_errors
from headwater.kafka.settings import REQUEST_SECONDS_MAX, KafkaSettings

INSPECT_SECONDS_MAX: Final = 3 * REQUEST_SECONDS_MAX
FETCH_VERSION_OF_3_5: Final = 15
"""Brokers from 3.5 on answer this version of the fetch request (KIP-903); Kafka tells its own version nowhere else."""
_FETCH_KEY: Final = 1
_AWAY: Final = (kafka.NodeNotReadyError, kafka.KafkaConnectionError, kafka.RequestTimedOutError)
"""What a broker's silence looks like; metadata may name one that has just gone."""


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """Who has one partition; a leader of -1 is none."""

    number: int
    leader: int
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """One topic; settings are as they hold for it, and empty where this client may not read them."""

    name: str
    partitions: tuple[PartitionFacts, ...]
    settings: Mapping[str, str]

    @property
    def replication_factor(self) -> int:
        """Of the partition that has the fewest replicas."""
        return min(len(partition.replicas) for partition in self.partitions)


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """A cluster; the settings of brokers are empty where this client may not read them."""

    broker_ids: tuple[int, ...]
    fetch_version: int
    """The newest fetch request that every broker answers."""
    broker_settings: Mapping[int, Mapping[str, str]]
    topics: tuple[TopicFacts, ...]
    unread: tuple[str, ...]
    """Whose settings could not be read, like `topic order`."""


async def inspect_cluster(settings: KafkaSettings, topics: Iterable[str]) -> ClusterFacts:
    """What the cluster says of itself and of those of these topics that exist.

    Raises:
        BrokerUnavailable: it cannot be reached, or does not answer in time.
        BrokerDenied: this client may not ask.
        ConfigurationError: its version is too old to be asked.
    """
    client = await open_client(settings)
    try:
        with translate_kafka_errors(settings, "looking at the cluster"):
            async with asyncio.timeout(INSPECT_SECONDS_MAX):
                return await _inspect(client, frozenset(topics))
    finally:
        await drop_client(client)


async def _inspect(client: AIOKafkaClient, wanted: frozenset[str]) -> ClusterFacts:
    # All topics are listed: a question for one that is missing would make it, where the brokers do that.
    metadata = await _ask_anyone(client, MetadataRequest(None, allow_auto_topic_creation=False))
    described: dict[str, Any] = metadata.to_object()
    broker_ids = tuple(sorted(int(broker["node_id"]) for broker in described["brokers"]))
    found = {str(topic["topic"]): topic for topic in described["topics"] if topic["topic"] in wanted and topic["partitions"]}
    brokers = {broker: await _ask_broker(client, broker) for broker in broker_ids}
    answers = [answer for answer in brokers.values() if answer is not None]
    if not answers:
        raise kafka.KafkaConnectionError("none of the brokers answers")
    topics = [TopicFacts(name, _partitions(topic), await _settings_of_topic(client, name)) for name, topic in sorted(found.items())]
    return ClusterFacts(
        broker_ids=broker_ids,
        fetch_version=min(version for version, _ in answers),
        broker_settings={broker: {} if answer is None else answer[1] for broker, answer in brokers.items()},
        topics=tuple(topics),
        unread=tuple(_unread(brokers, topics)),
    )


def _unread(brokers: Mapping[int, tuple[int, Mapping[str, str]] | None], topics: Iterable[TopicFacts]) -> Iterator[str]:
    for broker, answer in brokers.items():
        if answer is None:
            yield f"broker {broker} (it does not answer)"
        elif not answer[1]:
            yield f"broker {broker}"
    yield from (f"topic {topic.name}" for topic in topics if not topic.settings)


async def _ask_broker(client: AIOKafkaClient, broker: int) -> tuple[int, dict[str, str]] | None:
    """Its newest fetch request, and its settings, which only it tells; None where it does not answer."""
    try:
        settings = await client.send(broker, _settings_request(ConfigResourceType.BROKER, str(broker)))
        return await _fetch_version(client, broker), _settings(settings)
    except _AWAY:
        return None


async def _fetch_version(client: AIOKafkaClient, broker: int) -> int:
    answer: Any = await client.send(broker, ApiVersionRequest())
    return max((int(newest) for key, _, newest in answer.api_versions if key == _FETCH_KEY), default=0)


async def _ask_anyone(client: AIOKafkaClient, request: Any) -> Any:
    """The answer of the first broker that gives one."""
    for broker in client.cluster.brokers():
        with suppress(*_AWAY):
            return await client.send(broker.nodeId, request)
    raise kafka.KafkaConnectionError("none of the brokers answers")


async def _settings_of_topic(client: AIOKafkaClient, name: str) -> dict[str, str]:
    return _settings(await _ask_anyone(client, _settings_request(ConfigResourceType.TOPIC, name)))


def _settings_request(kind: ConfigResourceType, name: str) -> Any:
    return DescribeConfigsRequest([(kind, name, None)], include_synonyms=False)


def _settings(answer: Any) -> dict[str, str]:
    """The settings of one broker or topic; none where this client may not read them."""
    ((code, _message, _kind, _name, entries),) = answer.resources
    if code in (kafka.TopicAuthorizationFailedError.errno, kafka.ClusterAuthorizationFailedError.errno):
        return {}
    if code:
        raise kafka.for_code(code)
    return {str(entry[0]): "" if entry[1] is None else str(entry[1]) for entry in entries}


def _partitions(topic: Mapping[str, Any]) -> tuple[PartitionFacts, ...]:
    return tuple(
        PartitionFacts(int(p["partition"]), int(p["leader"]), tuple(map(int, p["replicas"])), tuple(map(int, p["isr"])))
        for p in sorted(topic["partitions"], key=lambda partition: int(partition["partition"]))
    )

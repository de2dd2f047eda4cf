"""A cluster as an operator looks at it: brokers, topics and their settings. Makes nothing and changes nothing."""

# aiokafka ships no types; its values get ours here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
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
    """Whose settings this client may not read, like `topic order`."""


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
    metadata: Any = await client.send(client.get_random_node(), MetadataRequest(None, allow_auto_topic_creation=False))
    described: dict[str, Any] = metadata.to_object()
    broker_ids = tuple(sorted(int(broker["node_id"]) for broker in described["brokers"]))
    found = {str(topic["topic"]): topic for topic in described["topics"] if topic["topic"] in wanted and topic["partitions"]}
    fetch_versions = [await _fetch_version(client, broker) for broker in broker_ids]
    broker_settings = {broker: await _settings_of(client, broker, ConfigResourceType.BROKER, str(broker)) for broker in broker_ids}
    topics = [
        TopicFacts(name, _partitions(topic), await _settings_of(client, broker_ids[0], ConfigResourceType.TOPIC, name) or {})
        for name, topic in sorted(found.items())
    ]
    return ClusterFacts(
        broker_ids=broker_ids,
        fetch_version=min(fetch_versions),
        broker_settings={broker: entries or {} for broker, entries in broker_settings.items()},
        topics=tuple(topics),
        unread=tuple(f"broker {broker}" for broker, entries in broker_settings.items() if not entries)
        + tuple(f"topic {topic.name}" for topic in topics if not topic.settings),
    )


async def _fetch_version(client: AIOKafkaClient, broker: int) -> int:
    answer: Any = await client.send(broker, ApiVersionRequest())
    return max((int(newest) for key, _, newest in answer.api_versions if key == _FETCH_KEY), default=0)


async def _settings_of(client: AIOKafkaClient, broker: int, kind: ConfigResourceType, name: str) -> dict[str, str] | None:
    """The settings of one broker, which only that one tells, or of one topic; None where this client may not read them."""
    answer: Any = await client.send(broker, DescribeConfigsRequest([(kind, name, None)], include_synonyms=False))
    for code, _message, _kind, _name, entries in answer.resources:
        if code in (kafka.TopicAuthorizationFailedError.errno, kafka.ClusterAuthorizationFailedError.errno):
            return None
        if code:
            raise kafka.for_code(code)
        return {str(entry[0]): "" if entry[1] is None else str(entry[1]) for entry in entries}
    return None


def _partitions(topic: Mapping[str, Any]) -> tuple[PartitionFacts, ...]:
    return tuple(
        PartitionFacts(int(p["partition"]), int(p["leader"]), tuple(map(int, p["replicas"])), tuple(map(int, p["isr"])))
        for p in sorted(topic["partitions"], key=lambda partition: int(partition["partition"]))
    )

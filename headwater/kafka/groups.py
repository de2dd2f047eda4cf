"""Consumer groups as the usual tools see them: what each committed. For people to look at; no consumer of ours reads it."""

# aiokafka ships no types; its values get ours here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiokafka.errors as kafka
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from aiokafka.structs import TopicPartition

from headwater.kafka.errors import translate_kafka_errors
from headwater.kafka.partitions import Partition
from headwater.kafka.settings import REQUEST_SECONDS_MAX, KafkaSettings

GROUPS_SECONDS_MAX: Final = 6 * REQUEST_SECONDS_MAX
"""Each group's coordinator is asked in turn."""

_WITH_OFFSETS: Final = ("consumer", "streams", "")
"""Kinds of groups that commit offsets; the empty one has offsets and never had members."""


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """One consumer group, as far as it has to do with the topics that were asked for."""

    name: str
    committed: Mapping[Partition, int]
    """The next offset of each partition for which it committed one."""
    member_topics: frozenset[str]
    """Topics that its members subscribe to now."""


async def inspect_groups(settings: KafkaSettings, topics: Iterable[str]) -> tuple[GroupFacts, ...]:
    """The groups that committed offsets of these topics, or have members that subscribe to them, by name.

    Groups that keep their offsets elsewhere, and have no members now, cannot be seen.

    Raises:
        BrokerUnavailable: Kafka cannot be reached, or did not answer in time.
        BrokerDenied: this client may not look at groups.
    """
    wanted = frozenset(topics)
    admin = AIOKafkaAdminClient(**settings.client_options())
    try:
        with translate_kafka_errors(settings, "looking at consumer groups"):
            async with asyncio.timeout(GROUPS_SECONDS_MAX):
                await admin.start()
                names = sorted(str(name) for name, kind in await admin.list_consumer_groups() if kind in _WITH_OFFSETS)
                found = [await _facts(admin, name, wanted) for name in names]
    finally:
        await admin.close()
    return tuple(group for group in found if group.committed or group.member_topics)


async def _facts(admin: AIOKafkaAdminClient, name: str, topics: frozenset[str]) -> GroupFacts:
    coordinator = await admin.find_coordinator(name)
    offsets: Mapping[TopicPartition, Any] = await admin.list_consumer_group_offsets(name, group_coordinator_id=coordinator)
    committed = {Partition(*key): int(found.offset) for key, found in offsets.items() if key.topic in topics and found.offset >= 0}
    return GroupFacts(name, committed, await _member_topics(admin, name, coordinator) & topics)


async def _member_topics(admin: AIOKafkaAdminClient, name: str, coordinator: int) -> frozenset[str]:
    answers: list[Any] = await admin.describe_consumer_groups([name], group_coordinator_id=coordinator)
    subscribed: set[str] = set()
    for answer in answers:
        for code, _group, _state, _kind, _protocol, members, *_ in answer.groups:
            if code:
                raise kafka.for_code(code)
            subscribed.update(topic for _, _, _, metadata, _ in members for topic in _subscription(metadata))
    return frozenset(subscribed)


def _subscription(metadata: bytes) -> Sequence[str]:
    """The topics in a member's metadata, which begin alike in every version of it."""
    if not metadata:
        return ()
    try:
        return [str(topic) for topic in ConsumerProtocolMemberMetadata.decode(metadata).subscription]
    except (ValueError, UnicodeDecodeError):
        return ()

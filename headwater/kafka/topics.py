"""Topics that keep everything (rule 18), made when they are missing and looked at when they are not."""

# aiokafka ships no types; its values get ours here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import aiokafka.errors as kafka
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import BrokerUnavailable, ConfigurationError
from headwater.kafka.errors import error_of_code, translate_kafka_errors
from headwater.kafka.settings import REQUEST_SECONDS_MAX, KafkaSettings
from headwater.telemetry import logger

RECORD_BYTES_MAX: Final = 2 * 1024 * 1024
"""What a topic must take: an event of 1 MiB with its headers, and room."""
TOPIC_SETTINGS: Final[Mapping[str, str]] = {
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "cleanup.policy": "delete",
    "max.message.bytes": str(RECORD_BYTES_MAX),
}
ENSURE_SECONDS_MAX: Final = 30.0
"""How long making topics may take until every partition has a leader."""
_POLL_SECONDS: Final = 0.02
_IN_SYNC: Final = "min.insync.replicas"
_REFUSED: Final = frozenset(
    {
        kafka.InvalidTopicError.errno,  # also a name that differs from another's only in dots and underscores
        kafka.InvalidPartitionsError.errno,
        kafka.InvalidReplicationFactorError.errno,
        kafka.InvalidConfigurationError.errno,
        kafka.PolicyViolationError.errno,
    }
)

_log = logger("kafka")


class KafkaTopics:
    """The topics of one cluster."""

    def __init__(self, settings: KafkaSettings, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._settings, self._clock = settings, clock
        self._inspected: set[str] = set()

    async def describe(self, names: Iterable[str]) -> dict[str, int]:
        """How many partitions each of these topics has; a topic that does not exist is left out."""
        async with self._admin() as admin:
            return {name: len(found) for name, found in (await self._partitions(admin, sorted(set(names)))).items()}

    async def ensure(self, names: Iterable[str]) -> dict[str, int]:
        """Make what is missing, and return the number of partitions of each once every partition has a leader.

        Topics that exist keep their settings; those that would lose records or refuse large ones are told in a fact, once.

        Raises:
            BrokerUnavailable: not done in time.
            ConfigurationError: the cluster cannot have such a topic.
        """
        wanted = sorted(set(names))
        if not wanted:
            return {}
        async with self._admin() as admin:
            found = await self._partitions(admin, wanted)
            missing = [name for name in wanted if name not in found]
            if missing:
                await self._create(admin, missing)
            await self._inspect(admin, [name for name in wanted if name not in missing])
            while not _are_led(found, wanted):
                await self._clock.sleep(_POLL_SECONDS)
                found = await self._partitions(admin, wanted)
        return {name: len(found[name]) for name in wanted}

    async def add_partitions(self, name: str, count: int) -> None:
        """Give a topic as many partitions in all, and return once every one has a leader; does nothing where it has them.

        Raises:
            BrokerUnavailable: not done in time.
            ConfigurationError: Kafka refuses; the message has its reason.
        """
        async with self._admin() as admin:
            found = await self._partitions(admin, [name])
            if len(found.get(name, ())) < count:
                try:
                    await admin.create_partitions({name: NewPartitions(total_count=count)})
                except (kafka.InvalidPartitionsError, kafka.PolicyViolationError, kafka.InvalidReplicationAssignmentError) as error:
                    raise ConfigurationError(f"Kafka refuses {count} partitions for the topic {name!r}: {error}") from error
            while len(found.get(name, ())) < count or not _are_led(found, [name]):
                await self._clock.sleep(_POLL_SECONDS)
                found = await self._partitions(admin, [name])

    async def _partitions(self, admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[int, int]]:
        """The leader of each partition of each topic that exists."""
        described: list[dict[str, Any]] = await admin.describe_topics(names) if names else []
        return {
            str(topic["topic"]): {int(partition["partition"]): int(partition["leader"]) for partition in topic["partitions"]}
            for topic in described
            if topic["error_code"] in (0, kafka.LeaderNotAvailableError.errno) and topic["partitions"]
        }

    async def _create(self, admin: AIOKafkaAdminClient, names: list[str]) -> None:
        settings = self._settings
        answer: Any = await admin.create_topics([_new_topic(name, settings) for name in names])
        for name, code, *rest in answer.topic_errors:
            if code in (0, kafka.TopicAlreadyExistsError.errno):
                self._inspected.add(name)
                _log.info("topic_created", topic=name, partition_count=settings.topic_partitions)
            elif code in _REFUSED:
                raise ConfigurationError(
                    f"Kafka refuses the topic {name!r} with {settings.topic_partitions} partitions and replication factor "
                    f"{settings.topic_replication_factor}: {next(iter(rest), '')}; change HEADWATER_TOPIC_PARTITIONS or "
                    "HEADWATER_TOPIC_REPLICATION_FACTOR, or make the topic by hand"
                )
            else:
                raise error_of_code(int(code), f"making the topic {name!r}")

    async def _inspect(self, admin: AIOKafkaAdminClient, names: list[str]) -> None:
        """Tell of settings under which a topic would lose what it should keep."""
        unknown = [name for name in names if name not in self._inspected]
        if not unknown:
            return
        answers: list[Any] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in unknown])
        for answer in answers:
            for code, _message, _kind, name, entries in answer.resources:
                self._inspected.add(str(name))
                actual = {str(entry[0]): str(entry[1]) for entry in entries}
                if code == 0 and (risks := _risks(actual, self._settings.topic_min_insync_replicas)):
                    _log.warning("topic_would_lose_records", topic=str(name), settings=risks, wanted=_wanted(self._settings))

    @asynccontextmanager
    async def _admin(self) -> AsyncGenerator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(**self._settings.client_options())
        try:
            with translate_kafka_errors(self._settings, "looking at topics"):
                async with asyncio.timeout(REQUEST_SECONDS_MAX):
                    await admin.start()
                try:
                    async with asyncio.timeout(ENSURE_SECONDS_MAX):
                        yield admin
                except TimeoutError as error:
                    raise BrokerUnavailable(
                        f"Kafka at {self._settings.address} gave no leaders to the topics' partitions in time"
                    ) from error
        finally:
            await admin.close()


def _new_topic(name: str, settings: KafkaSettings) -> NewTopic:
    topic = NewTopic(name, settings.topic_partitions, 1, topic_configs=_wanted(settings))
    # Set afterwards: aiokafka 0.14 refuses -1, the broker's default, only in the constructor.
    topic.replication_factor = settings.topic_replication_factor
    return topic


def _wanted(settings: KafkaSettings) -> dict[str, str]:
    """What a topic is made with."""
    in_sync = settings.topic_min_insync_replicas
    return {**TOPIC_SETTINGS, **({_IN_SYNC: str(in_sync)} if in_sync is not None else {})}


def _are_led(found: Mapping[str, Mapping[int, int]], wanted: Iterable[str]) -> bool:
    return all(found.get(name) and min(found[name].values()) >= 0 for name in wanted)


def _risks(actual: Mapping[str, str], in_sync: int | None) -> dict[str, str]:
    """The settings of a topic that could lose records or refuse large ones."""
    risky = {
        name: actual[name]
        for name in ("retention.ms", "retention.bytes", "cleanup.policy")
        if actual.get(name, TOPIC_SETTINGS[name]) != TOPIC_SETTINGS[name]
    }
    size = actual.get("max.message.bytes", "")
    if size.isdecimal() and int(size) < RECORD_BYTES_MAX:
        risky["max.message.bytes"] = size
    has_in_sync = actual.get(_IN_SYNC, "")
    if in_sync is not None and has_in_sync.isdecimal() and int(has_in_sync) < in_sync:
        risky[_IN_SYNC] = has_in_sync
    return risky

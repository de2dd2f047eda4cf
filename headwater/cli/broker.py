"""The Kafka cluster that a command speaks to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.errors import ConfigurationError

if TYPE_CHECKING:
    from headwater.config import Settings
    from headwater.kafka import KafkaSettings


def configured_kafka(settings: Settings) -> KafkaSettings:
    """The cluster of the setting `kafka`, and how topics are made there.

    Raises:
        ConfigurationError: it is not set, or cannot be one.
    """
    from headwater.kafka import KafkaSecurity, KafkaSettings
    from headwater.postgres import topic_prefix

    if settings.kafka is None:
        raise ConfigurationError("which Kafka? set HEADWATER_KAFKA=host:port, or `kafka` in headwater.yaml")
    return KafkaSettings.parse(
        settings.kafka,
        client_id="headwater-command",
        topic_partitions=settings.topic_partitions,
        topic_replication_factor=settings.topic_replication_factor,
        topic_min_insync_replicas=settings.topic_min_insync_replicas,
        topic_prefix=topic_prefix(settings.log_schema),
        security=KafkaSecurity.of(settings),
    )

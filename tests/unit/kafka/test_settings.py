"""Addresses of Kafka."""

from __future__ import annotations

import pytest

from headwater.errors import ConfigurationError
from headwater.kafka import KafkaSettings


def test_several_addresses_come_with_commas() -> None:
    assert KafkaSettings.parse(" a:1, b.example:65535,[::1]:9092 ").bootstrap == ("a:1", "b.example:65535", "[::1]:9092")


@pytest.mark.parametrize(("in_sync", "replicas"), [(2, -1), (3, 2)])
def test_topics_that_could_take_no_record_are_refused(in_sync: int, replicas: int) -> None:
    with pytest.raises(ConfigurationError, match="HEADWATER_TOPIC_REPLICATION_FACTOR to be that or more"):
        KafkaSettings.parse("a:1", topic_min_insync_replicas=in_sync, topic_replication_factor=replicas)
    assert (
        KafkaSettings.parse("a:1", topic_min_insync_replicas=in_sync, topic_replication_factor=in_sync).topic_min_insync_replicas == in_sync
    )


@pytest.mark.parametrize("address", ["", " , ", "localhost", "localhost:", ":9092", "a:0", "a:65536", "a:x", "kafka://a:9092", "a:٣"])
def test_an_address_that_is_none_says_how_to_write_one(address: str) -> None:
    with pytest.raises(ConfigurationError, match="HEADWATER_KAFKA"):
        KafkaSettings.parse(address)

"""Addresses of Kafka."""

from __future__ import annotations

import pytest

from headwater.errors import ConfigurationError
from headwater.kafka import KafkaSettings


def test_several_addresses_come_with_commas() -> None:
    assert KafkaSettings.parse(" a:1, b.example:65535,[::1]:9092 ").bootstrap == ("a:1", "b.example:65535", "[::1]:9092")


@pytest.mark.parametrize("address", ["", " , ", "localhost", "localhost:", ":9092", "a:0", "a:65536", "a:x", "kafka://a:9092", "a:٣"])
def test_an_address_that_is_none_says_how_to_write_one(address: str) -> None:
    with pytest.raises(ConfigurationError, match="HEADWATER_KAFKA"):
        KafkaSettings.parse(address)

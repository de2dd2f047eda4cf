"""Where Kafka is and how we speak to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Self

from headwater.errors import ConfigurationError
from headwater.kafka.security import KafkaSecurity

REQUEST_SECONDS_MAX: Final = 10.0
"""How long one request may take; a broker that is silent for longer counts as gone."""
METADATA_SECONDS_MAX: Final = 60.0
"""How old a client's idea of leaders may get; a leader that moved is noticed at once, by the refused request."""
_PORT_MAX: Final = 65_535


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """The cluster's address and how topics are made there."""

    bootstrap: tuple[str, ...]
    """`host:port`, at least one."""
    client_id: str = "headwater"
    topic_partitions: int = 6
    topic_replication_factor: int = -1
    """-1 takes the broker's default."""
    topic_min_insync_replicas: int | None = None
    """None takes the broker's default."""
    topic_prefix: str = ""
    """Before every topic's and group's name, so that the logs of one database do not meet in Kafka."""
    security: KafkaSecurity = field(default_factory=KafkaSecurity)
    """TLS and login; neither by default."""

    @classmethod
    def parse(
        cls,
        address: str,
        *,
        client_id: str = "headwater",
        topic_partitions: int = 6,
        topic_replication_factor: int = -1,
        topic_min_insync_replicas: int | None = None,
        topic_prefix: str = "",
        security: KafkaSecurity | None = None,
    ) -> Self:
        """Read `host:port,host:port`.

        Raises:
            ConfigurationError: the address cannot be one, the message shows the part at fault; or topics would be made that take no record.
        """
        parts = tuple(part.strip() for part in address.split(",") if part.strip())
        if not parts:
            raise ConfigurationError("the address of Kafka is empty; set HEADWATER_KAFKA to host:port, or several with commas between")
        hosts = tuple(map(_checked_host, parts))
        if topic_min_insync_replicas is not None and topic_min_insync_replicas > topic_replication_factor:
            raise ConfigurationError(
                f"HEADWATER_TOPIC_MIN_INSYNC_REPLICAS={topic_min_insync_replicas} needs HEADWATER_TOPIC_REPLICATION_FACTOR to be that or more "
                f"(it is {'not set' if topic_replication_factor < 0 else topic_replication_factor}): a topic with fewer replicas takes no record"
            )
        return cls(
            hosts,
            client_id,
            topic_partitions,
            topic_replication_factor,
            topic_min_insync_replicas,
            topic_prefix,
            security or KafkaSecurity(),
        )

    @property
    def address(self) -> str:
        """The address as one writes it, for messages."""
        return ",".join(self.bootstrap)

    def client_options(self) -> dict[str, Any]:
        """What every aiokafka client takes; none is made without it."""
        return {
            "bootstrap_servers": list(self.bootstrap),
            "client_id": self.client_id,
            "request_timeout_ms": int(REQUEST_SECONDS_MAX * 1000),
            "metadata_max_age_ms": int(METADATA_SECONDS_MAX * 1000),
            **self.security.client_options(),
        }


def _checked_host(part: str) -> str:
    if "://" in part and "@" not in part:
        raise ConfigurationError(f"the address of Kafka {part!r} has a scheme; write host:port only, as in HEADWATER_KAFKA=localhost:9092")
    if "@" in part:
        raise ConfigurationError(
            "the address of Kafka holds a login; write host:port only in HEADWATER_KAFKA, and the login in HEADWATER_KAFKA_SASL_USERNAME and "
            "HEADWATER_KAFKA_SASL_PASSWORD"
        )
    host, _, port = part.rpartition(":")
    if not host.strip("[]") or not port.isascii() or not port.isdecimal() or not 1 <= int(port) <= _PORT_MAX:
        raise ConfigurationError(f"the address of Kafka {part!r} is not host:port, as in HEADWATER_KAFKA=localhost:9092")
    return part

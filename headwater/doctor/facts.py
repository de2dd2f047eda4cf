"""What the checks are told of configuration and PostgreSQL; what they are told of Kafka is `headwater.kafka.ClusterFacts`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from headwater.kafka import ClusterFacts
from headwater.postgres import MigrationStatus, Pooling

OPEN_SECONDS_SUSPICIOUS: Final = 10.0
"""A transaction that appended, or is prepared, and is still open after this is told."""
OPEN_SECONDS_MAX: Final = 60.0
"""The longest that Headwater's own transactions stay idle (rule 11); what is open longer belongs to somebody else, or to nobody."""

OVERDUE_SECONDS_MAX: Final = 60.0
"""What came due longer ago and was not done is told; a clockwork that runs is late by seconds."""

_PLAIN_NAME: Final = re.compile(r"[a-z_][a-z0-9_]*")


def identifier(name: str) -> str:
    """A name as it is written in a statement."""
    return name if _PLAIN_NAME.fullmatch(name) else '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class OwnFacts:
    """This process, its settings and the service's event classes."""

    service_name: str | None
    """The service that was looked at; None for none."""
    service_fault: str = ""
    """Why none was looked at."""
    is_service_named: bool = False
    """Whether somebody asked for this service, so that it should be there."""
    is_personal: bool = False
    """Whether an event class has personal fields."""
    has_master_key: bool = False
    master_key_fault: str = ""
    has_cipher: bool = True
    aiokafka_version: str = ""
    aiokafka_wanted: str = ""
    topic_partitions: int = 6
    log_level: str = "info"


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of the server as a session of this login has it."""

    value: str
    source: str = "default"
    """Where it comes from, in PostgreSQL's words: `configuration file`, `database`, `user`, `database user`, `client`."""


@dataclass(frozen=True, slots=True)
class RoleSetting:
    """`synchronous_commit` as `ALTER ROLE` or `ALTER DATABASE` sets it; None for every role, or for every database."""

    role: str | None
    database: str | None
    value: str

    def __str__(self) -> str:
        where = f"in database {self.database}" if self.database else "in every database"
        return f"{f'role {self.role}' if self.role else 'every role'} {where}"


@dataclass(frozen=True, slots=True)
class Standby:
    """A server that follows this one."""

    name: str
    sync_state: str | None
    """`async`, `potential`, `sync` or `quorum`; None where this login may not see it."""


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A transaction that has been open for a while."""

    who: str
    """The session's process and program, or the prepared transaction's name."""
    seconds: float | None
    """Since it began, or was prepared; None where this login may not see it."""
    end_with: str
    """The statement that ends it."""


@dataclass(frozen=True, slots=True)
class Overdue:
    """What came due and was not done, of one kind."""

    kind: Literal["message", "schedule", "deadline"]
    count: int
    failing_count: int
    """Of those, tried and failed."""
    seconds: float
    """Since the first of them came due."""


@dataclass(frozen=True, slots=True)
class Login:
    """The role that the service runs as."""

    name: str
    is_superuser: bool
    sees_all_sessions: bool
    """Whether it may see what other logins' sessions do."""


@dataclass(frozen=True, slots=True)
class LogRights:
    """What the login may do with the log."""

    missing: tuple[str, ...]
    """What a service needs and this login may not do, like `EXECUTE on append_group`."""
    excess: tuple[str, ...]
    """What breaks the order of the log if somebody does it, like `UPDATE on events`."""
    owner: str
    is_owner_superuser: bool
    writer: str | None
    """The role that services are meant to have; None where no roles were set up."""


@dataclass(frozen=True, slots=True)
class PostgresFacts:
    """A server and a database, as far as they could be read."""

    address: str
    database: str
    schema: str
    version: str
    """Like `18.6`."""
    major: int
    is_standby: bool
    login: Login
    settings: Mapping[str, Setting]
    clock_ahead_seconds: float
    """The database's clock less this process's."""
    clock_uncertain_seconds: float
    """How far off that may be: half of the quickest round trip."""
    is_encrypted: bool
    is_local: bool
    """Whether the connection never leaves this machine."""
    pooling: Pooling
    has_pooler: bool
    """Whether something stands between that answers in the server's place."""
    shares_sessions: bool
    """Whether two connections were seen to be given one server session in turn."""
    migrations: MigrationStatus | None = None
    role_settings: tuple[RoleSetting, ...] = ()
    standbys: tuple[Standby, ...] | None = None
    rights: LogRights | None = None
    prepared: tuple[OpenTransaction, ...] | None = None
    horizon_holders: tuple[OpenTransaction, ...] | None = None
    idle: tuple[OpenTransaction, ...] | None = None
    overdue: tuple[Overdue, ...] | None = None
    foreign_key_count: int | None = None
    """Keys of personal data that another master key than the configured one encrypts."""
    topics: tuple[str, ...] = ()
    """Topics that the relay has written to."""
    unread: Mapping[str, str] = field(default_factory=dict[str, str])
    """What could not be read, and why."""

    def value(self, name: str) -> str:
        """A setting's value; empty where the server has none of this name."""
        setting = self.settings.get(name)
        return setting.value if setting is not None else ""

    def number(self, name: str) -> int:
        """A whole number among the settings; 0 where there is none."""
        value = self.value(name)
        return int(value) if value.lstrip("-").isdecimal() else 0


@dataclass(frozen=True, slots=True)
class KafkaFacts:
    """A cluster, and how Headwater is told to use it."""

    cluster: ClusterFacts
    bootstrap: tuple[str, ...]
    """Where HEADWATER_KAFKA says that it is."""
    topic_replication_factor: int = -1
    """Of topics that Headwater makes; -1 takes the broker's default."""
    topic_min_insync_replicas: int | None = None
    """Of the same; None takes the broker's default."""
    is_encrypted: bool = True
    """Whether clients speak TLS to it."""
    compacted_topics: frozenset[str] = frozenset()
    """Those that compaction does no harm: the newest record of a key is all they are read for."""

    def broker_setting(self, name: str) -> frozenset[str]:
        """The values that brokers have for a setting; more than one where they disagree."""
        return frozenset(settings[name] for settings in self.cluster.broker_settings.values() if name in settings)

"""The settings, each a field of one class, and the order in which their sources count."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from headwater.config.file_source import FileSource
from headwater.errors import ConfigurationError

TOPIC_PARTITIONS_MAX = 1_000
PREFIX: Final = "HEADWATER_"

KafkaProtocol: TypeAlias = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Source: TypeAlias = Literal["kafka", "postgres"]
SaslMechanism: TypeAlias = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


class Settings(BaseSettings):
    """Settings of one service. Each is a line of the configuration file, and an environment variable with the prefix `HEADWATER_`.

    What is given in code counts over the environment, and that over the file.

    Raises:
        ConfigurationError: the file has a fault; the message says where.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True, populate_by_name=True)

    postgres: Annotated[str | None, Field(repr=False)] = None
    """`postgresql://user:password@host:port/database`; None runs an embedded server. For TLS add `?sslmode=verify-full&sslrootcert=ca.pem`."""
    postgres_pooling: Literal["session", "transaction"] = "session"
    """`transaction` behind a pooler that gives a connection for one transaction only, such as PgBouncer in that mode (docs/postgres.md)."""
    log_schema: Annotated[str, Field(validation_alias=f"{PREFIX}SCHEMA")] = "headwater"
    """Where in the database the log lives: each of several logs in one database has a schema of its own (docs/tenants.md)."""
    source: Source = "kafka"
    """What feeds the handlers: `kafka`, which a relay fills, or `postgres`, the log itself; then nothing needs a broker (docs/sources.md)."""
    kafka: str | None = None
    """`host:port,host:port`; None runs an embedded broker."""
    kafka_security_protocol: KafkaProtocol = "PLAINTEXT"
    """How Kafka is spoken to: with TLS (`SSL`), with a login (`SASL_PLAINTEXT`), with both (`SASL_SSL`), or with neither."""
    kafka_sasl_mechanism: SaslMechanism | None = None
    """How the login is made; the broker must offer it."""
    kafka_sasl_username: Annotated[str | None, Field(min_length=1)] = None
    """Who logs in."""
    kafka_sasl_password: Annotated[SecretStr | None, Field(min_length=1)] = None
    """The login's password."""
    kafka_ssl_cafile: Annotated[str | None, Field(min_length=1)] = None
    """PEM file with the authorities that may have signed the brokers' certificates; None trusts the system's."""
    kafka_ssl_certfile: Annotated[str | None, Field(min_length=1)] = None
    """PEM file with this client's own certificate, where brokers ask for one."""
    kafka_ssl_keyfile: Annotated[str | None, Field(min_length=1)] = None
    """PEM file with the certificate's key, unencrypted; None where it stands in the certificate's file."""
    topic_partitions: Annotated[int, Field(ge=1, le=TOPIC_PARTITIONS_MAX)] = 6
    """Partitions of a topic that Headwater creates."""
    topic_replication_factor: Annotated[int, Field(ge=-1, le=32_767)] = -1
    """Replicas of a topic that Headwater creates; -1 takes the broker's default."""
    topic_min_insync_replicas: Annotated[int | None, Field(ge=1, le=32_767)] = None
    """Replicas that must have a record of such a topic before it counts as written; None takes the broker's default. Give the replicas, too."""
    instance_id: Annotated[str | None, Field(min_length=1, max_length=100)] = None
    """A name that this process keeps over restarts, unique among the service's processes: a quick restart then moves no partitions."""
    master_key: SecretStr | None = None
    """32 bytes in base64, under which the keys of personal data are stored; None stores them as they are."""
    service: str | None = None
    """`module:attribute`, the service that commands mean when none is named."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """`console`, `json`, or `auto`: console on a terminal, JSON otherwise."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Facts below this level are not written."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings passes it by name
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the same
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Earlier ones count over later ones."""
        return init_settings, env_settings, FileSource(settings_cls)


def load_settings(**arguments: object) -> Settings:
    """Read the settings: command-line arguments over the environment over the file over defaults.

    Args:
        arguments: settings by their names; None where the command line says nothing.
    Raises:
        ConfigurationError: the file has a fault, or a value is not allowed; the message names the place.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]  # checked by the class
    except ValidationError as error:
        lines = (f"{PREFIX}{'_'.join(str(part) for part in e['loc']).upper().removeprefix(PREFIX)}: {e['msg']}" for e in error.errors())
        raise ConfigurationError("; ".join(lines)) from None

"""Where the servers are and how the service behaves, from the environment.

`HEADWATER_POSTGRES` and `HEADWATER_KAFKA` point at servers; what is left out is run embedded, for development.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from headwater.errors import ConfigurationError

TOPIC_PARTITIONS_MAX = 1_000
_PREFIX: Final = "HEADWATER_"


class Settings(BaseSettings):
    """Settings of one service; every one is an environment variable with the prefix `HEADWATER_`."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True, populate_by_name=True)

    postgres: str | None = None
    """`postgresql://user:password@host:port/database`; None runs an embedded server."""
    postgres_pooling: Literal["session", "transaction"] = "session"
    """`transaction` behind a pooler that gives a connection for one transaction only, such as PgBouncer in that mode (docs/postgres.md)."""
    log_schema: Annotated[str, Field(validation_alias=f"{_PREFIX}SCHEMA")] = "headwater"
    """Where in the database the log lives: each of several logs in one database has a schema of its own (docs/tenants.md)."""
    kafka: str | None = None
    """`host:port,host:port`; None runs an embedded broker."""
    topic_partitions: Annotated[int, Field(ge=1, le=TOPIC_PARTITIONS_MAX)] = 6
    """Partitions of a topic that Headwater creates."""
    topic_replication_factor: Annotated[int, Field(ge=-1, le=32_767)] = -1
    """Replicas of a topic that Headwater creates; -1 takes the broker's default."""
    instance_id: Annotated[str | None, Field(min_length=1, max_length=100)] = None
    """A name that this process keeps over restarts, unique among the service's processes: a quick restart then moves no partitions."""
    master_key: SecretStr | None = None
    """32 bytes in base64, under which the keys of personal data are stored; None stores them as they are."""
    log_format: Annotated[str, Field(pattern="^(auto|console|json)$")] = "auto"
    """`console`, `json`, or `auto`: console on a terminal, JSON otherwise."""
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    """Facts below this level are not written."""


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        ConfigurationError: a variable has a value that is not allowed; the message names it.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = (f"{_PREFIX}{'_'.join(str(part) for part in e['loc']).upper().removeprefix(_PREFIX)}: {e['msg']}" for e in error.errors())
        raise ConfigurationError("; ".join(lines)) from None


def redact(dsn: str) -> str:
    """The address without its password, fit for a message or a log."""
    try:
        parts = urlsplit(dsn)
        if parts.password is None:
            return parts._replace(query="").geturl()
        host = parts.netloc.rsplit("@", 1)[1]
        return urlunsplit((parts.scheme, f"{parts.username or ''}:***@{host}", parts.path, "", ""))
    except ValueError:
        return "(an address that cannot be parsed)"

"""`eventsourcing`, the usual library of this kind for Python, at work on the same orders in its own manner.

Its PostgreSQL module with its default settings: a pool of 5 to 15 connections, commits as durable as the server's. It is synchronous, so
callers are threads. Events go through pydantic and orjson, the way its documentation shows for pydantic models; its default JSON transcoder takes twice
as long. With its database functions (`POSTGRES_ENABLE_DB_FUNCTIONS`) it appends faster, but without the table lock that keeps readers from passing over events.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict

from benchmarks.orders import OrderLine, OrderPlaced
from headwater.errors import UsageError

try:
    from eventsourcing.persistence import EventStore, Mapper, StoredEvent, Transcoder
    from eventsourcing.postgres import PostgresFactory
    from eventsourcing.utils import Environment, get_topic, resolve_topic
except ImportError as error:
    raise UsageError("the benchmarks compare with eventsourcing, which is not installed; run: pip install 'headwater[bench]'") from error

if TYPE_CHECKING:
    from eventsourcing.postgres import PostgresApplicationRecorder

PEER: Final = "eventsourcing"
PEER_FUNCTIONS: Final = "eventsourcing, database functions"
PEER_CONNECTIONS_MAX: Final = 15
"""Its default: a pool of 5 and an overflow of 10."""


class PeerOrderPlaced(BaseModel):
    """The same fact with the two fields that `eventsourcing` asks of every event."""

    model_config = ConfigDict(frozen=True)

    originator_id: UUID
    originator_version: int
    order_id: UUID
    customer_id: str
    placed_at: datetime
    lines: tuple[OrderLine, ...]


class PydanticMapper(Mapper[UUID]):
    """Between pydantic models and what is stored."""

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        """Encode."""
        return StoredEvent(
            originator_id=domain_event.originator_id,
            originator_version=domain_event.originator_version,
            topic=get_topic(type(domain_event)),
            state=self.transcoder.encode(domain_event.model_dump(mode="json")),
        )

    def to_domain_event(self, stored_event: StoredEvent) -> Any:
        """Decode and validate."""
        return resolve_topic(stored_event.topic)(**self.transcoder.decode(stored_event.state))


class OrjsonTranscoder(Transcoder):
    """Bytes by orjson."""

    def encode(self, obj: Any) -> bytes:
        """Plain values to bytes."""
        return orjson.dumps(obj)

    def decode(self, data: bytes) -> Any:
        """Bytes to plain values."""
        return orjson.loads(data)


class Peer:
    """An `eventsourcing` event store over one database."""

    def __init__(self, factory: PostgresFactory) -> None:
        self.recorder: PostgresApplicationRecorder = factory.application_recorder()
        self.mapper = PydanticMapper(OrjsonTranscoder())
        self.store: EventStore[UUID] = EventStore(self.mapper, self.recorder)

    def put(self, stream_id: UUID, events: Iterable[OrderPlaced]) -> None:
        """Append to a new stream."""
        self.store.put(peer_events(stream_id, events))


def peer_events(stream_id: UUID, events: Iterable[OrderPlaced]) -> list[Any]:
    """The orders as its events, without validating again what is valid."""
    return [
        PeerOrderPlaced.model_construct(originator_id=stream_id, originator_version=version, **vars(event))
        for version, event in enumerate(events, start=1)
    ]


@contextmanager
def peer(dsn: str, *, functions: bool = False) -> Generator[Peer]:
    """Its tables in this database, and its pool, open."""
    parts = urlsplit(dsn)
    factory = PostgresFactory(
        Environment(
            "",
            {
                "POSTGRES_DBNAME": parts.path.removeprefix("/"),
                "POSTGRES_HOST": parts.hostname or "127.0.0.1",
                "POSTGRES_PORT": str(parts.port or 5432),
                "POSTGRES_USER": unquote(parts.username or "postgres"),
                "POSTGRES_PASSWORD": unquote(parts.password or ""),
                "POSTGRES_ENABLE_DB_FUNCTIONS": "yes" if functions else "no",
            },
        )
    )
    try:
        yield Peer(factory)
    finally:
        factory.close()

"""The embedded servers that all services of this process share."""

from __future__ import annotations

import asyncio
import atexit
import threading

from headwater.embedded.kafka import EmbeddedKafka
from headwater.embedded.postgres import EmbeddedPostgres
from headwater.embedded.servers import start_embedded


class SharedServers:
    """Each server is started when it is first asked for, and runs until the process ends: what a service stored is there when it opens again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._postgres: EmbeddedPostgres | None = None
        self._kafka: EmbeddedKafka | None = None
        self._databases: dict[str, str] = {}

    async def start(self, *, postgres: bool, kafka: bool) -> None:
        """Have the servers asked for running, started side by side; does nothing where they run.

        Raises:
            ConfigurationError, StorageUnavailable, BrokerUnavailable: one cannot be started here.
        """
        if postgres or kafka:
            await asyncio.to_thread(self._start, postgres, kafka)

    async def database(self, name: str) -> str:
        """The address of the database of this name, created on first use."""
        return await asyncio.to_thread(self._database, name)

    @property
    def bootstrap(self) -> str:
        """Where Kafka is."""
        assert self._kafka is not None, "start it first"
        return self._kafka.bootstrap

    def _start(self, postgres: bool, kafka: bool) -> None:
        with self._lock:
            wants_postgres, wants_kafka = postgres and self._postgres is None, kafka and self._kafka is None
            if not (wants_postgres or wants_kafka):
                return
            servers = start_embedded(postgres=wants_postgres, kafka=wants_kafka)
            atexit.register(servers.stop)
            self._postgres, self._kafka = servers.postgres or self._postgres, servers.kafka or self._kafka

    def _database(self, name: str) -> str:
        with self._lock:
            assert self._postgres is not None, "start it first"
            if name not in self._databases:
                self._databases[name] = self._postgres.create_database(name)
            return self._databases[name]


SHARED_SERVERS = SharedServers()

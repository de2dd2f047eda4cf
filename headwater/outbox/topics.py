"""Looking at topics once for all shards of a process that want to know at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from headwater.outbox.ports import RelayBroker


class TopicDesk:
    """One request to Kafka at a time; an answer serves everybody who came before it was asked for."""

    def __init__(self, broker: RelayBroker) -> None:
        self._broker, self._in_turn = broker, asyncio.Lock()
        self._asked = self._answered = 0
        """Numbers of the last requests."""
        self._counts: Mapping[str, int] = {}

    async def ensure(self, names: set[str]) -> dict[str, int]:
        """Make what is missing; the number of partitions of each, asked for after this was called.

        Raises:
            BrokerUnavailable, ConfigurationError: see `KafkaTopics.ensure`.
        """
        first_of_use = self._asked + 1
        async with self._in_turn:
            if self._answered < first_of_use or not names <= self._counts.keys():
                self._asked += 1
                self._counts = await self._broker.ensure_topics(names) if names else {}
                self._answered = self._asked
            return {name: self._counts[name] for name in names}

"""How far the group got, told to Kafka for the usual tools (kafka-consumer-groups, lag exporters); nothing here is ever read back.

Where a group starts, and what it did, its rows in PostgreSQL say alone (rule 19). So what is told may be late, lost or reset by somebody, and no
effect is missing or repeated for it; and no failure to tell it reaches the consumer.
"""

# aiokafka ships no types; its values get ours here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

import aiokafka.errors as kafka
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from headwater.bus.ports import RebalanceListener
from headwater.clock import Clock
from headwater.kafka import Partition
from headwater.telemetry import logger

OFFSETS_COMMIT_SECONDS: Final = 3.0
"""How far behind the rows in PostgreSQL the offsets in Kafka may be; those that did not change are not sent again."""
COMMIT_SECONDS_MAX: Final = 10.0
"""A commit that Kafka has not answered by then has failed, and is tried again with the next."""
LAST_COMMIT_SECONDS_MAX: Final = 2.0
"""How long giving partitions back, or leaving, may be held up for it."""

_log = logger("bus")


class GroupOffsets:
    """Commits a group's offsets every few seconds, and when its partitions are given back."""

    def __init__(self, client: AIOKafkaConsumer, listener: RebalanceListener, *, group: str, clock: Clock) -> None:
        """Tell of what the listener has committed, through the client that is a member of the group."""
        self._client, self._listener, self._group, self._clock = client, listener, group, clock
        self._handed: dict[Partition, int] = {}
        """The offset after the last record that the consumer was given."""
        self._told: dict[Partition, int] = {}
        self._is_failing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to tell; the client is a member now."""
        self._task = asyncio.create_task(self._run(), name=f"headwater group offsets {self._group}")

    async def stop(self) -> None:
        """Tell what is left, and end. Where telling fails at the moment, that is not waited for."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        if not self._is_failing:
            await self.tell(self._listener.committed(), seconds_max=LAST_COMMIT_SECONDS_MAX)

    def note_handed(self, partition: Partition, next_offset: int) -> None:
        """The consumer was given the records before this offset. Cheap."""
        self._handed[partition] = next_offset

    def forget(self, partitions: Iterable[Partition]) -> None:
        """These are not ours any more."""
        for partition in partitions:
            self._handed.pop(partition, None)
            self._told.pop(partition, None)

    async def tell(self, committed: Mapping[Partition, int], *, seconds_max: float = COMMIT_SECONDS_MAX) -> None:
        """Commit these offsets to the group, as far as Kafka does not know them; raises nothing.

        Args:
            committed: the next offset of each partition, as PostgreSQL has it.
        """
        try:
            async with asyncio.timeout(seconds_max):
                news = await self._news(committed)
                if news:
                    await self._client.commit({TopicPartition(*partition): offset for partition, offset in news.items()})
        except kafka.CommitFailedError:
            # The group is being shared out anew: whoever has the partitions next tells of them.
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, consuming does not depend on it
            self._note_failure(error)
            return
        self._told |= news
        if self._is_failing:
            self._is_failing = False
            _log.info("offsets_committed_again", group=self._group)

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(OFFSETS_COMMIT_SECONDS)
            await self.tell(self._listener.committed())

    async def _news(self, committed: Mapping[Partition, int]) -> dict[Partition, int]:
        assigned: set[TopicPartition] = self._client.assignment()
        news: dict[Partition, int] = {}
        for partition, next_offset in committed.items():
            if partition in self._handed and TopicPartition(*partition) in assigned:
                reached = await self._reached(partition, next_offset)
                if reached != self._told.get(partition):
                    news[partition] = reached
        return news

    async def _reached(self, partition: Partition, next_offset: int) -> int:
        """Once everything that was given is done, also the markers behind it are (of a relay that took over): lag then comes to 0.

        The client's position moves in the same step of the loop in which `note_handed` is called, so between them nothing is skipped here.
        """
        position: int = await self._client.position(TopicPartition(*partition))
        return max(next_offset, position) if next_offset >= self._handed.get(partition, position) else next_offset

    def _note_failure(self, error: Exception) -> None:
        if not self._is_failing:
            self._is_failing = True
            _log.warning(
                "offsets_not_committed",
                group=self._group,
                error=f"{type(error).__name__}: {error}",
                retry_seconds=OFFSETS_COMMIT_SECONDS,
                consequence="tools show an old lag; consuming goes on",
            )

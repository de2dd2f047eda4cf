"""Replies read from the log itself, where services share it and no broker is there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from headwater.bus.log_records import LogRecord, log_topic
from headwater.errors import LogDiverged, StorageUnavailable
from headwater.eventstore import Checkpoint, EventSelection, EventStore, LogTail, Subscription
from headwater.kafka import Envelope, Partition
from headwater.messages import LOG_START

_READ_AT_ONCE: Final = 1_000


class LogReplySource:
    """A `ReplySource`: the log's events of one category, from its end on."""

    def __init__(self, store: EventStore) -> None:
        """Remember where the log is; nothing is read before `open`.

        Args:
            store: gives events as they are stored; personal data is opened by who asked.
        """
        self._store = store
        self._tail = LogTail(store)
        self._subscription: Subscription | None = None
        self._checkpoint: Checkpoint | None = None
        """Where it was left; None before the first question."""

    def wake(self) -> None:
        """There may be something new in the log. Cheap, and many calls count as one."""
        self._tail.wake()

    async def open(self, topic: str) -> None:
        """Begin at the log's end, or where it was left; see `ReplySource.open`."""
        if self._checkpoint is None:
            self._checkpoint = await self._store.last_checkpoint()
        self._subscription = Subscription(
            self._store, EventSelection(categories=(topic,)), after=self._checkpoint, batch_size_max=_READ_AT_ONCE, tail=self._tail
        )

    async def receive(self, *, timeout_seconds: float) -> Sequence[LogRecord]:
        """The next replies; see `ReplySource.receive`."""
        if self._subscription is None:
            raise StorageUnavailable("the replies are not being read")
        try:
            async with asyncio.timeout(timeout_seconds):
                batch = await anext(self._subscription)
        except TimeoutError:
            return ()
        except LogDiverged as error:
            # What was there is gone, and its callers stop waiting by themselves.
            self._checkpoint = None
            raise StorageUnavailable(f"the replies are read from the log's end again: {error}") from error
        self._checkpoint = batch.checkpoint
        identity = batch.identity
        return [
            LogRecord(
                Partition(log_topic(event.category), 0), Envelope(event, identity.log_id, identity.locate(event.global_position), LOG_START)
            )
            for event in batch.events
        ]

    async def close(self) -> None:
        """Stop reading; see `ReplySource.close`."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.close()
        await self._tail.close()

"""A consumer that is killed and resumed, and a store that counts, breaks and changes under its readers."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

from headwater.errors import StorageUnavailable
from headwater.eventstore import EVERYTHING, Checkpoint, EventSelection, EventStore, LogTail, Subscription
from headwater.messages import RecordedEvent

LAST_TYPE = "LastOne"
"""The type of the event that ends a run; every selection of these tests wants it."""


@dataclass
class Consumer:
    """Keeps events and checkpoint in one step, as a transaction would."""

    selection: EventSelection = EVERYTHING
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    seen: list[RecordedEvent] = field(default_factory=list)
    kills: int = 0

    @property
    def is_done(self) -> bool:
        return bool(self.seen) and self.seen[-1].type == LAST_TYPE

    async def consume(self, store: EventStore, chance: random.Random, tail: LogTail | None = None) -> None:
        """Read on from the checkpoint until the last event."""
        size = chance.choice([1, 3, 50, 200, 1000, 1000])
        async with Subscription(store, self.selection, after=self.checkpoint, batch_size_max=size, tail=tail) as subscription:
            async for batch in subscription:
                assert len(batch.events) <= size
                self.seen += batch.events
                self.checkpoint = batch.checkpoint
                if self.is_done:
                    return
                if chance.random() < 0.05:
                    await asyncio.sleep(chance.random() * 0.003)

    async def consume_through_kills(self, store: EventStore, chance: random.Random, tail: LogTail | None = None) -> None:
        """The same, cancelled at random moments and begun again each time."""
        while not self.is_done:
            reading = asyncio.create_task(self.consume(store, chance, tail))
            if chance.random() < 0.25:
                for _ in range(chance.randrange(40)):
                    await asyncio.sleep(0)
            else:
                await asyncio.sleep(chance.random() * chance.choice([0.02, 0.2, 0.6]))
            reading.cancel()
            (outcome,) = await asyncio.gather(reading, return_exceptions=True)
            if isinstance(outcome, asyncio.CancelledError):
                self.kills += 1
            elif outcome is not None:
                raise outcome

    def compare(self, log: list[RecordedEvent]) -> None:
        """It saw what its selection wants of the log, in order, once."""
        wanted = [event for event in log if self.selection.matches(event)]
        assert [event.global_position for event in self.seen] == [event.global_position for event in wanted]
        assert self.seen == wanted


class TroubledStore:
    """Passes on to a store, counts the calls, and fails as long as it is told to."""

    def __init__(self, store: EventStore) -> None:
        self._store, self.is_away = store, False
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if self.is_away:
                raise StorageUnavailable("the server is away")
            return await method(*args, **kwargs)

        return call


async def read_all(store: EventStore) -> list[RecordedEvent]:
    """The whole log, as the tested reading of it sees it."""
    log: list[RecordedEvent] = []
    while events := (await store.read_log(after=log[-1].global_position if log else 0)).events:
        log += events
    return log

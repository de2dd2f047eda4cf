"""A consumer on memory doubles and a held clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from headwater.bus import Consumer, ConsumerLimits, DeadLetterIt, RetryPolicy, Subscriptions
from headwater.kafka import Partition
from headwater.messages import ANY, Event
from headwater.testing import FakeClock, MemoryEventStore, SeededRandomness
from headwater.testing.memory_bus import MemorySource, MemoryTopics
from headwater.testing.memory_effects import MemoryEffects

ROUNDS_MAX = 2_000
IN_PLACE = RetryPolicy(attempts_max=5, first_delay_seconds=0.25, delay_seconds_max=30.0, jitter=0.0, then=DeadLetterIt())
"""The message's partition waits, and in the end it is a dead letter; without parking."""


class OrderPlaced(Event):
    sku: str
    quantity: int = 1


class OrderCancelled(Event):
    sku: str


class StockReserved(Event):
    sku: str


class World:
    """Everything one group touches; `consumer()` gives further members."""

    def __init__(self, *, partition_count: int = 3, **options: Any) -> None:
        self.clock = FakeClock()
        self.store = MemoryEventStore()
        self.effects = MemoryEffects(self.store, clock=self.clock)
        self.topics = MemoryTopics(self.store, partition_count=partition_count)
        self.subscriptions = Subscriptions()
        self.options: dict[str, Any] = {"retry_policy": IN_PLACE, "limits": ConsumerLimits(), **options}
        self.handled: list[str] = []

    def member(self, *, share: list[Partition] | None = None) -> tuple[Consumer, MemorySource]:
        source = MemorySource(self.topics, clock=self.clock, share=share)
        consumer = Consumer(
            group="shop",
            subscriptions=self.subscriptions,
            source=source,
            effects=self.effects,
            clock=self.clock,
            randomness=SeededRandomness(7),
            **self.options,
        )
        return consumer, source

    async def place(self, *skus: str, stream: str | None = None) -> None:
        for sku in skus:
            await self.store.append(stream or f"order-{sku}", [OrderPlaced(sku=sku)], expected_version=ANY)

    async def until(self, condition: Callable[[], object]) -> None:
        """Let time pass until it is so."""
        for _ in range(ROUNDS_MAX):
            if condition():
                return
            await self.clock.advance_to_next_sleeper()
        raise AssertionError("it never came to be so")

    async def caught_up(self, *, gave_up_on: set[Partition] | None = None) -> None:
        """Every record is behind the group's positions."""
        await self.topics.relay()
        await self.until(lambda: all(self.is_applied(p) for p in self.partitions if p not in (gave_up_on or set())))

    @property
    def partitions(self) -> list[Partition]:
        return self.topics.partitions(self.subscriptions.topics)

    def is_applied(self, partition: Partition) -> bool:
        row = self.effects.position("shop", partition)
        return row is not None and row.next_offset == self.topics.range_of(partition).end

    def stream_names(self, category: str) -> list[str]:
        return [event.stream_name for event in self.store.events if event.category == category]

    @asynccontextmanager
    async def running(self, consumer: Consumer | None = None) -> AsyncIterator[Consumer]:
        """A member at work, stopped in the end; what it raised by itself is raised."""
        member = consumer or self.member()[0]
        task = asyncio.create_task(member.run())
        try:
            yield member
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

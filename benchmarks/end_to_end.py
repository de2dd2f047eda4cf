"""End to end: how long after the call of `append` its effect is committed, by way of the log, the relay, Kafka and a handler."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count, cycle
from time import perf_counter
from typing import Final

from benchmarks.consume import CREATE_EFFECTS
from benchmarks.end_to_end_service import POISON_CUSTOMER
from benchmarks.kafka_records import PARTITION_COUNT, make_topic
from benchmarks.measure import HEADWATER, P50, P99, Comparison, Comparisons, Contender, at_a_steady_rate, latency_percentiles
from benchmarks.orders import mean_bytes, orders, placed_in
from benchmarks.scale import Scale
from benchmarks.servers import Servers, new_category
from benchmarks.subprocesses import next_line, python_process
from headwater.errors import HeadwaterError
from headwater.eventstore import EventStore, LogDoorbell, PostgresEventStore, WatchedEventStore
from headwater.messages import ANY, NO_STREAM

RATES: Final = (500, 5)
"""Events a second."""
WRITERS: Final = 8
ARRIVAL_SECONDS_MAX: Final = 60.0


@dataclass(frozen=True, slots=True)
class RunningService:
    """A log to append to, and the process that relays and handles what is appended."""

    store: EventStore
    process: Process
    category: str


@asynccontextmanager
async def end_to_end_service(servers: Servers) -> AsyncGenerator[RunningService]:
    """A relay and a consumer over a log and a topic of their own."""
    category = new_category()
    async with servers.database(connections_max=WRITERS) as database, servers.topics([category]):
        await make_topic(servers.bootstrap, category)
        async with database.connection() as connection:
            await connection.execute(CREATE_EFFECTS)
        async with LogDoorbell(database, on_ring=lambda: None) as doorbell:
            store = WatchedEventStore(PostgresEventStore(database), on_append=doorbell.ring)
            async with python_process("benchmarks.end_to_end_service", database.dsn, servers.bootstrap, category) as process:
                yield RunningService(store, process, category)


async def compare_end_to_end(servers: Servers, scale: Scale) -> Comparisons:
    """Busy, then nearly idle."""
    for rate in RATES:
        async with end_to_end_service(servers) as service:
            conditions = {"events_per_second": rate, "bytes": mean_bytes(orders()), "durable": True, "partitions": PARTITION_COUNT}
            yield Comparison("end_to_end", conditions, [Contender(HEADWATER, Latencies(service, rate, scale).sample)], metrics=(P50, P99))


class Latencies:
    """Appends at a steady rate, whether or not earlier ones have returned, and waits until all have had their effect."""

    def __init__(self, service: RunningService, rate: int, scale: Scale, *, poison_every: int | None = None) -> None:
        """Append so many events a second; one in `poison_every` goes to a stream whose handler fails, and is not waited for."""
        self._service, self._rate, self._poison_every = service, rate, poison_every
        self._seconds_min = scale.latency_seconds_min
        self._event_class = placed_in(service.category)
        self._names = (f"{service.category}-{number}" for number in count(1))
        self._events = cycle(orders(self._event_class))
        self._is_ready = False

    async def sample(self, seconds: float) -> dict[str, float]:
        if not self._is_ready:
            # The first one waits until the consumer has joined its group.
            await self._arrivals({await self._append()})
            self._is_ready = True
        event_count = max(1, round(max(seconds, self._seconds_min) * self._rate))
        called = await self._append_all(event_count)
        arrived = await self._arrivals(set(called))
        return latency_percentiles(called, arrived)

    async def _append(self) -> int:
        result = await self._service.store.append(next(self._names), [next(self._events)], expected_version=NO_STREAM)
        return result.global_position

    async def _append_poison(self) -> None:
        event = next(self._events).model_copy(update={"customer_id": POISON_CUSTOMER})
        await self._service.store.append(f"{self._service.category}-poison", [event], expected_version=ANY)

    async def _append_all(self, event_count: int) -> dict[int, float]:
        """When each event's append was called, by its position."""
        called: dict[int, float] = {}

        async def one(number: int) -> None:
            if self._poison_every is not None and number % self._poison_every == 0:
                await self._append_poison()
                return
            began = perf_counter()
            called[await self._append()] = began

        await at_a_steady_rate(event_count, self._rate, one)
        return called

    async def _arrivals(self, positions: set[int]) -> dict[int, float]:
        arrived: dict[int, float] = {}
        try:
            async with asyncio.timeout(ARRIVAL_SECONDS_MAX):
                while positions - arrived.keys():
                    position, moment = (await next_line(self._service.process)).split()
                    arrived[int(position)] = float(moment)
        except TimeoutError:
            missing = len(positions - arrived.keys())
            raise HeadwaterError(f"end_to_end: {missing} events had no effect after {ARRIVAL_SECONDS_MAX:g} seconds") from None
        return arrived

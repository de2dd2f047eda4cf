"""A relay, a consumer or the writers of the matrix, each in a process of its own.

They are forked from one process that has imported all this already, so that the next relay is there tens of milliseconds after one was killed.
SIGTERM ends a member in good order. Its facts go to a file, one JSON object a line.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection as PipeEnd
from multiprocessing.context import ForkServerProcess
from multiprocessing.sharedctypes import Synchronized
from typing import Any, cast

import asyncpg
import uvloop

from headwater.bus import Consumer, ConsumerLimits, Context, KafkaSource, PostgresEffects, RetryPolicy, Subscriptions
from headwater.errors import HeadwaterError
from headwater.eventstore import PostgresEventStore
from headwater.kafka import KafkaSettings
from headwater.messages import ANY, Event, NewEvent
from headwater.outbox import KafkaRelayBroker, PostgresRelayPositions, Relay, RelayOptions
from headwater.postgres import Connection, Database
from headwater.telemetry import configure_logging

CATEGORY = "matrix"
GROUP = "matrix-effects"
WRITERS = 3
STREAMS = 40
EVENTS_AT_ONCE_MAX = 20
FAILS_ONCE_EVERY = 997
LARGE_EVERY = 50
LARGE_BYTES = 4_000
RETRY_SECONDS = 0.05
AWAY = (HeadwaterError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


class Moved(Event, category=CATEGORY):
    """One number of one row of the matrix."""

    row: str
    number: int
    filler: str


# -- the relay ---------------------------------------------------------------------------------------------------------


async def relay(config: dict[str, Any], database: Database) -> None:
    broker = KafkaRelayBroker(KafkaSettings.parse(config["kafka"], client_id=config["name"], topic_partitions=6))
    options = RelayOptions(lease_seconds=config["lease_seconds"], checkpoint_seconds=0.1, slice_events_max=200, stop_retry_seconds=0.5)
    store = PostgresEventStore(database)
    await Relay(store, broker, PostgresRelayPositions(database), event_source="/services/matrix", options=options).run()


# -- the consumer ------------------------------------------------------------------------------------------------------


def subscriptions() -> Subscriptions:
    """One row of `effects` for every event, and now and then a failure that passes."""
    found, failed = Subscriptions(), set[tuple[str, int]]()

    @found.on(Moved)
    async def write_effect(event: Moved, context: Context) -> None:
        await context.connection.execute(
            "INSERT INTO effects (row_name, stream, number) VALUES ($1, $2, $3)", event.row, context.stream_name, event.number
        )
        if event.number % FAILS_ONCE_EVERY == 0 and (event.row, event.number) not in failed:
            failed.add((event.row, event.number))
            raise ValueError("the first time")

    return found


async def consumer(config: dict[str, Any], database: Database) -> None:
    settings = KafkaSettings.parse(config["kafka"], client_id=config["name"])
    await Consumer(
        group=GROUP,
        subscriptions=subscriptions(),
        source=KafkaSource(settings, group=GROUP, session_timeout_seconds=config["session_seconds"]),
        effects=PostgresEffects(database, PostgresEventStore(database)),
        retry_policy=RetryPolicy(first_delay_seconds=0.02),
        limits=ConsumerLimits(batch_size_max=100, reclaim_seconds=1.0, reconnect_seconds_max=1.0),
    ).run()


# -- the writers -------------------------------------------------------------------------------------------------------


class EffectCount:
    """How many effects of a row there are; looks only at numbers above those below which none is missing."""

    def __init__(self, row_name: str) -> None:
        self.row_name, self._through, self.last = row_name, 0, 0

    async def look(self, connection: Connection) -> int:
        """The count now."""
        through = self._through
        rows = await connection.fetch(
            "SELECT number FROM effects WHERE row_name = $1 AND number > $2 ORDER BY number", self.row_name, through
        )
        self.last = through + len(rows)
        for row in rows:
            if row["number"] > through + 1:
                break
            through = row["number"]
        self._through = max(through, self._through)
        return self.last


class Row:
    """The events of one row of the matrix: numbers, each in one stream, with holes of aborted appends between them."""

    def __init__(self, order: dict[str, Any], database: Database, events_allowed: Synchronized[int]) -> None:
        self.name, self.ahead_max, self.events_allowed = order["row"], order["ahead_max"], events_allowed
        self.event_count: int = order["events"]
        self.numbers: Iterator[int] = iter(range(1, self.event_count + 1))
        self.seed = order["seed"]
        self.database, self.store = database, PostgresEventStore(database)
        self.written, self.effects = 0, EffectCount(self.name)

    async def write(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for writer in range(WRITERS):
                tasks.create_task(self._write(random.Random(self.seed * WRITERS + writer)))

    async def _write(self, chance: random.Random) -> None:
        """What may or may not have been stored is sent again under the same ids."""
        while batch := [number for _, number in zip(range(chance.randint(1, EVENTS_AT_ONCE_MAX)), self.numbers, strict=False)]:
            stream = f"{CATEGORY}-{self.name}-{chance.randrange(STREAMS)}"
            events = [self._event(number) for number in batch]
            if chance.random() < 0.1:
                await self._abort(stream)
            while True:
                try:
                    await self.store.append(stream, events, expected_version=ANY)
                    break
                except AWAY as error:
                    if isinstance(error, HeadwaterError) and not error.retryable:
                        raise
                    await asyncio.sleep(RETRY_SECONDS)
            self.written += len(batch)
            await self._stay_close()

    def _event(self, number: int) -> NewEvent:
        filler = "x" * (LARGE_BYTES if number % LARGE_EVERY == 0 else number % 100)
        return NewEvent("Moved", json.dumps({"row": self.name, "number": number, "filler": filler}))

    async def _abort(self, stream: str) -> None:
        with suppress(*AWAY):
            async with self.database.transaction() as connection:
                await self.store.append(stream, [self._event(0)], expected_version=ANY, connection=connection)
                raise OSError("on purpose")

    async def _stay_close(self) -> None:
        """Not beyond what is allowed yet, nor far ahead of the effects, so that faults meet work on its way, and not a backlog."""
        while self.written >= self.events_allowed.value < self.event_count:
            await asyncio.sleep(RETRY_SECONDS / 5)
        while self.written - self.effects.last > self.ahead_max:
            with suppress(*AWAY):
                async with self.database.connection() as connection:
                    await self.effects.look(connection)
            if self.written - self.effects.last > self.ahead_max:
                await asyncio.sleep(RETRY_SECONDS / 5)


async def writers(config: dict[str, Any], database: Database) -> None:
    """Write the rows that it is told, one after the other, and say when each is written."""
    orders: PipeEnd = config["orders"]
    while True:
        order = await asyncio.to_thread(orders.recv)
        await Row(order, database, config["events_allowed"]).write()
        orders.send({"written": order["row"]})


# -- processes ---------------------------------------------------------------------------------------------------------

ROLES = {"relay": relay, "consumer": consumer, "writers": writers}


async def work(config: dict[str, Any]) -> None:
    configure_logging("json", "info")
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with suppress(asyncio.CancelledError):
        async with Database(config["dsn"], connections_max=4, application_name=config["name"]) as database:
            await ROLES[config["role"]](config, database)


def main(config: dict[str, Any]) -> None:
    """What the new process does."""
    facts = os.open(config["facts"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(facts, sys.stderr.fileno())
    threading.Thread(target=end_with_parent, daemon=True).start()
    uvloop.run(work(config))


def end_with_parent() -> None:
    """Whoever kills the tests leaves no members behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["__main__", __name__])


def start_process(config: dict[str, Any]) -> ForkServerProcess:
    """A new member; what it needs must fit through a pipe."""
    process = _FORKS.Process(target=main, args=(config,), name=config["name"], daemon=True)
    process.start()
    return process


def pipe() -> tuple[PipeEnd, PipeEnd]:
    """Two ends, of which one goes into a member's `config`."""
    return _FORKS.Pipe()


def counter() -> Synchronized[int]:
    """A number that members can read."""
    return cast("Synchronized[int]", _FORKS.Value("i", 0))

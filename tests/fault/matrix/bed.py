"""What the rows of the matrix happen on: servers of its own behind proxies, relays, consumers and the writers, each in a process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import asyncpg

from headwater.embedded import EmbeddedPostgres
from headwater.errors import HeadwaterError
from headwater.eventstore import PostgresEventStore
from headwater.outbox import SHARDS
from headwater.postgres import Database
from headwater.testing import MigratedDatabases, eventually
from headwater.testing.postgres import database_dsn
from tests.fault.matrix.cluster import ProxiedKafka
from tests.fault.matrix.member_process import GROUP, EffectCount, counter, pipe, start_process
from tests.fault.matrix.proxies import LOOPBACK, Proxy

LEASE_SECONDS = 1.5
SESSION_SECONDS = 2.0
RELAYS = {1: 2, 3: 3}
"""So many beside so many brokers."""
CONSUMERS = 2
WAIT_SECONDS = 120.0
END_SECONDS_MAX = 40.0
EFFECTS = """
CREATE TABLE effects (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, row_name text NOT NULL, stream text NOT NULL, number integer NOT NULL);
CREATE INDEX effects_numbers ON effects (row_name, number);
"""
Answer = TypeVar("Answer")


class Member:
    """One process, with a proxy of its own before PostgreSQL."""

    def __init__(self, name: str, role: str, proxy: Proxy, process: ForkServerProcess, facts: Path) -> None:
        self.name, self.role, self.proxy, self.process = name, role, proxy, process
        self._facts, self._read, self._known = facts, 0, list[dict[str, Any]]()

    @property
    def facts(self) -> list[dict[str, Any]]:
        """All it has told so far."""
        with self._facts.open("rb") as file:
            file.seek(self._read)
            news = file.read()
        whole = news[: news.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            with suppress(json.JSONDecodeError):
                self._known.append(json.loads(line))
        return self._known

    def told(self, event: str) -> int:
        """How often it told this fact."""
        return sum(fact["event"] == event for fact in self.facts)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.is_alive()

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP, SIGCONT."""
        pid_signal(self.pid, number)

    async def end(self, how: signal.Signals) -> None:
        """SIGKILL, or SIGTERM and wait for it; it must end by itself then."""
        try:
            if self.is_running:
                self.signal(how)
                await eventually(lambda: not self.is_running, END_SECONDS_MAX)
        finally:
            self.process.kill()
            await self.proxy.__aexit__(None, None, None)


class Bed:
    """Servers, members, and how far they are."""

    def __init__(self, broker_count: int, folder: Path) -> None:
        self.broker_count, self._folder = broker_count, folder
        self._stack, self._started = AsyncExitStack(), 0
        self.relays: list[Member] = []
        self.consumers: list[Member] = []
        self.events_allowed = counter()
        """How many events of a row may be written by now."""
        self._effects = EffectCount("")
        self.is_spoilt = False

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def _open(self) -> None:
        self.postgres = EmbeddedPostgres()
        self._stack.callback(self.postgres.stop)
        await asyncio.to_thread(self.postgres.start)
        self.kafka = await self._stack.enter_async_context(ProxiedKafka(self.broker_count))
        self.dsn = MigratedDatabases(self.postgres.dsn).create()
        self.database = await self._stack.enter_async_context(Database(self.dsn, application_name="harness"))
        self.store = PostgresEventStore(self.database)
        async with self.database.connection() as connection:
            await connection.execute(EFFECTS)
        self.relays = [await self.start("relay") for _ in range(RELAYS[self.broker_count])]
        self.consumers = [await self.start("consumer") for _ in range(CONSUMERS)]
        self.writers = await self.start("writers")
        await self.all_have_work()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for member in [*self.relays, *self.consumers, *([self.writers] if hasattr(self, "writers") else [])]:
            await member.end(signal.SIGKILL)
        await self._stack.aclose()

    # -- members ------------------------------------------------------------------------------------------------------

    async def start(self, role: str) -> Member:
        self._started += 1
        name = f"{role}-{self._started}"
        proxy = await Proxy(lambda: self.postgres.port).__aenter__()
        database = self.dsn.rpartition("/")[2]
        config: dict[str, Any] = {
            "role": role,
            "name": name,
            "dsn": database_dsn(f"postgresql://postgres@{LOOPBACK}:{proxy.port}/postgres", database),
            "kafka": self.kafka.bootstrap,
            "lease_seconds": LEASE_SECONDS,
            "session_seconds": SESSION_SECONDS,
        }
        facts = self._folder / f"{name}.jsonl"
        facts.touch()
        config |= {"facts": str(facts)}
        if role == "writers":
            self.orders, config["orders"] = pipe()
            config["events_allowed"] = self.events_allowed
        return Member(name, role, proxy, await asyncio.to_thread(start_process, config), facts)

    async def replace(self, victim: Member) -> Member:
        """Another one in its place."""
        members = self.relays if victim.role == "relay" else self.consumers
        members[members.index(victim)] = heir = await self.start(victim.role)
        return heir

    def write(self, order: dict[str, Any]) -> asyncio.Task[None]:
        """Let the writers begin a row; the task ends when all of it is in the log."""
        self.orders.send(order)

        async def written() -> None:
            await eventually(self.orders.poll, 100 * WAIT_SECONDS)
            assert self.orders.recv() == {"written": order["row"]}

        return asyncio.create_task(written())

    def postgres_proxies(self) -> list[Proxy]:
        return [member.proxy for member in (*self.relays, *self.consumers, self.writers)]

    def nobody_ended(self) -> None:
        """A member that ends by itself is a fault of ours."""
        for member in (*self.relays, *self.consumers, self.writers):
            assert member.is_running, f"{member.name} ended by itself: {member.facts[-3:]}"

    # -- who has what -------------------------------------------------------------------------------------------------

    async def shards_of(self, relay: Member, *, also_expired: bool = False) -> set[str]:
        """What it holds by the leases' word; also what nobody took yet although it ran out, where that is asked for."""
        held = await self.fetch(
            "SELECT name FROM headwater.leases WHERE name LIKE 'relay/items/%' AND holder LIKE $1 AND ($2 OR expires_at > clock_timestamp())",
            f"%/{relay.pid}/%",
            also_expired,
        )
        return {str(row["name"]).rpartition("/")[2] for row in held}

    async def terms(self) -> dict[str, int]:
        """How often each shard was taken."""
        rows = await self.fetch("SELECT name, term FROM headwater.leases WHERE name LIKE 'relay/items/%'")
        return {str(row["name"]).rpartition("/")[2]: row["term"] for row in rows}

    async def epochs(self) -> dict[int, int]:
        """How often each partition was claimed."""
        rows = await self.fetch("SELECT partition, epoch FROM headwater.consumer_positions WHERE group_name = $1", GROUP)
        return {row["partition"]: row["epoch"] for row in rows}

    def partitions_of(self, consumer: Member) -> set[int]:
        """What it was the last to claim."""
        owners: dict[int, tuple[str, str]] = {}
        for member in self.consumers:
            for fact in member.facts:
                if fact["event"] == "partitions_claimed":
                    for partition in fact["partitions"]:
                        number = int(partition.rpartition("/")[2])
                        owners[number] = max(owners.get(number, ("", "")), (fact["timestamp"], member.name))
        return {number for number, (_, name) in owners.items() if name == consumer.name}

    async def all_have_work(self) -> None:
        """Every relay holds shards and every consumer partitions."""

        async def so() -> bool:
            self.nobody_ended()
            return all([await self.shards_of(relay) for relay in self.relays]) and all(map(self.partitions_of, self.consumers))

        await eventually(so, WAIT_SECONDS)

    # -- how far they are ---------------------------------------------------------------------------------------------

    async def until_it_works(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """PostgreSQL may be away for a while."""
        deadline = asyncio.get_running_loop().time() + WAIT_SECONDS
        while True:
            try:
                return await call()
            except (HeadwaterError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.05)

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        async def ask() -> list[asyncpg.Record]:
            async with self.database.connection() as connection:
                return list(await connection.fetch(statement, *arguments))

        return await self.until_it_works(ask)

    async def effect_count(self, row_name: str) -> int:
        if self._effects.row_name != row_name:
            self._effects = EffectCount(row_name)

        async def look() -> int:
            async with self.database.connection() as connection:
                return await self._effects.look(connection)

        return await self.until_it_works(look)

    async def last_position(self) -> int:
        return int((await self.fetch("SELECT coalesce(max(global_position), 0) FROM headwater.events"))[0][0])

    async def relayed_through(self, position: int) -> None:
        """Every shard is past this position of the log."""

        async def so() -> bool:
            rows = await self.fetch("SELECT global_position FROM headwater.relay_checkpoints")
            return len(rows) == len(SHARDS) and all(row["global_position"] >= position for row in rows)

        await eventually(so, WAIT_SECONDS)

    async def effects_reach(self, row_name: str, goal: int) -> None:
        """Looks often: a fault is to come when there is still something on its way."""
        deadline = asyncio.get_running_loop().time() + WAIT_SECONDS
        while (count := await self.effect_count(row_name)) < goal:
            self.nobody_ended()
            assert asyncio.get_running_loop().time() < deadline, f"{count} effects of {goal} after {WAIT_SECONDS} s"
            await asyncio.sleep(0.02)


def pid_signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)

"""One seed, one interleaving: writers and readers of the log on real connections, of which a scheduler moves one at a time.

The seed chooses who appends what, in which transactions, how each ends, who is killed when, and who takes the next step; the steps are the
statements inside the SQL functions (see `gates`). Nothing else runs beside the one that was chosen, so the same seed gives the same interleaving.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from headwater.errors import HeadwaterError
from headwater.eventstore import PostgresEventStore
from headwater.messages import ANY, NewEvent
from tests.fault.eventstore.gates import LANES, GateKeeper, Lane, LaneDatabase, install_gates

STEPS_MAX = 5_000
PLAY_SECONDS_MAX = 120.0
BLOCKED_AFTER_SECONDS = 0.01
PAGE_SIZE_MAX = 1_000
GATE_SHARE = 0.4
"""How many of the gates a lane stops at, chosen anew for each interleaving: fewer steps, and over many seeds every gate as often."""
READER_WEIGHT, WRITER_WEIGHT = 1, 3
"""How often each takes the next step: readers go on as long as writers do, and most of their reads would find nothing."""
CUT_SHORT = (HeadwaterError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
LOG_AFTER = "SELECT global_position, stream_name, version, event_id FROM headwater.log WHERE global_position > $1 ORDER BY global_position"

Seen = tuple[int, str, int, uuid.UUID]


@dataclass
class Counts:
    """What happened, to be sure that all of it does."""

    steps: int = 0
    events: int = 0
    committed: int = 0
    aborted: int = 0
    killed: int = 0
    prepared: int = 0
    blocked: int = 0
    reads: int = 0
    readers_killed: int = 0
    crashes: int = 0

    def add(self, other: Counts) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Reader:
    """Reads the log in pages; what it has taken in is kept with its checkpoint, as one."""

    page_size: int
    after: int
    seen: list[Seen] = field(default_factory=list)

    def take(self, page: list[Seen], horizon: int) -> None:
        for event in page:
            assert self.after < event[0] <= horizon, f"the log came out of order: {event[0]} after {self.after}, horizon {horizon}"
            self.after = event[0]
            self.seen.append(event)


class Stage:
    """A server's connections for many interleavings, one after the other."""

    def __init__(self, dsn: str, places: list[str], crash: Callable[[], Awaitable[None]] | None = None) -> None:
        """Give `crash` to crash the server itself where an interleaving says so; without, its connections end and its sequence jumps."""
        self.dsn, self.places, self.really_crash = dsn, places, crash
        self.lanes = [Lane(number, dsn) for number in range(LANES)]
        self.keeper: GateKeeper

    async def open(self) -> None:
        """Connect the scheduler and close all gates; again after a crash."""
        self.keeper = GateKeeper(await asyncpg.connect(self.dsn, server_settings={"application_name": "scheduler"}))
        for lane in self.lanes:
            await self.keeper.hold(lane)

    async def close(self) -> None:
        for connection in (self.keeper.connection, *(lane.connection for lane in self.lanes)):
            if connection is not None:
                connection.terminate()


@contextlib.asynccontextmanager
async def open_stage(dsn: str, crash: Callable[[], Awaitable[None]] | None = None) -> AsyncIterator[Stage]:
    """Gates in the functions of a fresh database, and connections to it."""
    places = await install_gates(dsn)
    stage = Stage(dsn, places, crash)
    await stage.open()
    try:
        yield stage
    finally:
        await stage.close()


class Interleaving:
    """One seeded run."""

    def __init__(self, stage: Stage, seed: int, *, crashes: float = 0.05) -> None:
        self.stage, self.seed, self.counts = stage, seed, Counts()
        self.chance = random.Random(f"interleaving {seed}")
        self.trace: list[str] = []
        """Who took each step, in order."""
        self.committed: set[uuid.UUID] = set()
        self.aborted: set[uuid.UUID] = set()
        self.unknown: list[set[uuid.UUID]] = []
        """What was appended by those who never heard of it, append by append."""
        self.prepared: dict[str, tuple[list[NewEvent], int]] = {}
        self._tasks: dict[Lane, asyncio.Task[None]] = {}
        self._ghosts: list[Lane] = []
        """Whose backends are still at work for a client that is gone."""
        self._let_go: list[Lane] = []
        """Those of them that nobody stops any more; they may wait for another's lock."""
        self._strikes: dict[Lane, tuple[int, str]] = {}
        self._crash_at = self.chance.randrange(5, 50) if self.chance.random() < crashes else None
        self.readers: list[Reader] = []

    async def run(self) -> Counts:
        """Play it to the end and compare what the readers saw with the log.

        Raises:
            AssertionError: an event was skipped, repeated or misordered, half of an append is there, or one that must not be is.
        """
        keeper = self.stage.keeper
        self.base = await keeper.connection.fetchval("SELECT last_value - (NOT is_called)::int FROM headwater.global_position_seq")
        lanes = iter(self.stage.lanes)
        writers = [next(lanes) for _ in range(self.chance.choice((2, 2, 3, 4)))]
        readers = [next(lanes) for _ in range(2)]
        for index, lane in enumerate([*writers, *readers]):
            await lane.stop_at("".join("1" if self.chance.random() < GATE_SHARE else "0" for _ in self.stage.places))
            self._start(lane, self._write(lane, index) if lane in writers else self._read(lane))
        for lane in self.chance.sample([*writers, *readers], self.chance.choice((0, 0, 1, 1))):
            kinds = ("cancel", "terminate", "vanish") if lane in writers else ("terminate", "vanish")
            self._strikes[lane] = self.chance.randrange(30), self.chance.choice(kinds)
        try:
            async with asyncio.timeout(PLAY_SECONDS_MAX):
                await asyncio.gather(*(lane.arrived.wait() for lane in self._tasks))
                await self._play(writers)
            await self._finish()
        finally:
            await self._clean_up()
        return self.counts

    # -- the scheduler

    def _start(self, lane: Lane, script: Coroutine[Any, Any, None]) -> None:
        lane.arrived.clear()
        lane.state = "running"

        async def whole() -> None:
            try:
                await script
            finally:
                lane.finish()

        self._tasks[lane] = asyncio.create_task(whole())

    async def _play(self, writers: list[Lane]) -> None:
        while True:
            self._raise_failures()
            moves = [lane for lane in self._tasks if lane.state in {"pause", "gate"}]
            writing = [lane for lane in writers if lane.state != "free"]
            if not writing and not self.prepared and not self._ghosts:
                return
            choices: list[Any] = [*moves, *self.prepared, *(ghost for ghost in self._ghosts if ghost not in self._let_go)]
            weights = [WRITER_WEIGHT if choice in writers else READER_WEIGHT for choice in choices]
            (chosen,) = self.chance.choices(choices, weights)
            self.counts.steps += 1
            assert self.counts.steps < STEPS_MAX, "it does not come to an end"
            if self.counts.steps == self._crash_at:
                await self._crash()
            elif isinstance(chosen, str):
                await self._finish_prepared(chosen)
            elif chosen in self._ghosts:
                await self._release(chosen)
            else:
                await self._step(chosen)
            await self._settle()

    async def _step(self, lane: Lane) -> None:
        self.trace.append(f"{lane.number}:{lane.state}")
        at, kind = self._strikes.get(lane, (-1, ""))
        if 0 <= at <= len(self.trace) and lane.state == "gate":
            del self._strikes[lane]
            await self._strike(lane, kind)
            return
        state = lane.state
        lane.arrived.clear()
        lane.state = "running"
        if state == "gate":
            await self.stage.keeper.open(lane)
        else:
            lane.resume()

    async def _settle(self) -> None:
        """Wait until everybody stands: at a gate, at a pause, at the end, or behind somebody's lock."""
        for lane in self._tasks:
            while not lane.arrived.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(lane.arrived.wait(), BLOCKED_AFTER_SECONDS)
                if not lane.arrived.is_set() and await self.stage.keeper.is_blocked(lane):
                    self.counts.blocked += lane.state != "blocked"
                    lane.state = "blocked"
                    break
        for lane in list(self._let_go):
            if await self.stage.keeper.gone(lane):
                await self.stage.keeper.hold(lane)
                self._ghosts.remove(lane)
                self._let_go.remove(lane)

    async def _strike(self, lane: Lane, kind: str) -> None:
        """Stop a statement at a gate: cancelled, its backend terminated, or its client gone without the server knowing."""
        keeper = self.stage.keeper
        self.trace.append(f"{lane.number}:{kind}")
        self.counts.killed += kind != "cancel"
        lane.arrived.clear()
        lane.state = "running"
        if kind == "vanish":
            assert lane.connection is not None
            lane.connection.terminate()
            self._ghosts.append(lane)
            return
        function = "pg_cancel_backend($1)" if kind == "cancel" else "pg_terminate_backend($1, 5000)"
        assert await keeper.connection.fetchval(f"SELECT {function}", lane.pid)
        await lane.arrived.wait()
        await keeper.hold(lane)

    async def _release(self, lane: Lane) -> None:
        """A backend whose client is gone goes on to the end of its statement, and then notices."""
        self.trace.append(f"{lane.number}:ghost")
        await self.stage.keeper.open_all(lane)
        self._let_go.append(lane)

    async def _finish_prepared(self, name: str) -> None:
        events, _ = self.prepared.pop(name)
        commits = self.chance.random() < 0.6
        self.trace.append(f"{name}:{commits}")
        await self.stage.keeper.connection.execute(f"{'COMMIT' if commits else 'ROLLBACK'} PREPARED '{name}'")
        self._ended(events, committed=commits)

    async def _crash(self) -> None:
        """Everybody is cut off, prepared transactions stay, and the sequence jumps: forwards, or back over what nobody will commit any more."""
        keeper, self.counts.crashes = self.stage.keeper, self.counts.crashes + 1
        self.trace.append("crash")
        alive = [lane for lane in self._tasks if lane.state != "free" and lane not in self._ghosts]
        for lane in alive:
            lane.arrived.clear()
        if self.stage.really_crash is not None:
            await self.stage.really_crash()
            await self.stage.open()
        else:
            for lane in [*alive, *self._ghosts]:
                await keeper.connection.fetchval("SELECT pg_terminate_backend($1, 5000)", lane.pid)
                await keeper.hold(lane)
            drawn = await keeper.connection.fetchval("SELECT last_value FROM headwater.global_position_seq")
            stored = await keeper.connection.fetchval("SELECT coalesce(max(global_position), 0) FROM headwater.events")
            kept = max(self.base, stored, *(position for _, position in self.prepared.values()), 1)
            jumped = drawn + self.chance.randint(1, 32) if self.chance.random() < 0.5 else min(kept, drawn)
            await keeper.connection.execute("SELECT setval('headwater.global_position_seq', $1)", jumped)
        self._ghosts.clear()
        self._let_go.clear()
        for lane in alive:
            if lane.state == "pause":  # its script learns it from the next statement
                lane.arrived.set()

    # -- the scripts

    async def _write(self, lane: Lane, index: int) -> None:
        chance = random.Random(f"writer {self.seed} {index}")
        stream_name = f"step-{self.seed}" + (f"x{index}" if chance.random() < 0.8 else "shared")
        store = PostgresEventStore(LaneDatabase(lane))
        for number in range(chance.randint(1, 2)):
            events: list[NewEvent] = []
            await lane.pause()
            try:
                if chance.random() < 0.25:
                    events += new_events(chance)
                    await store.append(stream_name, events, expected_version=ANY)
                    self._ended(events, committed=True)
                else:
                    await self._transaction(lane, store, chance, stream_name, events, f"{self.seed} {index} {number}")
            except CUT_SHORT:
                # The statement of a client that vanished commits by itself; what was cut off in a transaction is gone.
                if lane in self._ghosts:
                    self.unknown.append({event.event_id for event in events})
                    return
                self._ended(events, committed=False)
                await lane.pause()
                with contextlib.suppress(*CUT_SHORT):
                    await (await lane.connect()).execute("ROLLBACK")

    async def _transaction(
        self, lane: Lane, store: PostgresEventStore, chance: random.Random, stream_name: str, events: list[NewEvent], name: str
    ) -> None:
        """One transaction of one or two appends; what is to be stored by it is added to `events`."""
        connection = await lane.connect()
        await connection.execute("BEGIN" if chance.random() < 0.7 else "BEGIN; SET LOCAL gates.stops = ''")
        position = 0
        # In the order of their names, so that two transactions never wait for each other.
        for each in [stream_name, f"{stream_name}-2"][: chance.choice((1, 1, 2))]:
            await lane.pause()
            if chance.random() < 0.15:
                await self._undone(lane, connection, store, each, new_events(chance))
            more = new_events(chance)
            events += more
            position = (await store.append(each, more, expected_version=ANY, connection=connection)).global_position
        await lane.pause()
        await self._end(connection, chance.random(), events, position, name)

    async def _undone(
        self, lane: Lane, connection: asyncpg.Connection, store: PostgresEventStore, stream_name: str, events: list[NewEvent]
    ) -> None:
        self.aborted.update(event.event_id for event in events)
        await connection.execute("SAVEPOINT here")
        await store.append(stream_name, events, expected_version=ANY, connection=connection)
        await connection.execute("ROLLBACK TO SAVEPOINT here")
        await lane.pause()

    async def _end(self, connection: asyncpg.Connection, fate: float, events: list[NewEvent], position: int, name: str) -> None:
        if fate < 0.15:
            await connection.execute("ROLLBACK")
            self._ended(events, committed=False)
        elif fate < 0.3:
            await connection.execute(f"PREPARE TRANSACTION '{name}'")
            self.prepared[name] = events, position
            self.counts.prepared += 1
        else:
            await connection.execute("COMMIT")
            self._ended(events, committed=True)

    async def _read(self, lane: Lane) -> None:
        reader = Reader(round(PAGE_SIZE_MAX ** self.chance.random()), self.base)
        self.readers.append(reader)
        store = PostgresEventStore(LaneDatabase(lane))
        while True:
            await lane.pause()
            try:
                log = await store.read_log(after=reader.after, limit=reader.page_size)
            except CUT_SHORT:
                self.counts.readers_killed += 1
                if lane in self._ghosts:
                    await self._while_ghost(lane)
                continue
            self.counts.reads += 1
            reader.take([(event.global_position, event.stream_name, event.version, event.event_id) for event in log.events], log.horizon)

    async def _while_ghost(self, lane: Lane) -> None:
        while lane in self._ghosts:
            await lane.pause()

    def _ended(self, events: list[NewEvent], *, committed: bool) -> None:
        (self.committed if committed else self.aborted).update(event.event_id for event in events)
        self.counts.committed += committed
        self.counts.aborted += not committed

    # -- the end

    async def _finish(self) -> None:
        """Let the readers read on to the end of the log, undisturbed, and compare."""
        self._raise_failures()
        connection = self.stage.keeper.connection
        log = [tuple(row) for row in await connection.fetch(LOG_AFTER, self.base)]
        self.counts.events = len(log)
        await self._clean_up()
        store = PostgresEventStore(_Direct(connection, self.stage.lanes[0]))
        for reader in self.readers:
            while (rest := await store.read_log(after=reader.after, limit=reader.page_size)).events:
                reader.take([(e.global_position, e.stream_name, e.version, e.event_id) for e in rest.events], rest.horizon)
            assert reader.seen == log, f"skipped {sorted(set(log) - set(reader.seen))}, repeated or not there {len(reader.seen) - len(log)}"
        stored = {row[3] for row in log}
        assert self.committed <= stored, "an acknowledged append is not in the log"
        assert not self.aborted & stored, "an aborted append is in the log"
        assert all(ids <= stored or not ids & stored for ids in self.unknown), "half of an append is in the log"
        versions: dict[str, list[int]] = {}
        for _, stream_name, version, _ in log:
            versions.setdefault(stream_name, []).append(version)
        assert all(found == list(range(1, len(found) + 1)) for found in versions.values()), "holes in a stream's versions, or out of order"

    def _raise_failures(self) -> None:
        for task in self._tasks.values():
            if task.done() and not task.cancelled() and task.exception() is not None:
                task.result()

    async def _clean_up(self) -> None:
        """Make every lane idle for the next interleaving, whatever it was doing."""
        busy = [lane for lane in self._tasks if lane.state not in {"free", "pause"} or lane.is_in_transaction()]
        for task in self._tasks.values():
            task.cancel()
        for lane in busy:
            if lane.connection is not None and not lane.connection.is_closed():
                lane.connection.terminate()
            await self.stage.keeper.connection.fetchval("SELECT pg_terminate_backend($1, 5000)", lane.pid)
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        for lane in self.stage.lanes:
            lane.state = "free"
            await self.stage.keeper.hold(lane)
        for name in list(self.prepared):
            await self.stage.keeper.connection.execute(f"ROLLBACK PREPARED '{name}'")
        self.prepared.clear()


class _Direct(LaneDatabase):
    """The scheduler's own connection, which passes every gate."""

    def __init__(self, connection: asyncpg.Connection, lane: Lane) -> None:
        super().__init__(lane)
        self._own = connection

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        yield self._own

    statement_connection = connection


def new_events(chance: random.Random) -> list[NewEvent]:
    return [NewEvent("Happened", "{}", event_id=uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(chance.randint(1, 3))]

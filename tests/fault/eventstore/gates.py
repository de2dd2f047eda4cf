"""Gates between the statements of Headwater's SQL functions, at which a backend waits until a scheduler lets it go on.

A gate tells its client with a notice that it was reached, and then waits for an advisory lock that the scheduler's own connection holds. The locks use
PostgreSQL's two-number keys, which the log's append locks do not, so the horizon never sees them. Each lane (one connection at a time) has two locks and
uses them in turn: the scheduler takes the next one before it lets go of this one, so no gate is ever missed.

A lane stops only at the gates that its session's setting `gates.stops` names, one digit for each.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import asyncpg

from headwater.postgres import Database, translate_errors
from headwater.postgres.connections import SESSION_SETTINGS

LANES = 8
NOTICE = "gate "

CREATE_GATES = f"""
CREATE SCHEMA gates;
-- Unlogged and never rolled back: the turn goes on when a transaction does not.
DO $do$ BEGIN FOR lane IN 0..{LANES - 1} LOOP EXECUTE format('CREATE UNLOGGED SEQUENCE gates.lane_%s MINVALUE 0', lane); END LOOP; END $do$;
-- Without a lock timeout: the function that is paused may have one, and a pause is no wait of its own.
CREATE FUNCTION gates.wait(place int) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = 0 AS $$
DECLARE
    lane int;
    turn bigint;
BEGIN
    IF substr(current_setting('gates.stops', true), place + 1, 1) IS DISTINCT FROM '1' THEN RETURN; END IF;
    lane := current_setting('gates.lane')::int;
    turn := nextval('gates.lane_' || lane);
    RAISE NOTICE 'gate % %', turn, place;
    PERFORM pg_advisory_lock(lane, (turn % 2)::int);
    PERFORM pg_advisory_unlock(lane, (turn % 2)::int);
END $$;
CREATE FUNCTION gates.open(lane int, turn int, must_lock bool) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF must_lock THEN PERFORM pg_advisory_lock(lane, (turn + 1) % 2); END IF;
    PERFORM pg_advisory_unlock(lane, turn % 2);
END $$;
"""
FUNCTION_TEXTS = """
SELECT proname, pg_get_functiondef(oid) AS text FROM pg_proc
 WHERE pronamespace = 'headwater'::regnamespace AND prolang = (SELECT oid FROM pg_language WHERE lanname = 'plpgsql') AND provolatile = 'v'
 ORDER BY proname"""


async def install_gates(dsn: str) -> list[str]:
    """Put a gate after every statement of the log's functions; the name of each gate, by its place."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(CREATE_GATES)
        places: list[str] = []
        for row in await connection.fetch(FUNCTION_TEXTS):
            await connection.execute(with_gates(row["proname"], row["text"], places))
        return places
    finally:
        await connection.close()


def with_gates(name: str, text: str, places: list[str]) -> str:
    """The function with a gate at its beginning and after every line that ends a statement; each is added to `places`."""
    lines, began = [], False
    for line in text.splitlines():
        lines.append(line)
        code = line.partition("--")[0].strip()
        begins = not began and code == "BEGIN"
        began = began or begins
        if begins or (began and code.endswith(";")):
            lines.append(f"PERFORM gates.wait({len(places)});")
            places.append(f"{name}: after {code}")
    return "\n".join(lines)


class Lane:
    """One connection that is stepped: it runs until it comes to a gate, to a pause of its script, or to the end."""

    def __init__(self, number: int, dsn: str) -> None:
        self.number, self.dsn = number, dsn
        self.state: Literal["free", "running", "pause", "gate", "blocked"] = "free"
        self.turn = 0
        self.stops_at = ""
        self.stops: Counter[int] = Counter()
        """How often it stopped at each place."""
        self.arrived = asyncio.Event()
        self._resume: asyncio.Future[None] | None = None
        self.connection: asyncpg.Connection | None = None
        self.pid = 0

    async def connect(self) -> asyncpg.Connection:
        """The lane's connection; a new one when the old one is gone."""
        if self.connection is None or self.connection.is_closed():
            gates = {"gates.lane": str(self.number), "gates.stops": self.stops_at}
            self.connection = await asyncpg.connect(self.dsn, server_settings={**gates, **SESSION_SETTINGS})
            self.connection.add_log_listener(self._heard)
            self.pid = self.connection.get_server_pid()
        return self.connection

    async def stop_at(self, stops_at: str) -> None:
        """Stop at these gates from now on: a 1 for each where it does."""
        self.stops_at = stops_at
        await (await self.connect()).execute(f"SET gates.stops = '{stops_at}'")

    def is_in_transaction(self) -> bool:
        return self.connection is not None and not self.connection.is_closed() and self.connection.is_in_transaction()

    async def pause(self) -> None:
        """A point of the script at which the scheduler may let others go first."""
        self._resume = asyncio.get_running_loop().create_future()
        self._arrive("pause")
        await self._resume

    def resume(self) -> None:
        assert self._resume is not None
        self._resume.set_result(None)

    def finish(self) -> None:
        """The script is over."""
        self._arrive("free")

    def _heard(self, connection: Any, message: Any) -> None:
        if connection is self.connection and str(message.message).startswith(NOTICE):
            self.turn, place = (int(number) for number in message.message.removeprefix(NOTICE).split())
            self.stops[place] += 1
            self._arrive("gate")

    def _arrive(self, state: Literal["pause", "gate", "free"]) -> None:
        self.state = state
        self.arrived.set()


class LaneDatabase(Database):
    """A `Database` whose every connection is the lane's."""

    def __init__(self, lane: Lane) -> None:
        super().__init__(lane.dsn)
        self._lane = lane

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        with translate_errors():
            yield await self._lane.connect()

    statement_connection = connection

    @property
    def is_open(self) -> bool:
        return True

    async def connect(self) -> Any:
        with translate_errors():
            return await self._lane.connect()

    async def compare_log(self, connection: Any) -> None:
        """The server stays the same, and the comparison would want a second connection."""


class GateKeeper:
    """Holds the gates' locks, and lets one lane through one gate at a time."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.pid = connection.get_server_pid()
        self._held: set[tuple[int, int]] = set()

    async def hold(self, lane: Lane) -> None:
        """Close both gates of a lane that runs nothing."""
        for parity in (0, 1):
            if (lane.number, parity) not in self._held:
                await self.connection.execute("SELECT pg_advisory_lock($1, $2)", lane.number, parity)
                self._held.add((lane.number, parity))

    async def open(self, lane: Lane) -> None:
        """Let the lane through the gate at which it waits; the next one is closed."""
        this, following = (lane.number, lane.turn % 2), (lane.number, (lane.turn + 1) % 2)
        await self.connection.execute("SELECT gates.open($1, $2, $3)", lane.number, lane.turn % 2, following not in self._held)
        self._held.discard(this)
        self._held.add(following)

    async def open_all(self, lane: Lane) -> None:
        """Let whatever runs in the lane go on to its end."""
        for parity in (0, 1):
            if (lane.number, parity) in self._held:
                await self.connection.execute("SELECT pg_advisory_unlock($1, $2)", lane.number, parity)
                self._held.discard((lane.number, parity))

    async def is_blocked(self, lane: Lane) -> bool:
        """Whether the lane waits for a lock of another lane, or of a prepared transaction."""
        blockers = await self.connection.fetchval("SELECT pg_blocking_pids($1)", lane.pid)
        return bool(blockers) and self.pid not in blockers

    async def gone(self, lane: Lane) -> bool:
        """Wait until the lane's backend has ended; False when it waits for a lock instead."""
        while await self.connection.fetchval("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", lane.pid):
            if await self.is_blocked(lane):
                return False
            await asyncio.sleep(0.001)
        return True

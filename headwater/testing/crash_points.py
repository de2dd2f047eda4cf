"""Every place at which a call can be cut short, tried one after the other.

A scenario runs once undisturbed, to list its statements and its awaits. Then it runs again for each of them:

- **killed** at each statement: before the server sees it, right after it was sent, and when it is done but its reply is lost;
- **cut off** there in the same three ways: one connection breaks, the process goes on;
- **cancelled** at each await of each of its callers: while it waits, and when the answer has just come; and as each statement is on its way, whichever
  task sent it.

After each the scenario recovers, as its promise says (an append: repeat it with the same event ids), and checks that nothing is there by halves or
twice. The tool itself checks that no transaction, no lock and no connection is left, and that the pool is whole.

A kill here closes the sockets of the scenario without a word and lets nothing more through, and the rest of its run is thrown away. That is what a
server sees of a SIGKILL: what a client does between two statements never leaves its process, and the kernel closes the sockets of a dead one.
(Headwater's own tests hold this against real kills.)
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from typing import Any, ClassVar, Final

from headwater.errors import StorageUnavailable
from headwater.postgres import Connection, Database
from headwater.randomness import token_hex
from headwater.testing.leftovers import nobody_connected, nothing_left_open, pool_is_whole
from headwater.testing.postgres_proxy import Cut, PostgresProxy, Statement
from headwater.testing.stepping import Moment, Stepper

CONNECTIONS_MAX: Final = 3
"""The size of a scenario's pool; small, so that a connection that was not given back is missed."""
RUN_SECONDS_MAX: Final = 60.0
"""How long one run may take before it counts as stuck."""
_DRIVER_ROLLS_BACK: Final = "Resetting connection with an active transaction"
"""What asyncpg says, and then does, when a cancelled COMMIT did not come through."""


class Fault(StrEnum):
    """What happens at a point."""

    KILL = "killed"
    CONNECTION = "cut off"
    CANCEL = "cancelled"


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """One fault at one place; `number` counts statements, or awaits, from 1."""

    fault: Fault
    number: int
    when: Cut | Moment
    place: str = field(default="", compare=False)

    def __str__(self) -> str:
        kind = "await" if self.when in {Moment.WAITING, Moment.ANSWERED} else "statement"
        return f"{self.fault} at {kind} {self.number}, {self.when}" + (f" ({self.place})" if self.place else "")


@dataclass(frozen=True, slots=True)
class CrashReport:
    """What was tried."""

    statements: tuple[str, ...]
    awaits: tuple[str, ...]
    points: tuple[CrashPoint, ...]
    unreached: tuple[CrashPoint, ...]
    """Points of the undisturbed run that did not come again; where tasks run beside each other a few may not."""

    def count(self, fault: Fault) -> int:
        return sum(point.fault is fault for point in self.points)

    def __str__(self) -> str:
        counts = ", ".join(f"{fault} {self.count(fault)} times" for fault in Fault)
        return f"{len(self.statements)} statements, {len(self.awaits)} awaits: {counts}; {len(self.unreached)} not reached again"


class Callers:
    """Runs callers beside each other, each of whom may be the one that is cancelled."""

    def __init__(self, stepper: Stepper) -> None:
        self._stepper = stepper

    async def together(self, *callers: Coroutine[Any, Any, Any]) -> list[Any]:
        """Their results or errors, in their order; a caller that was cancelled leaves a `CancelledError` and touches no other."""
        try:
            return await asyncio.gather(*(self._stepper.watch(caller) for caller in callers), return_exceptions=True)
        finally:
            for caller in callers:  # those that were cancelled before their first step
                caller.close()


class CrashScenario:
    """A call to be cut short everywhere. Made anew for each run; all runs share a database, so use names of your own for each.

    `prepare` → `act`, in which the fault strikes → `recover` → `check`. Each gets an open `Database`; the one of `recover` is the one of `act` where the
    process lived on, and a new one where it was killed.
    """

    errors: ClassVar[tuple[type[Exception], ...]] = (StorageUnavailable,)
    """What `act` may raise when a connection breaks."""

    async def prepare(self, database: Database) -> None:
        """What is there before; undisturbed."""

    async def act(self, database: Database, callers: Callers) -> None:
        """What is cut short."""
        raise NotImplementedError

    async def recover(self, database: Database) -> None:
        """What a caller, or the next process, does about it; undisturbed."""

    async def check(self, database: Database) -> None:
        """Assert that all is as if nothing had happened."""
        raise NotImplementedError


Scenario = Callable[[], CrashScenario]


async def check_crash_points(scenario: Scenario, dsn: str) -> CrashReport:
    """Run the scenario once undisturbed and once for every point.

    Args:
        scenario: makes a fresh one; usually its class.
        dsn: a migrated database that nobody else uses meanwhile, on a server that takes connections without TLS.
    Raises:
        AssertionError: at some point something was left, lost or stored by halves; it names the point, for `run_crash_point` to repeat.
    """
    points: list[CrashPoint] = []
    unreached: list[CrashPoint] = []
    async with _undisturbed_database(dsn) as direct:
        undisturbed = await _run_named(scenario, direct, None)
        for places, series in _all_series(undisturbed):
            for number in count(1):
                place = places[number - 1] if number <= len(places) else "beyond the undisturbed run"
                point = CrashPoint(series.fault, number, series.when, place)
                if (await _run_named(scenario, direct, point)).was_reached:
                    points.append(point)
                elif number > len(places):
                    break
                else:
                    unreached.append(point)
    return CrashReport(tuple(undisturbed.statements), tuple(undisturbed.awaits), tuple(points), tuple(unreached))


async def run_crash_point(scenario: CrashScenario, dsn: str, point: CrashPoint | None) -> CrashRun:
    """Run the scenario with one fault, or with none; see `check_crash_points`."""
    async with _undisturbed_database(dsn) as direct:
        return await _run(scenario, direct, point)


@asynccontextmanager
async def _undisturbed_database(dsn: str) -> AsyncGenerator[Database]:
    """What prepares and checks, past the proxy; asyncio's complaints of errors that nobody was left to hear are kept back meanwhile."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def hear(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        is_expected = isinstance(error, (OSError, StorageUnavailable)) or type(error).__module__.startswith("asyncpg.")
        if not is_expected and not str(context.get("message")).startswith(_DRIVER_ROLLS_BACK):
            (before or type(loop).default_exception_handler)(loop, context)

    loop.set_exception_handler(hear)
    try:
        async with Database(dsn, connections_max=2, application_name="crash-points") as direct:
            yield direct
    finally:
        gc.collect()  # Futures complain when they are collected.
        loop.set_exception_handler(before)


async def _run(scenario: CrashScenario, direct: Database, point: CrashPoint | None) -> CrashRun:
    run = CrashRun(scenario, point)
    async with asyncio.timeout(RUN_SECONDS_MAX):
        await scenario.prepare(direct)
        async with direct.connection() as observer:
            if point is not None and point.fault is Fault.KILL:
                await run.killed(direct.dsn, observer)
            else:
                await run.disturbed(direct.dsn, observer)
            await nothing_left_open(observer)
            await nobody_connected(observer, run.application_name)
        await scenario.check(direct)
    return run


class CrashRun:
    """One run of a scenario: what it did, and whether it came to its point."""

    def __init__(self, scenario: CrashScenario, point: CrashPoint | None) -> None:
        self._scenario, self._point = scenario, point
        moment = point.when if point is not None and isinstance(point.when, Moment) else Moment.SENT
        self._stepper = Stepper(cancel_at=point.number if point is not None and moment is not Moment.SENT else None, moment=moment)
        self.application_name = f"crash-point-{token_hex(6)}"
        self.statements: list[str] = []
        """What was sent during `act`."""
        self.was_reached = False
        self._is_acting = True

    @property
    def awaits(self) -> list[str]:
        """Where the awaits of `act` stood."""
        return self._stepper.awaits

    async def killed(self, dsn: str, observer: Connection) -> None:
        """Act until the kill, throw the rest away, and recover as the next process would."""
        async with self._proxied(dsn, kills=True) as (proxy, database):
            acting = asyncio.create_task(self._act(database))
            struck = asyncio.create_task(proxy.was_cut.wait())
            await asyncio.wait({acting, struck}, return_when=asyncio.FIRST_COMPLETED)
            self.was_reached = proxy.was_cut.is_set()
            acting.cancel()
            struck.cancel()
            await asyncio.gather(acting, struck, return_exceptions=True)
        if not self.was_reached and not acting.cancelled():
            acting.result()
        await nothing_left_open(observer, self.application_name)
        await nobody_connected(observer, self.application_name)
        async with Database(dsn, application_name=self.application_name) as fresh:
            await self._scenario.recover(fresh)

    async def disturbed(self, dsn: str, observer: Connection) -> None:
        """Act with a broken connection or a cancellation, if any, and recover in the same process."""
        async with self._proxied(dsn, kills=False) as (proxy, database):
            acting = asyncio.create_task(self._stepper.watch(self._act(database)))
            await asyncio.wait({acting})
            self._is_acting = False
            self.was_reached = proxy.was_cut.is_set() or self._stepper.cancelled is not None
            self.statements = [statement.text for statement in proxy.statements]
            self._judge(acting)
            await nothing_left_open(observer, self.application_name)
            await database.open()
            await pool_is_whole(database, CONNECTIONS_MAX)
            await self._scenario.recover(database)

    def _judge(self, acting: asyncio.Task[None]) -> None:
        if (cancelled := self._stepper.cancelled) is not None:
            assert cancelled.cancelled(), f"the cancellation was swallowed: {cancelled!r}"
        error = None if acting.cancelled() else acting.exception()
        if error is not None and not (self._point is not None and isinstance(error, self._scenario.errors)):
            raise AssertionError(f"it raised {error!r}") from error

    async def _act(self, database: Database) -> None:
        # Connecting is part of what is cut short.
        await database.open()
        await self._scenario.act(database, Callers(self._stepper))

    @asynccontextmanager
    async def _proxied(self, dsn: str, *, kills: bool) -> AsyncGenerator[tuple[PostgresProxy, Database]]:
        async with PostgresProxy(dsn, plan=self._plan, kills=kills) as proxy:
            database = Database(proxy.dsn, connections_max=CONNECTIONS_MAX, application_name=self.application_name)
            try:
                yield proxy, database
            finally:
                with suppress(StorageUnavailable):
                    await database.close()

    def _plan(self, statement: Statement) -> Cut | None:
        point = self._point
        if not self._is_acting or point is None or point.number != statement.number:
            return None
        if point.when is Moment.SENT:
            self._stepper.cancel_one(point.number)
        return point.when if isinstance(point.when, Cut) else None


def _all_series(undisturbed: CrashRun) -> Iterator[tuple[list[str], CrashPoint]]:
    """Every kind of fault, with the places at which it is to strike."""
    for fault in (Fault.KILL, Fault.CONNECTION):
        for cut in Cut:
            yield undisturbed.statements, CrashPoint(fault, 0, cut)
    for moment in Moment:
        yield undisturbed.statements if moment is Moment.SENT else undisturbed.awaits, CrashPoint(Fault.CANCEL, 0, moment)


async def _run_named(scenario: Scenario, direct: Database, point: CrashPoint | None) -> CrashRun:
    try:
        return await _run(scenario(), direct, point)
    except Exception as error:
        raise AssertionError(f"{point or 'undisturbed'}: {type(error).__name__}: {error}") from error

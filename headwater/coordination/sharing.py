"""Sharing a fixed set of items among any number of processes, without configuration.

Every item has a lease. Members announce themselves by leases, too: as many numbered places as there are items, of which each member holds one;
more members than items wait for a place. Everybody who looks at the held places computes the same fair shares: as equal as whole items allow,
the larger ones in the order of the places. A member with less than its share takes items that are free; one with more asks its own work to end
and then gives items back. Nobody takes what another holds.

So a member that ends cleanly is replaced at the next look (`POLL_SECONDS`), one that died or froze when its leases have run out.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.coordination.holding import Holding, SharedWork
from headwater.coordination.ports import Leases
from headwater.coordination.values import Lease, LeaseFacts, check_lease
from headwater.errors import HeadwaterError, UsageError
from headwater.randomness import SYSTEM_RANDOMNESS, Randomness
from headwater.telemetry import logger
from headwater.waiting import first_of

LEASE_SECONDS: Final = 6.0
"""What a member that died or froze held is taken over after this."""
LEASE_RENEWALS: Final = 3
"""How often a lease is renewed in its time."""
POLL_SECONDS: Final = 0.5
"""How often a member looks at what the others hold."""
POLLS_PER_LEASE_MIN: Final = 6
"""With shorter leases it looks more often."""
DRAIN_SECONDS_MAX: Final = 5.0
"""How long work may take to end when the whole share ends; then it is cancelled."""
RELEASE_SECONDS_MAX: Final = 2.0
"""How long giving a lease back may take; it runs out by itself otherwise."""
CANCEL_AGAIN_SECONDS: Final = 5.0
"""How long work that was cancelled may take to clean up; if it goes on then, it is cancelled again."""

_log = logger("coordination")


@dataclass(slots=True)
class _Place:
    """Where this member stands among the others."""

    number: int
    lease: Lease
    valid_until: float


class LeaseShare:
    """One member's part in sharing a fixed set of items; every process makes its own, with the same group and items."""

    def __init__(
        self,
        leases: Leases,
        work: SharedWork,
        *,
        group: str,
        items: Sequence[str],
        member: str | None = None,
        lease_seconds: float = LEASE_SECONDS,
        drain_seconds_max: float = DRAIN_SECONDS_MAX,
        clock: Clock = SYSTEM_CLOCK,
        randomness: Randomness = SYSTEM_RANDOMNESS,
    ) -> None:
        """Put it together; nothing happens before `run`.

        Args:
            work: done with each item while it is held, in a task of its own.
            group: the name of what is shared; leases of the items are named `<group>/items/<item>`.
            items: what is shared, the same in every member of the group.
            member: a name that this process keeps over restarts, unique in the group: killed and started again, it need not wait until its own
                leases run out. By default one of its own, with the host's name and the process's number.
            lease_seconds: what a dead member held is free after this.
        Raises:
            UsageError: no items, the same item twice, or names that leases cannot have.
        """
        self._items = tuple(items)
        if not self._items or not all(self._items) or len(set(self._items)) != len(self._items):
            raise UsageError(
                f"the items that {group!r} shares must be at least one, all different and none empty; they are {list(self._items)[:10]}"
            )
        self._name = member or member_name(randomness)
        for item in self._items:
            check_lease(item_lease_name(group, item), self._name, lease_seconds)
        self._leases, self._work, self._group = leases, work, group
        self._lease_seconds, self._drain_seconds_max = lease_seconds, drain_seconds_max
        self._poll_seconds = min(POLL_SECONDS, lease_seconds / POLLS_PER_LEASE_MIN)
        self._clock, self._randomness = clock, randomness
        self._member = self._name
        self._stopping, self._wake = asyncio.Event(), asyncio.Event()
        self._place: _Place | None = None
        self._holdings: dict[str, Holding] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._rests_until: dict[str, float] = {}
        self._renew_at = clock.monotonic()
        self._is_failing = False

    @property
    def member(self) -> str:
        """Its name as a holder of leases; another one after somebody else appeared under the first."""
        return self._member

    @property
    def holdings(self) -> tuple[Holding, ...]:
        """What it holds now, recalled items included."""
        return tuple(self._holdings.values())

    def look_now(self) -> None:
        """Ask the store at once which leases are still held; for whoever was refused somewhere by a later term."""
        self._renew_at = self._clock.monotonic()
        self._wake.set()

    async def run(self) -> None:
        """Take part until cancelled; an unreachable store is told as a fact and asked again, for ever.

        Cancelling recalls every item, waits for the work on them, at most `drain_seconds_max`, and gives everything back, so that others take over
        at once. Cancelled a second time, it drops everything as it is.
        """
        self._stopping.clear()
        worker = asyncio.create_task(self._take_part(), name=f"headwater-share-{self._group}")
        try:
            await asyncio.shield(worker)
        finally:
            self._stopping.set()
            self._wake.set()
            try:
                await asyncio.wait({worker})
            finally:
                worker.cancel()
                await asyncio.gather(worker, return_exceptions=True)

    # -- the round ----------------------------------------------------------------------------------------------------

    async def _take_part(self) -> None:
        try:
            while not self._stopping.is_set():
                await self._round(self._look_and_balance)
                await self._pause(self._poll_seconds * self._randomness.uniform(0.5, 1.0))
            await self._leave()
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _round(self, step: Callable[[], Awaitable[None]]) -> None:
        """One step with the store; what it could not do is done in the next round, or not at all when leases run out meanwhile."""
        try:
            async with asyncio.timeout(self._lease_seconds):
                await step()
            self._is_failing = False
        except (HeadwaterError, TimeoutError) as error:
            if not self._is_failing:
                _log.warning("leases_unreachable", group=self._group, member=self._member, error=type(error).__name__, reason=str(error))
            self._is_failing = True

    async def _look_and_balance(self) -> None:
        await self._renew()
        known = {facts.name: facts for facts in await self._leases.list(f"{self._group}/")}
        await self._find_place(known)
        if self._place is not None:
            await self._balance(known)

    async def _renew(self) -> None:
        asked_at = self._clock.monotonic()
        if self._place is not None and asked_at >= self._place.valid_until:
            self._place = None
        if asked_at < self._renew_at or not (self._holdings or self._place):
            return
        holdings = {holding.lease.name: holding for holding in self._holdings.values() if not holding.has_ended}
        place = self._place
        asked = [holding.lease for holding in holdings.values()] + ([place.lease] if place else [])
        renewed = {lease.name: lease for lease in await self._leases.renew(asked, self._lease_seconds)}
        valid_until = asked_at + self._lease_seconds
        self._renew_at = asked_at + self._lease_seconds / LEASE_RENEWALS
        refused = [holding for name, holding in holdings.items() if name not in renewed and not (holding.has_ended or holding.is_lost)]
        for holding in refused:
            holding.lose()
        for name, lease in renewed.items():
            if name in holdings:
                holdings[name].extend(lease, valid_until)
        if place is not None:
            kept = renewed.get(place.lease.name)
            self._place = _Place(place.number, kept, valid_until) if kept is not None else None
        if refused or (place is not None and self._place is None):
            # Perhaps to one of our own name, started when this process was taken for dead: from now on we are somebody else.
            self._member = f"{self._name}~{self._randomness.uuid7().hex[-8:]}"

    async def _find_place(self, known: dict[str, LeaseFacts]) -> None:
        """Take the first free place among the members, if this one has none."""
        for number in range(len(self._items)):
            if self._place is not None:
                return
            name = self._place_name(number)
            if self._is_free(known.get(name)):
                asked_at = self._clock.monotonic()
                lease = await self._leases.acquire(name, self._member, self._lease_seconds)
                if lease is not None:
                    self._place = _Place(number, lease, asked_at + self._lease_seconds)

    async def _balance(self, known: dict[str, LeaseFacts]) -> None:
        assert self._place is not None, "only members with a place have a share"
        first, share = self._fair_share(known, self._place.number)
        # In an order of its own, so that members that come at the same time do not try for the same items.
        order = self._items[first:] + self._items[:first]
        active = [item for item in order if (holding := self._holdings.get(item)) is not None and not holding.recalled.is_set()]
        for item in active[share:]:
            self._recall(self._holdings[item])
        missing = share - len(active)
        for item in order:
            if missing > 0 and self._may_take(item, known.get(item_lease_name(self._group, item))):
                missing -= await self._take(item)

    def _fair_share(self, known: dict[str, LeaseFacts], own: int) -> tuple[int, int]:
        """How many items belong to the members before this one, and how many to itself."""
        places = [n for n in range(len(self._items)) if n == own or ((facts := known.get(self._place_name(n))) and facts.is_held)]
        share, larger = divmod(len(self._items), len(places))
        rank = places.index(own)
        return share * rank + min(rank, larger), share + (rank < larger)

    def _may_take(self, item: str, facts: LeaseFacts | None) -> bool:
        return item not in self._holdings and self._rests_until.get(item, 0.0) <= self._clock.monotonic() and self._is_free(facts)

    def _is_free(self, facts: LeaseFacts | None) -> bool:
        """Whether it can be had; what is held under this member's name and not by this process is left from its life before."""
        return facts is None or not facts.is_held or facts.holder == self._member

    async def _take(self, item: str) -> bool:
        asked_at = self._clock.monotonic()
        lease = await self._leases.acquire(item_lease_name(self._group, item), self._member, self._lease_seconds)
        if lease is None:
            return False
        holding = Holding(item, lease, asked_at + self._lease_seconds, self._clock)
        self._holdings[item] = holding
        self._rests_until.pop(item, None)
        self._tasks[item] = asyncio.create_task(self._hold(holding), name=f"headwater-{self._group}-{item}")
        self._tell("lease_gained", holding)
        return True

    def _recall(self, holding: Holding) -> None:
        if not holding.recalled.is_set():
            holding.recalled.set()
            self._tell("lease_recalled", holding)

    # -- one item -----------------------------------------------------------------------------------------------------

    async def _hold(self, holding: Holding) -> None:
        """Work for as long as the lease lasts; whichever of both ends first ends the other. Then give it back."""
        work = asyncio.ensure_future(self._work(holding))
        try:
            await first_of(asyncio.wait({work}), holding.lost())
            if holding.is_lost or not work.done() or not (holding.is_valid or holding.recalled.is_set()):
                self._tell("lease_lost", holding)
            elif not holding.recalled.is_set():
                self._rests_until[holding.item] = self._clock.monotonic() + self._lease_seconds
        finally:
            holding.lose()
            await self._end(work)
            holding.has_ended = True
            if not work.cancelled() and (error := work.exception()) is not None:
                _log.error(
                    "shared_work_failed", group=self._group, item=holding.item, member=self._member, reason=str(error), exc_info=error
                )
            with suppress(HeadwaterError, TimeoutError):
                async with asyncio.timeout(RELEASE_SECONDS_MAX):
                    await self._leases.release(holding.lease)
            del self._holdings[holding.item], self._tasks[holding.item]
            self._wake.set()

    async def _end(self, work: asyncio.Future[None]) -> None:
        """Cancel it until it ends: a cancellation that meets a failure on its way may be lost in it."""
        while not work.done():
            work.cancel()
            await first_of(asyncio.wait({work}), self._clock.sleep(CANCEL_AGAIN_SECONDS))

    # -- the end ------------------------------------------------------------------------------------------------------

    async def _leave(self) -> None:
        """First the place, so that the others' shares grow; then every item as its work ends."""
        place, self._place = self._place, None
        if place is not None:
            await self._round(lambda: self._leases.release(place.lease))
        for holding in self.holdings:
            self._recall(holding)
        until = self._clock.monotonic() + self._drain_seconds_max
        while self._tasks and (left := until - self._clock.monotonic()) > 0:
            await self._round(self._renew)
            await self._pause(min(left, self._poll_seconds))

    # -- small things -------------------------------------------------------------------------------------------------

    async def _pause(self, seconds: float) -> None:
        """Wait so long, but not longer than until woken: by the end of a work, or of the whole."""
        await first_of(self._clock.sleep(seconds), self._wake.wait())
        self._wake.clear()

    def _place_name(self, number: int) -> str:
        return f"{self._group}/members/{number}"

    def _tell(self, fact: str, holding: Holding) -> None:
        _log.info(fact, group=self._group, item=holding.item, term=holding.lease.term, member=self._member)


def item_lease_name(group: str, item: str) -> str:
    """The name of an item's lease, for whoever fences writes by it."""
    return f"{group}/items/{item}"


def member_name(randomness: Randomness = SYSTEM_RANDOMNESS) -> str:
    """A name for this process that nobody else has and people recognise: its host, its number, and something that differs."""
    return f"{socket.gethostname()[:100]}/{os.getpid()}/{randomness.uuid7().hex[-8:]}"

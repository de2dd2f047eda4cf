"""Items shared among members that join, end, die and freeze: never two holders, nothing left alone, fair shares."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from headwater.coordination import LEASE_SECONDS, Holding, Lease, LeaseFacts, LeaseShare, item_lease_name
from headwater.coordination.sharing import CANCEL_AGAIN_SECONDS
from headwater.errors import StorageUnavailable, UsageError
from headwater.testing import FakeClock, MemoryLeases
from tests.support import SeededRuns
from tests.unit.coordination.sharing_world import BALANCE_SECONDS, DRAIN_SECONDS_MAX, Member, World

POLL_SECONDS = 0.5
SLACK_SECONDS = 0.5
STEPS = 14


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World(1, items=6)
    yield made
    await made.close()


async def test_whatever_members_do_no_item_has_two_holders_and_none_is_left_alone() -> None:
    for seed in (runs := SeededRuns("sharing", default=8, full=400)):
        world = World(seed, items=seed % 7 + 1)
        steady = world.join("steady")
        try:
            for number in range(STEPS):
                await disturb(world, steady, number)
            for member in world.members:
                member.body.thaw() if not member.is_dead else None
            await world.advance(BALANCE_SECONDS)
            assert world.counts() == fair_with_spares(world)
        finally:
            await world.close()
        runs.record(seed, {"taken": world.taken_count, "longest_gap_seconds": round(world.longest_gap, 1)})
    assert runs.total("taken") > 100


def fair_with_spares(world: World) -> list[int]:
    """Members beyond the number of items wait with nothing."""
    members = len(world.counts())
    share, larger = divmod(len(world.items), min(members, len(world.items)))
    return [share + (rank < larger) if rank < len(world.items) else 0 for rank in range(members)]


async def disturb(world: World, steady: Member, number: int) -> None:
    """One thing that happens, and some time."""
    chance = world.chance
    others = [member for member in world.members if member is not steady and member.is_well]
    match chance.choice(["join", "join", "end", "die", "freeze", "thaw", "again"]):
        case "join" if len(others) < 8:
            world.join(f"member-{number}")
        case "end" if others:
            member = chance.choice(others)
            member.is_ending = True
            member.task.cancel()
        case "die" if others:
            chance.choice(others).die()
        case "freeze" if others:
            chance.choice(others).freeze()
        case "thaw":
            for member in world.members:
                if not member.is_dead:
                    member.body.thaw()
        case "again" if others:
            # Killed and started again under its name, before anybody misses it.
            member = chance.choice(others)
            member.die()
            world.join(member.share.member)
        case _:
            pass
    await world.advance(chance.choice([0.3, 1, 4, 10]))


async def test_a_lone_member_holds_everything_at_once(world: World) -> None:
    world.join("one")
    await world.advance(1)
    assert world.counts() == [6]


async def test_a_member_that_joins_gets_its_share_and_others_keep_theirs(world: World) -> None:
    one = world.join("one")
    await world.advance(1)
    before = {holding.item: holding.lease.term for holding in one.working}
    for name, counts in (("two", [3, 3]), ("three", [2, 2, 2]), ("four", [2, 2, 1, 1])):
        world.join(name)
        await world.advance(2 * POLL_SECONDS + DRAIN_SECONDS_MAX + SLACK_SECONDS)
        assert world.counts() == counts
    kept = {holding.item: holding.lease.term for holding in one.working}
    assert kept.items() <= before.items(), "what stayed was never given up in between"


async def test_what_a_member_held_that_ended_cleanly_is_taken_at_once(world: World) -> None:
    world.join("one")
    two = world.join("two")
    await world.advance(4)
    two.is_ending = True
    two.task.cancel()
    await world.advance(2 * POLL_SECONDS + DRAIN_SECONDS_MAX + SLACK_SECONDS)
    assert two.task.done()
    assert world.counts() == [6]


@pytest.mark.parametrize("is_dead", [True, False])
async def test_what_a_dead_or_frozen_member_held_is_taken_when_its_leases_have_run_out(world: World, is_dead: bool) -> None:
    world.join("one")
    two = world.join("two")
    await world.advance(4)
    held = set(two.working)
    two.die() if is_dead else two.freeze()
    await world.advance(LEASE_SECONDS + 2 * POLL_SECONDS)
    assert world.counts() == [6]
    assert not any(holding.is_valid for holding in held), "it could know, if it looked at its clock"
    if not is_dead:
        two.body.thaw()
        await world.advance(SLACK_SECONDS)
        assert not held & two.working, "its work was cancelled as soon as it thawed"
        await world.advance(BALANCE_SECONDS)
        assert world.counts() == [3, 3]


async def test_a_member_of_the_same_name_takes_its_items_again_at_once(world: World) -> None:
    one = world.join("orders-1")
    world.join("orders-2")
    await world.advance(4)
    held = {holding.item for holding in one.working}
    one.die()
    heir = world.join("orders-1")
    await world.advance(2 * POLL_SECONDS)
    assert {holding.item for holding in heir.working} == held


async def test_members_beyond_the_number_of_items_wait_for_a_place() -> None:
    world = World(3, items=2)
    members = [world.join(name) for name in ("one", "two", "three")]
    await world.advance(4)
    spare, first, _second = sorted(members, key=lambda member: len(member.working))
    assert world.counts() == [1, 1, 0]
    first.die()
    await world.advance(LEASE_SECONDS + 3 * POLL_SECONDS)
    assert len(spare.working) == 1
    await world.close()


class Unreachable(MemoryLeases):
    """A store that can be cut off."""

    is_up = True

    async def acquire(self, name: str, holder: str, seconds: float) -> Lease | None:
        self._reach()
        return await super().acquire(name, holder, seconds)

    async def renew(self, leases: Sequence[Lease], seconds: float) -> Sequence[Lease]:
        self._reach()
        return await super().renew(leases, seconds)

    async def release(self, lease: Lease) -> None:
        self._reach()
        await super().release(lease)

    async def list(self, prefix: str = "") -> Sequence[LeaseFacts]:
        self._reach()
        return await super().list(prefix)

    def _reach(self) -> None:
        if not self.is_up:
            raise StorageUnavailable("cut off")


@pytest.mark.parametrize("cut_seconds", [LEASE_SECONDS / 2, 2 * LEASE_SECONDS])
async def test_a_store_that_cannot_be_reached_costs_the_leases_only_when_they_have_run_out(cut_seconds: float) -> None:
    clock, works = FakeClock(), list[tuple[int, str]]()
    leases = Unreachable(clock=clock)

    async def work(holding: Holding) -> None:
        try:
            await holding.recalled.wait()
        finally:
            works.append((holding.lease.term, "cancelled" if holding.is_lost else "recalled"))

    task = asyncio.create_task(LeaseShare(leases, work, group="test", items=["a"], clock=clock).run())
    await clock.advance(2)
    leases.is_up = False
    await clock.advance(cut_seconds)
    leases.is_up = True
    await clock.advance(5)
    assert works == ([(1, "cancelled")] if cut_seconds > LEASE_SECONDS else [])
    await stop(task, clock)
    assert works[-1][1] == "recalled"
    assert not (await leases.list(item_lease_name("test", "a")))[0].is_held


async def test_work_that_fails_lets_its_item_rest_and_others_go_on() -> None:
    clock = FakeClock()
    begun: list[tuple[str, float]] = []

    async def work(holding: Holding) -> None:
        begun.append((holding.item, clock.monotonic()))
        if holding.item == "bad" and len(begun) < 3:
            raise RuntimeError("by intent")
        await holding.recalled.wait()

    task = asyncio.create_task(LeaseShare(MemoryLeases(clock=clock), work, group="test", items=["good", "bad"], clock=clock).run())
    await clock.advance(2 * LEASE_SECONDS)
    assert [item for item, _ in begun] == ["good", "bad", "bad"]
    assert begun[2][1] - begun[1][1] >= LEASE_SECONDS
    await stop(task, clock)


async def test_work_in_which_a_cancellation_is_lost_is_cancelled_again() -> None:
    """As when a task group has failed at the same moment."""
    clock, lost = FakeClock(), 0
    leases = MemoryLeases(clock=clock)

    async def work(_holding: Holding) -> None:
        nonlocal lost
        while lost < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost += 1

    task = asyncio.create_task(LeaseShare(leases, work, group="test", items=["a"], clock=clock).run())
    await clock.advance(1)
    leases.expire()
    assert await leases.acquire(item_lease_name("test", "a"), "other", 60) is not None
    await clock.advance(LEASE_SECONDS + 2 * CANCEL_AGAIN_SECONDS)
    assert lost == 3
    await stop(task, clock)


async def test_work_that_does_not_end_in_time_is_cancelled_at_the_end() -> None:
    clock, leases = FakeClock(), MemoryLeases()

    async def work(_holding: Holding) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(LeaseShare(leases, work, group="test", items=["a"], clock=clock, drain_seconds_max=3).run())
    await clock.advance(1)
    task.cancel()
    await clock.advance(2.5)
    assert not task.done()
    for _ in range(5):
        await clock.advance(0.2)
    assert task.done()
    assert not any(facts.is_held for facts in await leases.list())


async def test_leases_are_renewed_while_work_is_drained() -> None:
    clock = FakeClock()
    leases = MemoryLeases(clock=clock)
    seen: list[Lease] = []

    async def work(holding: Holding) -> None:
        await holding.recalled.wait()
        await clock.sleep(3 * LEASE_SECONDS)
        seen.append(holding.lease)
        assert holding.is_valid

    task = asyncio.create_task(LeaseShare(leases, work, group="test", items=["a"], clock=clock, drain_seconds_max=60).run())
    await clock.advance(1)
    task.cancel()
    await clock.advance(3 * LEASE_SECONDS - 1)
    assert await leases.acquire(item_lease_name("test", "a"), "other", 1) is None
    for _ in range(5):
        await clock.advance(0.4)
    assert task.done()
    assert [lease.term for lease in seen] == [1]


@pytest.mark.parametrize("items", [[], ["a", "a"], [""], ["x" * 200], ["nul\x00"]])
async def test_items_that_cannot_be_shared_are_refused(items: list[str]) -> None:
    async def work(_holding: Holding) -> None: ...

    with pytest.raises(UsageError, match=r"items|lease"):
        LeaseShare(MemoryLeases(), work, group="test", items=items)


async def stop(task: asyncio.Task[None], clock: FakeClock) -> None:
    task.cancel()
    while not task.done():
        await clock.advance(0.1)
    await asyncio.gather(task, return_exceptions=True)

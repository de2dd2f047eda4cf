"""The owner of parked keys is killed, or paused, replaced and thawed, while keys are being parked and while those behind them are worked off."""

from __future__ import annotations

import asyncio
import signal
import time

from headwater.bus import ParkedDesk, ParkedFilter
from headwater.postgres import Database
from headwater.testing import eventually
from tests.fault.bus.consumer_bed import Bed, end, opened_bed
from tests.support import FULL, full_count, write_evidence

ROUNDS = full_count(1, 20)
PAUSES = full_count(1, 6)
LANE_ROUNDS = full_count(1, 20)
EVENTS_PER_ROUND = 300
POISONED = {"flaky": False, "poison": True}


class Parked:
    """What is parked of a bed, and whether its cause is mended."""

    def __init__(self, bed: Bed) -> None:
        self.bed, self.desk = bed, ParkedDesk(bed.database)

    async def messages(self) -> int:
        return sum(kept.message_count for kept in await self.desk.list(ParkedFilter(group=self.bed.group)))

    async def mend(self) -> None:
        async with self.bed.database.connection() as connection:
            await connection.execute("INSERT INTO mended DEFAULT VALUES")

    async def break_again(self) -> None:
        async with self.bed.database.connection() as connection:
            await connection.execute("DELETE FROM mended")

    async def at_least(self, count: int) -> None:
        async def reached() -> bool:
            return await self.messages() >= count

        await eventually(reached, timeout=60)

    async def at_most(self, count: int) -> None:
        async def reached() -> bool:
            return await self.messages() <= count

        await eventually(reached, timeout=90)


async def test_whatever_is_parked_survives_the_death_of_its_owner(database: Database, kafka_bootstrap: str) -> None:
    """Two members; in every round one is killed while keys are being parked, and one while those behind them follow."""
    began, most = time.monotonic(), 0
    async with opened_bed(database, kafka_bootstrap, seed=11) as bed:
        parked = Parked(bed)
        processes = [await bed.start(**POISONED), await bed.start(**POISONED)]
        try:
            for _ in range(ROUNDS):
                await parked.break_again()
                await bed.feed(EVENTS_PER_ROUND)
                await parked.at_least(bed.chance.randint(1, 60))
                await asyncio.sleep(bed.chance.uniform(0, 0.1))
                await end(processes.pop(bed.chance.randrange(2)))
                processes.append(await bed.start(**POISONED))
                await bed.all_applied()
                waiting = await parked.messages()
                most = max(most, waiting)
                assert waiting >= 2, "poison holds up nothing but its key, and something waits behind it"
                await parked.mend()
                await parked.at_most(bed.chance.randint(waiting // 4, waiting - 1))
                await end(processes.pop(bed.chance.randrange(2)))
                processes.append(await bed.start(**POISONED))
                await parked.at_most(0)
        finally:
            for process in processes:
                await end(process)
        summary = await bed.check()
    summary |= {"kills": 2 * ROUNDS, "parked_at_once": most, "seconds": round(time.monotonic() - began)}
    write_evidence("parking_kills", summary)


async def test_an_owner_paused_while_parked_messages_follow_changes_nothing_once_replaced(database: Database, kafka_bootstrap: str) -> None:
    began, paused_midway = time.monotonic(), 0
    async with opened_bed(database, kafka_bootstrap, seed=12) as bed:
        parked = Parked(bed)
        for _ in range(PAUSES):
            await parked.break_again()
            zombie = await bed.start(**POISONED)
            successor = None
            try:
                await bed.feed(EVENTS_PER_ROUND)
                await bed.all_applied()
                waiting = await parked.messages()
                await parked.mend()
                await parked.at_most(waiting - 1)
                zombie.send_signal(signal.SIGSTOP)
                paused_midway += await parked.messages() > 0
                epochs = await bed.epochs()
                successor = await bed.start(**POISONED)

                async def taken_over(epochs: dict[int, int] = epochs) -> bool:
                    now = await bed.epochs()
                    return all(now[partition] > epoch for partition, epoch in epochs.items())

                await eventually(taken_over, timeout=90)
                zombie.send_signal(signal.SIGCONT)
                await bed.feed(EVENTS_PER_ROUND // 3)
                await bed.all_applied(timeout=90)
                await parked.at_most(0)
                await bed.check()
            finally:
                zombie.send_signal(signal.SIGCONT)
                await end(zombie)
                if successor is not None:
                    await end(successor)
        summary = await bed.check()
    summary |= {"pauses": PAUSES, "paused_midway": paused_midway, "seconds": round(time.monotonic() - began)}
    write_evidence("parking_pauses", summary)


async def test_lanes_are_killed_paused_and_changed_in_number_and_repeat_nothing(database: Database, kafka_bootstrap: str) -> None:
    """Poisoned keys as well; in every round another number of lanes takes over, sometimes from a process that is paused and thawed later."""
    began = time.monotonic()
    async with opened_bed(database, kafka_bootstrap, seed=13) as bed:
        parked = Parked(bed)
        process = await bed.start(**POISONED, lanes=4)
        zombie = None
        try:
            for round_number in range(LANE_ROUNDS):
                await parked.break_again()
                before = await bed.applied()
                await bed.feed(EVENTS_PER_ROUND)
                goal = before + bed.chance.randint(1, EVENTS_PER_ROUND // 2)

                async def moving(goal: int = goal) -> bool:
                    return await bed.applied() >= goal

                await eventually(moving, timeout=60)
                # Paused in the middle of an append it holds the stream until PostgreSQL ends its session, after a minute.
                if FULL and round_number % 2:
                    process.send_signal(signal.SIGSTOP)
                    zombie = process
                else:
                    await end(process)
                process = await bed.start(**POISONED, lanes=bed.chance.choice([0, 1, 3, 4, 8]))
                await bed.all_applied(timeout=150)
                if zombie is not None:
                    zombie.send_signal(signal.SIGCONT)
                    await asyncio.sleep(0.5)  # whatever it still tries
                    await end(zombie)
                    zombie = None
                await parked.mend()
                await parked.at_most(0)
        finally:
            for one in (process, zombie):
                if one is not None:
                    one.send_signal(signal.SIGCONT)
                    await end(one)
        summary = await bed.check()
    write_evidence("lane_kills", summary | {"rounds": LANE_ROUNDS, "seconds": round(time.monotonic() - began)})

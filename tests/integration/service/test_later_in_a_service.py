"""Messages for later and schedules in whole services, over PostgreSQL and Kafka, several processes' worth at once."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta
from uuid import uuid4

from headwater import Context, Event, Firing, Service
from headwater.config import Settings
from headwater.outbox import ScheduledMessage
from headwater.testing import eventually

CATEGORY = f"later{uuid4().hex[:8]}"


class NudgeDue(Event, category=CATEGORY):
    number: int


class SecondPassed(Event, category=CATEGORY):
    second: str


class Collector:
    """One process: a service of the same name as the others'."""

    def __init__(self, settings: Settings, nudged: list[int], seconds: list[str]) -> None:
        self.service = Service("nudging", settings=settings)

        @self.service.on(NudgeDue)
        async def nudge(event: NudgeDue, context: Context) -> None:
            nudged.append(event.number)
            if event.number < 100:
                later = await context.publish(NudgeDue(number=event.number + 100), key="k", deliver_after=timedelta(seconds=0.1))
                assert isinstance(later, ScheduledMessage)

        @self.service.every("* * * * * *", missed="all")
        def second(firing: Firing) -> SecondPassed:
            return SecondPassed(second=f"{firing.due_at:%H:%M:%S}")

        @self.service.on(SecondPassed)
        async def passed(event: SecondPassed) -> None:
            seconds.append(event.second)


async def test_three_processes_deliver_and_fire_once(postgres_dsn: str, kafka_bootstrap: str) -> None:
    settings = Settings(postgres=postgres_dsn, kafka=kafka_bootstrap, topic_partitions=3)
    nudged, seconds = list[int](), list[str]()
    collectors = [Collector(settings, nudged, seconds) for _ in range(3)]
    async with AsyncExitStack() as stack:
        first, *_ = [await stack.enter_async_context(collector.service) for collector in collectors]
        for number in range(20):
            await first.events.publish(NudgeDue(number=number), key=f"k{number % 4}", deliver_after=timedelta(seconds=0.5))
        gone = await first.events.publish("NudgeDue", {"number": 50}, deliver_after=timedelta(seconds=60))
        assert (await first.events.cancel(gone.message_id)).is_in_time

        def all_there() -> bool:
            return len(nudged) >= 40 and len(seconds) >= 3

        await eventually(all_there, 60)
        assert sorted(nudged) == [*range(20), *range(100, 120)]
        for key in range(4):
            own = [number for number in nudged if number < 100 and number % 4 == key]
            assert own == sorted(own)
        assert len(set(seconds)) == len(seconds)

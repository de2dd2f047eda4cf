"""Request and reply between services with databases of their own, over a real broker."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import uuid4

import pytest

from headwater import Context, Event, Service
from headwater.config import Settings
from headwater.errors import RequestTimeout, UsageError
from headwater.eventstore import PostgresEventStore
from headwater.postgres import Database
from headwater.testing import MigratedDatabases, eventually

ASKING = f"quoting{uuid4().hex[:8]}"


class GetQuote(Event, category=ASKING):
    number: int


class Quote(Event, category="quote"):
    number: int
    cents: int


def asking(dsn: str, kafka: str) -> Service:
    return Service("asking-desk", settings=Settings(postgres=dsn, kafka=kafka, topic_replication_factor=1, topic_partitions=3))


def answering(dsn: str, kafka: str, gate: asyncio.Event) -> Service:
    service = Service("quotes", settings=Settings(postgres=dsn, kafka=kafka, topic_replication_factor=1, topic_partitions=3))

    @service.on(GetQuote)
    async def quote(event: GetQuote, context: Context) -> None:
        await gate.wait()
        if event.number >= 0:
            await context.reply(Quote(number=event.number, cents=event.number * 7))

    return service


async def replies_in(dsn: str) -> Counter[str]:
    """How many replies each question has in the answering service's log."""
    async with Database(dsn) as database:
        events = (await PostgresEventStore(database).read_log(after=0)).events
    return Counter(event.metadata["headwater_reply_for"] for event in events if event.category.startswith("replies."))


async def test_each_process_gets_the_answers_to_its_own_questions_once(
    postgres_dsn: str, kafka_bootstrap: str, headwater_databases: MigratedDatabases
) -> None:
    gate = asyncio.Event()
    gate.set()
    with headwater_databases.fresh() as other_dsn:
        first, second = asking(postgres_dsn, kafka_bootstrap), asking(postgres_dsn, kafka_bootstrap)
        async with answering(other_dsn, kafka_bootstrap, gate), first, second:
            answers = await asyncio.gather(
                *((first, second)[number % 2].events.request(GetQuote(number=number), Quote, timeout_seconds=60) for number in range(60))
            )
            assert answers == [Quote(number=number, cents=number * 7) for number in range(60)]
            assert (first.events.late_reply_count, second.events.late_reply_count) == (0, 0)
            with pytest.raises(RequestTimeout, match=r"no reply to GetQuote within 0\.3 s"):
                await first.events.request(GetQuote(number=-1), Quote, timeout_seconds=0.3)
        counts = await replies_in(other_dsn)
        assert (len(counts), set(counts.values())) == (60, {1})


async def test_who_answers_may_be_stopped_in_between_and_late_answers_are_dropped(
    postgres_dsn: str, kafka_bootstrap: str, headwater_databases: MigratedDatabases
) -> None:
    gate = asyncio.Event()
    with headwater_databases.fresh() as other_dsn:
        async with asking(postgres_dsn, kafka_bootstrap) as service:
            async with answering(other_dsn, kafka_bootstrap, gate):
                # Its handler hangs at the gate; the service ends as soon as it goes on, with most questions unanswered.
                waiting = [asyncio.create_task(service.events.request(GetQuote(number=n), Quote, timeout_seconds=60)) for n in range(10)]
                with pytest.raises(RequestTimeout):
                    await service.events.request(GetQuote(number=99), Quote, timeout_seconds=1)
                gate.set()
            async with answering(other_dsn, kafka_bootstrap, gate):
                assert [(await answer).number for answer in waiting] == list(range(10))
                await eventually(lambda: service.events.late_reply_count == 1, 30)
        counts = await replies_in(other_dsn)
        # A group that begins anew answers the other test's questions, too; nobody waits for those.
        assert len(counts) >= 11
        assert set(counts.values()) == {1}


async def test_a_service_that_has_just_been_opened_takes_requests(postgres_dsn: str, kafka_bootstrap: str) -> None:
    async with asking(postgres_dsn, kafka_bootstrap) as service:
        # Nothing of its workers has run yet.
        assert service.events.late_reply_count == 0


async def test_requests_need_the_workers_that_receive_replies(postgres_dsn: str) -> None:
    service = Service("connected", settings=Settings(postgres=postgres_dsn))
    async with service.connect():
        with pytest.raises(UsageError, match="async with service:"):
            await service.events.request(GetQuote(number=1), Quote)

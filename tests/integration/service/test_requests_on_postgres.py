"""Request and reply between services that share a log and have no broker."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated

import pytest

from headwater import Context, Event, Personal, Service
from headwater.config import Settings
from headwater.errors import RequestTimeout
from headwater.postgres import Database
from headwater.testing import eventually


class AskPrice(Event, category="quoting"):
    number: int


class PriceTold(Event, category="quote"):
    number: int
    asked_for: Annotated[str, Personal("customer_id")]
    customer_id: str = "ada"


def asking(database: Database) -> Service:
    return Service("asking-desk", source="postgres", settings=Settings(postgres=database.dsn))


def answering(database: Database, gate: asyncio.Event) -> Service:
    service = Service("quotes", source="postgres", settings=Settings(postgres=database.dsn))

    @service.on(AskPrice)
    async def quote(event: AskPrice, context: Context) -> None:
        await gate.wait()
        if event.number >= 0:
            await context.reply(PriceTold(number=event.number, asked_for="Ada Lovelace"))

    return service


@pytest.fixture
def gate() -> asyncio.Event:
    """Open: what is asked is answered."""
    gate = asyncio.Event()
    gate.set()
    return gate


async def replies_in(database: Database) -> Counter[str]:
    """How many replies each question has."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT metadata ->> 'headwater_reply_for' AS question, data::text AS data FROM headwater.events WHERE metadata ? 'headwater_reply_for'"
        )
    assert not any("Lovelace" in row["data"] for row in rows)
    return Counter(row["question"] for row in rows)


async def test_each_process_gets_the_answers_to_its_own_questions_once(database: Database, gate: asyncio.Event) -> None:
    first, second = asking(database), asking(database)
    async with answering(database, gate), first, second:
        answers = await asyncio.gather(
            *((first, second)[number % 2].events.request(AskPrice(number=number), PriceTold, timeout_seconds=60) for number in range(60))
        )
        assert answers == [PriceTold(number=number, asked_for="Ada Lovelace") for number in range(60)]
        with pytest.raises(RequestTimeout, match=r"no reply to AskPrice within 0\.3 s; it may still be handled"):
            await first.events.request(AskPrice(number=-1), PriceTold, timeout_seconds=0.3)
        assert (first.events.late_reply_count, second.events.late_reply_count) == (0, 0)
    counts = await replies_in(database)
    assert (len(counts), set(counts.values())) == (60, {1})


async def test_connections_may_break_while_an_answer_is_awaited_and_a_late_one_is_dropped(database: Database, gate: asyncio.Event) -> None:
    gate.clear()
    async with answering(database, gate), asking(database) as service:
        with pytest.raises(RequestTimeout):
            await service.events.request(AskPrice(number=99), PriceTold, timeout_seconds=0.5)
        waiting = [
            asyncio.create_task(service.events.request(AskPrice(number=number), PriceTold, timeout_seconds=60)) for number in range(10)
        ]
        async with database.connection() as connection:
            await eventually(lambda: _asked(database, 11), 30)
            cut = await connection.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'headwater asking-desk'"
            )
        assert cut
        gate.set()
        assert [(await answer).number for answer in waiting] == list(range(10))
        await eventually(lambda: service.events.late_reply_count == 1, 30)
    counts = await replies_in(database)
    assert (len(counts), set(counts.values())) == (11, {1})


async def _asked(database: Database, count: int) -> bool:
    async with database.connection() as connection:
        return await connection.fetchval("SELECT count(*) FROM headwater.events WHERE type = 'AskPrice'") == count


async def test_a_service_that_began_later_is_asked_and_answers(database: Database, gate: asyncio.Event) -> None:
    async with asking(database) as service:
        answer = asyncio.create_task(service.events.request(AskPrice(number=1), PriceTold, timeout_seconds=60))
        await eventually(lambda: _asked(database, 1), 30)
        async with answering(database, gate):
            assert (await answer).number == 1

"""Request and reply: answers find their questions, once, in time or not at all."""

from __future__ import annotations

import asyncio
from typing import Annotated

import pytest

from headwater import Context, Event, Personal, Service
from headwater.errors import RequestTimeout, UnexpectedReply, UsageError
from headwater.testing import FakeClock, eventually, memory_service
from headwater.testing.memory_service import MemoryService


class GetQuote(Event, category="quoting"):
    sku: str


class Quote(Event, category="quote"):
    sku: str
    cents: int


class QuoteRefused(Event, category="quote"):
    reason: str


class GetCustomer(Event, category="customers"):
    customer_id: str


class CustomerTold(Event, category="customers"):
    customer_id: str
    name: Annotated[str, Personal("customer_id")]


def quoting(*, failures: int = 0) -> tuple[Service, list[str]]:
    """A service that answers itself, after failing so often."""
    service, attempts = Service("quotes-desk"), list[str]()

    @service.on(GetQuote)
    async def quote(event: GetQuote, context: Context) -> None:
        attempts.append(event.sku)
        if event.sku == "silent":
            return
        answer = QuoteRefused(reason="unknown") if event.sku == "unknown" else Quote(sku=event.sku, cents=len(event.sku))
        await context.reply(answer)
        if len(attempts) <= failures:
            raise RuntimeError("after the reply")

    return service, attempts


def replies(memory: MemoryService) -> list[str]:
    return [event.data for event in memory.recorded if event.category.startswith("replies.")]


async def test_an_answer_comes_to_who_asked() -> None:
    service, _ = quoting()
    async with memory_service(service) as memory:
        assert await service.events.request(GetQuote(sku="tea"), Quote) == Quote(sku="tea", cents=3)
        question, answer = (event for event in memory.recorded)
        assert answer.stream_name == f"replies.quotes_desk-{question.event_id}"
        assert answer.metadata["causation_id"] == str(question.event_id)
        assert answer.correlation_id == question.correlation_id


async def test_many_at_once_each_get_their_own() -> None:
    service, _ = quoting()
    async with memory_service(service):
        asked = [f"{'x' * (number % 7)}{number}" for number in range(200)]
        answers = await asyncio.gather(*(service.events.request(GetQuote(sku=sku), Quote) for sku in asked))
        assert [answer.sku for answer in answers] == asked
        assert service.events.late_reply_count == 0


async def test_a_handler_that_fails_after_its_reply_replies_once_when_it_succeeds() -> None:
    service, attempts = quoting(failures=2)
    async with memory_service(service) as memory:
        assert (await service.events.request(GetQuote(sku="tea"), Quote)).cents == 3
        await memory.settle()
        assert len(attempts) == 3
        assert len(replies(memory)) == 1


async def test_no_answer_in_time_is_an_error_and_a_late_one_is_dropped_and_counted() -> None:
    service, clock, gate = Service("slow"), FakeClock(), asyncio.Event()

    @service.on(GetQuote)
    async def quote(event: GetQuote, context: Context) -> None:
        await gate.wait()
        await context.reply(Quote(sku=event.sku, cents=1))

    async with memory_service(service, clock=clock) as memory:
        asking = asyncio.create_task(service.events.request(GetQuote(sku="tea"), Quote, timeout_seconds=5))
        await eventually(lambda: bool(memory.recorded))
        await clock.advance(4.9)
        assert not asking.done()
        await clock.advance(0.2)
        with pytest.raises(RequestTimeout, match="no reply to GetQuote within 5 s; it may still be handled") as raised:
            await asking
        assert raised.value.request_id == memory.recorded[0].event_id
        gate.set()
        await eventually(lambda: service.events.late_reply_count == 1)


async def test_who_is_cancelled_waits_no_longer() -> None:
    service, _ = quoting()
    async with memory_service(service):
        asking = asyncio.create_task(service.events.request(GetQuote(sku="silent"), Quote))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (await service.events.request(GetQuote(sku="tea"), Quote)).cents == 3


async def test_an_answer_of_another_class_and_questions_that_cannot_be_asked() -> None:
    service, _ = quoting()
    async with memory_service(service):
        with pytest.raises(UnexpectedReply, match="the reply is QuoteRefused, not Quote") as raised:
            await service.events.request(GetQuote(sku="unknown"), Quote)
        assert raised.value.reply_type == "QuoteRefused"
        for seconds in (0, -1, float("inf"), float("nan")):
            with pytest.raises(UsageError, match="above zero"):
                await service.events.request(GetQuote(sku="tea"), Quote, timeout_seconds=seconds)


async def test_replying_to_what_nobody_asked_and_replying_twice() -> None:
    service, told = Service("replying"), list[str]()

    @service.on(GetQuote)
    async def quote(event: GetQuote, context: Context) -> None:
        if not context.expects_reply:
            with pytest.raises(UsageError, match="nobody waits for a reply"):
                await context.reply(Quote(sku=event.sku, cents=1))
            told.append("not asked")
            return
        await context.reply(Quote(sku=event.sku, cents=1))
        with pytest.raises(UsageError, match="has replied already"):
            await context.reply(Quote(sku=event.sku, cents=2))

    @service.on(GetQuote)
    async def another(event: GetQuote, context: Context) -> None:
        if context.expects_reply:
            await context.reply(Quote(sku=event.sku, cents=3))

    async with memory_service(service) as memory:
        assert (await service.events.request(GetQuote(sku="tea"), Quote)).cents == 1
        await eventually(lambda: service.events.late_reply_count == 1)
        await service.events.publish(GetQuote(sku="tea"))
        await memory.settle()
        assert told == ["not asked"]


async def test_a_question_cannot_steer_its_reply_into_another_topic() -> None:
    service, refused = Service("steered"), list[str]()

    @service.on_topic("asking", GetQuote)
    async def foreign(event: GetQuote, context: Context) -> None:
        refused.append("asked" if context.expects_reply else "not asked")

    async with memory_service(service) as memory:
        memory.put("asking", b'{"sku": "tea"}', headers=[("headwater_reply_to", b"order")])
        await memory.settle()
    assert refused == ["not asked"]


async def test_personal_data_in_a_reply_travels_sealed_and_arrives_open() -> None:
    service = Service("customers")

    @service.on(GetCustomer)
    async def tell(event: GetCustomer, context: Context) -> None:
        await context.reply(CustomerTold(customer_id=event.customer_id, name="Ada Lovelace"))

    async with memory_service(service) as memory:
        assert (await service.events.request(GetCustomer(customer_id="ada"), CustomerTold)).name == "Ada Lovelace"
        assert all("Lovelace" not in event.data for event in memory.recorded)

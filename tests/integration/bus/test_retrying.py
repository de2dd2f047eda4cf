"""Dead letters tried again: once per request, whoever asks and however many work, and kept with their new error where it fails again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from headwater.bus import (
    ALL_STATUSES,
    ConsumerLimits,
    Context,
    DeadLetter,
    DeadLetterDesk,
    DeadLetterRetrier,
    DeadLetters,
    LetterFilter,
    PostgresEffects,
    PostgresLetterRetries,
    RetryPolicy,
    Subscriptions,
)
from headwater.errors import NotFoundError, TransactionConflict
from headwater.eventstore import PostgresEventStore
from headwater.kafka import Partition
from headwater.messages import Event, LogPosition
from headwater.postgres import Database
from headwater.testing import eventually

QUICK = RetryPolicy(first_delay_seconds=0.02, delay_factor=1.0)


class OrderPlaced(Event):
    sku: str


class StockReserved(Event):
    sku: str


class Shop:
    """A group with dead letters, and as many retriers as a test wants."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = PostgresEventStore(database)
        self.effects = PostgresEffects(database, self.store)
        self.subscriptions = Subscriptions()
        self.desk = DeadLetterDesk(database)
        self.seen: list[str] = []

    def retrier(self, **options: Any) -> DeadLetterRetrier:
        return DeadLetterRetrier(
            group="shop",
            subscriptions=self.subscriptions,
            effects=self.effects,
            letters=PostgresLetterRetries(),
            **{"retry_policy": QUICK, **options},
        )

    async def bury(self, *skus: str, stream: str | None = None, **changes: Any) -> list[int]:
        """Letters as a consumer stores them."""
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        letters = [
            DeadLetter(
                group="shop",
                handler_name="reserve",
                partition=Partition("order", 0),
                offset=position,
                error_type="RuntimeError",
                error_message="none in stock",
                traceback="…",
                attempts=5,
                first_failed_at=moment,
                last_failed_at=moment,
                event_id=uuid4(),
                log_id=UUID(int=1),
                position=LogPosition(1, position),
                stream_name=stream or f"order-{sku}",
                version=1,
                event_type="OrderPlaced",
                data=f'{{"sku": "{sku}"}}',
                metadata={"correlation_id": "story-1"},
                recorded_at=moment,
            )
            for position, sku in enumerate(skus, start=1)
        ]
        async with self.effects.transaction() as transaction:
            await transaction.bury([replace(letter, **changes) for letter in letters])
        kept = await self.desk.list(LetterFilter(statuses=ALL_STATUSES))
        return [letter.dead_letter_id for letter in kept][-len(skus) :]

    async def statuses(self) -> list[str]:
        return [letter.status for letter in await self.desk.list(LetterFilter(statuses=ALL_STATUSES))]

    async def work_off(self, retrier: DeadLetterRetrier) -> None:
        while await retrier.try_next():
            pass


@pytest.fixture
def shop(database: Database) -> Shop:
    return Shop(database)


async def test_a_letter_is_tried_only_when_somebody_asks_and_its_effect_carries_its_cause(shop: Shop) -> None:
    @shop.subscriptions.on(OrderPlaced)
    async def reserve(event: OrderPlaced, context: Context) -> None:
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))

    reserve_name = shop.subscriptions.handlers[0].name
    (first,) = await shop.bury("chai", handler_name=reserve_name)
    await shop.bury("tofu", handler_name=reserve_name)
    retrier = shop.retrier()
    assert await retrier.try_next() is False
    assert await shop.desk.retry([first]) == {first}
    assert await shop.desk.retry([first]) == frozenset(), "asked already"
    await shop.work_off(retrier)
    (reserved,) = [event async for event in shop.store.read_stream("stock-chai")]
    letter = await shop.desk.get(first)
    assert (letter.status, letter.letter.attempts) == ("handled", 6)
    assert letter.settled_at is not None
    assert reserved.metadata == {"correlation_id": "story-1", "causation_id": str(letter.letter.event_id)}
    assert await shop.store.stream_version("stock-tofu") == 0
    assert await shop.desk.retry([first]) == frozenset(), "a second effect would be one too many"
    assert await DeadLetters(shop.database, group="shop").count() == 1


async def test_what_had_no_class_is_handled_once_it_has_one(shop: Shop) -> None:
    @shop.subscriptions.on(category="order")
    async def everything(event: Event, context: Context) -> None:
        await context.append("stock-all", StockReserved(sku=event.model_dump()["sku"]))

    name = shop.subscriptions.handlers[0].name
    (letter,) = await shop.bury("chai", handler_name=name, event_type="OrderMadeUpLater")
    await shop.desk.retry([letter])
    await shop.work_off(shop.retrier())
    assert await shop.statuses() == ["waiting"]
    assert (await shop.desk.get(letter)).letter.error_type == "headwater.errors.UnknownEventType"

    class OrderMadeUpLater(Event):
        sku: str

    await shop.desk.retry([letter])
    await shop.work_off(shop.retrier())
    assert await shop.statuses() == ["handled"]
    assert [event.data async for event in shop.store.read_stream("stock-all")] == ['{"sku": "chai"}']


async def test_two_workers_try_each_letter_once(shop: Shop) -> None:
    @shop.subscriptions.on(OrderPlaced)
    async def reserve(event: OrderPlaced, context: Context) -> None:
        shop.seen.append(event.sku)
        await asyncio.sleep(0.01)
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))

    name = shop.subscriptions.handlers[0].name
    skus = [f"sku{number}" for number in range(30)]
    ids = await shop.bury(*skus, handler_name=name)
    await shop.desk.retry(ids)
    workers = [asyncio.create_task(shop.retrier().run()) for _ in range(3)]

    async def all_handled() -> bool:
        return set(await shop.statuses()) == {"handled"}

    await eventually(all_handled, 20)
    for worker in workers:
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker
    assert sorted(shop.seen) == sorted(skus)
    assert [await shop.store.stream_version(f"stock-{sku}") for sku in skus] == [1] * 30


async def test_failing_again_keeps_the_new_error_and_undoes_the_rest(shop: Shop) -> None:
    @shop.subscriptions.on(OrderPlaced)
    async def reserve(event: OrderPlaced, context: Context) -> None:
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))
        raise ValueError("still none")

    (letter_id,) = await shop.bury("chai", handler_name=shop.subscriptions.handlers[0].name)
    await shop.desk.retry([letter_id])
    retrier = shop.retrier()
    await shop.work_off(retrier)
    kept = await shop.desk.get(letter_id)
    assert (kept.status, kept.letter.attempts, kept.letter.error_type) == ("waiting", 6, "ValueError")
    assert kept.letter.error_message == "still none"
    assert "raise ValueError" in kept.letter.traceback
    assert kept.letter.last_failed_at > kept.letter.first_failed_at
    assert await shop.store.stream_version("stock-chai") == 0
    assert await retrier.try_next() is False, "it waits for the next decision"


async def test_a_handler_that_spoils_the_transaction_costs_its_own_letter_only(shop: Shop) -> None:
    @shop.subscriptions.on(OrderPlaced)
    async def reserve(event: OrderPlaced, context: Context) -> None:
        if event.sku == "poison":
            await context.connection.execute("ROLLBACK")
        elif event.sku == "aborted":
            with suppress(Exception):
                await context.connection.execute("SELECT 1/0")

    ids = await shop.bury("poison", "aborted", "chai", handler_name=shop.subscriptions.handlers[0].name)
    await shop.desk.retry(ids)
    await shop.work_off(shop.retrier())
    assert await shop.statuses() == ["waiting", "waiting", "handled"]
    poison = await shop.desk.get(ids[0])
    assert poison.letter.attempts == 6
    assert poison.letter.error_type.endswith("EffectsRefused")


async def test_what_the_message_is_not_to_blame_for_does_not_count(shop: Shop) -> None:
    troubles = iter([TransactionConflict("deadlock"), TransactionConflict("deadlock")])

    @shop.subscriptions.on(OrderPlaced)
    async def reserve(event: OrderPlaced) -> None:
        shop.seen.append(event.sku)
        if event.sku == "chai" and (trouble := next(troubles, None)) is not None:
            raise trouble

    ids = await shop.bury("chai", "tofu", handler_name=shop.subscriptions.handlers[0].name)
    await shop.desk.retry(ids)
    retrier = shop.retrier()
    await shop.work_off(retrier)
    assert shop.seen[:2] == ["chai", "tofu"], "others come first meanwhile"

    async def handled() -> bool:
        await retrier.try_next()
        return await shop.statuses() == ["handled", "handled"]

    await eventually(handled, 10)
    assert (await shop.desk.get(ids[0])).letter.attempts == 6


async def test_letters_of_one_stream_keep_their_order_also_with_many_workers(shop: Shop) -> None:
    @shop.subscriptions.on(OrderPlaced)
    async def reserve(event: OrderPlaced) -> None:
        await asyncio.sleep(0.005)
        shop.seen.append(event.sku)

    skus = [str(number) for number in range(10)]
    ids = await shop.bury(*skus, stream="order-1", handler_name=shop.subscriptions.handlers[0].name)
    await shop.desk.retry(ids)
    retriers = [shop.retrier() for _ in range(3)]

    async def handled() -> bool:
        await asyncio.gather(*(retrier.try_next() for retrier in retriers))
        return set(await shop.statuses()) == {"handled"}

    await eventually(handled, 10)
    assert shop.seen == skus


async def test_other_groups_and_unknown_handlers_are_left_alone_and_lost_subscriptions_told(shop: Shop) -> None:
    @shop.subscriptions.on(StockReserved)
    async def reserve(event: StockReserved) -> None:
        shop.seen.append(event.sku)

    name = shop.subscriptions.handlers[0].name
    (other_group,) = await shop.bury("a", handler_name=name, group="other")
    (renamed,) = await shop.bury("b", handler_name="an_old_name")
    (lost,) = await shop.bury("c", handler_name=name)
    await shop.desk.retry([other_group, renamed, lost])
    await shop.work_off(shop.retrier())
    assert await shop.statuses() == ["retrying", "retrying", "waiting"]
    assert "no longer handles OrderPlaced" in (await shop.desk.get(lost)).letter.error_message
    assert not shop.seen


async def test_stopping_finishes_the_letter_at_hand(shop: Shop) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    @shop.subscriptions.on(OrderPlaced)
    async def reserve(event: OrderPlaced) -> None:
        began.set()
        await go_on.wait()

    ids = await shop.bury("chai", "tofu", handler_name=shop.subscriptions.handlers[0].name)
    await shop.desk.retry(ids)
    task = asyncio.create_task(shop.retrier(limits=ConsumerLimits(shutdown_seconds_max=10)).run())
    await began.wait()
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await shop.statuses() == ["handled", "retrying"]


async def test_the_desk_filters_skips_and_discards(shop: Shop) -> None:
    chai, tofu = await shop.bury("chai", "tofu")
    (unreadable,) = await shop.bury("x", handler_name=None, event_id=None, event_type=None, data=None, raw={"key": None})
    (other,) = await shop.bury("y", group="other", event_type="OrderCancelled")

    async def ids(**filters: Any) -> list[int]:
        return [letter.dead_letter_id for letter in await shop.desk.list(LetterFilter(**filters))]

    assert await ids() == [chai, tofu, unreadable, other]
    assert await ids(group="shop", handler_name="reserve") == [chai, tofu]
    assert await ids(event_type="OrderCancelled") == [other]
    assert await ids(ids=(tofu, other), group="shop") == [tofu]
    assert await shop.desk.count(LetterFilter(group="shop")) == 3
    assert await shop.desk.retry([unreadable, chai]) == {chai}
    assert not (await shop.desk.get(unreadable)).can_be_retried
    assert await shop.desk.skip([chai, tofu, 99]) == {chai, tofu}, "a request for a retry is taken back"
    assert await shop.desk.skip([chai]) == frozenset()
    assert await ids(statuses=("skipped",)) == [chai, tofu]
    assert await ids() == [unreadable, other]
    assert await shop.desk.retry([tofu]) == {tofu}
    assert await shop.desk.discard([chai, unreadable]) == {chai, unreadable}
    with pytest.raises(NotFoundError, match="dead-letters list"):
        await shop.desk.get(chai)

"""One saga from beginning to end, played in memory: what is sent, what is kept, and how each story ends."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from headwater.errors import SagaNotFound, UsageError
from headwater.messages import Event
from headwater.sagas import DeadlineKind, Phase, Saga, SagaContext, SagaStatus, Step, on, on_deadline, starts_on
from headwater.testing.memory_sagas import MemorySagas
from tests.unit.sagas.orders import (
    OrderCancelled,
    OrderConfirmed,
    OrderFulfilment,
    OrderPlaced,
    PaymentFailed,
    PaymentRefunded,
    PaymentTaken,
    RefundPayment,
    ReleaseStock,
    ReserveStock,
    StockReleased,
    StockReserved,
    StockShort,
    TakePayment,
)

PLACED = OrderPlaced(order_id="1", amount=Decimal("12.30"))
RESERVED = StockReserved(order_id="1")


@pytest.fixture
def stage() -> MemorySagas:
    return MemorySagas(OrderFulfilment)


async def status(stage: MemorySagas) -> str:
    return (await stage.get(OrderFulfilment, "1")).status.value


def kinds(saga: Any) -> list[str]:
    return [transition.kind for transition in saga.history]


async def test_the_good_end(stage: MemorySagas) -> None:
    await stage.give(PLACED)
    assert stage.take_sent() == (ReserveStock(order_id="1"),)
    await stage.give(RESERVED)
    assert stage.take_sent() == (TakePayment(order_id="1", amount=Decimal("12.30")),)
    await stage.give(PaymentTaken(order_id="1"))
    assert stage.take_sent() == (OrderConfirmed(order_id="1"),)
    saga = await stage.get(OrderFulfilment, "1")
    assert (saga.status, saga.deadlines, saga.state) == (SagaStatus.COMPLETED, (), {"amount": "12.30", "handled": 2})
    assert kinds(saga)[0] == "started"
    assert kinds(saga)[-1] == "completed"


async def test_a_failed_step_undoes_those_before_it_and_the_last_word_is_said(stage: MemorySagas) -> None:
    await stage.give(PLACED, RESERVED, PaymentFailed(order_id="1"))
    assert stage.take_sent()[2:] == (ReleaseStock(order_id="1"),), "the payment had no effect and is not refunded"
    assert await status(stage) == "compensating"
    await stage.give(StockReleased(order_id="1"))
    assert await status(stage) == "compensated"
    assert stage.take_sent() == (OrderCancelled(order_id="1", reason="take_payment failed: PaymentFailed"),)


async def test_a_failure_of_the_first_step_ends_at_once(stage: MemorySagas) -> None:
    await stage.give(PLACED, StockShort(order_id="1"))
    assert await status(stage) == "compensated"
    assert stage.take_sent() == (ReserveStock(order_id="1"), OrderCancelled(order_id="1", reason="reserve_stock failed: StockShort"))


async def test_a_deadline_undoes_what_may_have_run_last_first(stage: MemorySagas) -> None:
    await stage.give(PLACED, RESERVED)
    stage.take_sent()
    await stage.advance(timedelta(seconds=29))
    assert stage.take_sent() == ()
    await stage.advance(timedelta(seconds=2))
    assert stage.take_sent() == (RefundPayment(order_id="1"),), "nobody knows whether it was taken"
    await stage.give(PaymentTaken(order_id="1"))
    assert stage.take_sent() == (), "a late answer neither confirms the order nor refunds twice"
    await stage.give(PaymentRefunded(order_id="1"))
    assert stage.take_sent() == (ReleaseStock(order_id="1"),)
    await stage.give(StockReleased(order_id="1"))
    saga = await stage.get(OrderFulfilment, "1")
    assert (saga.status, saga.reason, saga.deadlines) == (SagaStatus.COMPENSATED, "not paid in time", ())


async def test_a_step_that_was_never_sent_is_not_undone(stage: MemorySagas) -> None:
    await stage.give(PLACED)
    await stage.give(StockShort(order_id="1"))
    assert not any(isinstance(event, (RefundPayment, ReleaseStock)) for event in stage.sent)


async def test_an_end_forgets_the_deadlines(stage: MemorySagas) -> None:
    await stage.give(PLACED, RESERVED, PaymentTaken(order_id="1"))
    await stage.advance(timedelta(days=2))
    assert await status(stage) == "completed"


async def test_whatever_comes_twice_does_nothing_twice(stage: MemorySagas) -> None:
    await stage.give(PLACED, PLACED, RESERVED, RESERVED)
    assert stage.take_sent() == (ReserveStock(order_id="1"), TakePayment(order_id="1", amount=Decimal("12.30")))
    assert (await stage.get(OrderFulfilment, "1")).state["handled"] == 1
    await stage.give(PaymentTaken(order_id="1"), PaymentTaken(order_id="1"), PLACED, StockReleased(order_id="1"))
    assert stage.take_sent() == (OrderConfirmed(order_id="1"),)


async def test_an_event_for_no_saga_is_passed_over(stage: MemorySagas) -> None:
    await stage.give(RESERVED)
    assert stage.sent == ()
    with pytest.raises(SagaNotFound):
        await stage.get(OrderFulfilment, "1")


async def test_an_event_for_no_saga_can_be_made_to_fail() -> None:
    class Strict(Saga, key="order_id", unmatched="fail"):
        @starts_on(OrderPlaced)
        async def placed(self, event: OrderPlaced, saga: SagaContext) -> None: ...

        @on(StockReserved)
        async def reserved(self, event: StockReserved, saga: SagaContext) -> None:
            saga.complete()

    stage = MemorySagas(Strict)
    with pytest.raises(SagaNotFound, match="has not begun"):
        await stage.give(RESERVED)
    await stage.give(PLACED, RESERVED, RESERVED)


async def test_an_unconfirmed_compensation_is_sent_again_with_its_key_and_then_waits_for_a_person(stage: MemorySagas) -> None:
    await stage.give(PLACED, RESERVED, PaymentFailed(order_id="1"))
    await stage.advance(timedelta(seconds=41))
    releases = [recorded for recorded in stage.log.events if recorded.type == "ReleaseStock"]
    assert len(releases) == 3
    assert len({recorded.metadata["idempotency_key"] for recorded in releases}) == 1
    assert len({recorded.event_id for recorded in releases}) == 3
    assert {recorded.metadata["saga"] for recorded in releases} == {"order_fulfilment/1"}
    assert await status(stage) == "compensating"
    await stage.advance(timedelta(hours=1))
    saga = await stage.get(OrderFulfilment, "1")
    assert saga.status is SagaStatus.STUCK
    assert saga.stuck_because == ("reserve_stock: the compensation ReleaseStock of reserve_stock was sent 3 times and never confirmed",)
    assert [found.key for found in await stage.store.list(status="stuck")] == ["1"]

    await stage.give(StockReleased(order_id="1"))
    assert await status(stage) == "compensated", "what it waited for may still come"


async def test_a_saga_that_does_not_end_waits_for_a_person(stage: MemorySagas) -> None:
    await stage.give(PLACED)
    await stage.advance(timedelta(days=1, seconds=1))
    saga = await stage.get(OrderFulfilment, "1")
    assert (saga.status, saga.phase) == (SagaStatus.STUCK, Phase.RUNNING)
    assert "has not ended within 1 day" in saga.stuck_because[0]
    await stage.give(RESERVED, PaymentTaken(order_id="1"))
    assert await status(stage) == "completed"


async def test_a_deadline_whose_method_fails_is_tried_again_and_then_waits_for_a_person() -> None:
    failures = 2

    class Flaky(Saga, key="order_id"):
        tried: int = 0

        @starts_on(OrderPlaced)
        async def placed(self, event: OrderPlaced, saga: SagaContext) -> None:
            saga.set_deadline("soon", after=timedelta(seconds=1))

        @on_deadline("soon")
        async def soon(self, saga: SagaContext) -> None:
            nonlocal failures
            failures -= 1
            self.tried += 1
            await saga.publish(OrderCancelled(order_id=saga.key, reason="soon"))
            if failures >= 0:
                raise ValueError("not yet")
            saga.complete()

    stage = MemorySagas(Flaky)
    await stage.give(PLACED)
    await stage.advance(timedelta(seconds=10))
    saga = await stage.get(Flaky, "1")
    assert (saga.status, saga.state, len(stage.sent)) == (SagaStatus.COMPLETED, {"tried": 1}, 1), "what failed left nothing behind"
    assert kinds(saga).count("deadline_retried") == 2

    failures = 1_000
    await stage.give(OrderPlaced(order_id="2"))
    await stage.advance(timedelta(minutes=10))
    stuck = await stage.get(Flaky, "2")
    assert (stuck.status, len(stage.sent)) == (SagaStatus.STUCK, 1)
    assert stuck.stuck_because == ("soon: ValueError: not yet (tried 5 times)",)
    assert {(d.kind, d.is_failed) for d in stuck.deadlines} == {(DeadlineKind.SAID, True), (DeadlineKind.END, False)}


async def test_a_method_that_raises_leaves_nothing_behind(stage: MemorySagas) -> None:
    class Broken(Saga, key="order_id"):
        step = Step(done_by=StockReserved)
        count: int = 0

        @starts_on(OrderPlaced)
        async def placed(self, event: OrderPlaced, saga: SagaContext) -> None:
            self.count = 1
            await saga.send(self.step, ReserveStock(order_id="1"), compensation=ReleaseStock(order_id="1"))
            raise ValueError("no")

    stage = MemorySagas(Broken)
    with pytest.raises(ValueError, match="no"):
        await stage.give(PLACED)
    assert stage.sent == ()
    assert await stage.store.list() == ()


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (lambda self, saga: saga.send(Step(done_by=StockReserved), ReserveStock(order_id="1")), "is no step of"),
        (lambda self, saga: saga.send(self.step, ReserveStock(order_id="1"), compensation=RefundPayment(order_id="1")), "same category"),
        (lambda self, saga: saga.send(self.step, ReserveStock(order_id="1")), "without a compensation"),
        (lambda self, saga: saga.set_deadline("never", after=timedelta(1)), "no method acts on the deadline 'never'"),
        (lambda self, saga: saga.set_deadline("soon"), "either after="),
        (lambda self, saga: saga.cancel_deadline("never"), "no method acts"),
        (lambda self, saga: saga.connection, "no connection in memory"),
    ],
)
async def test_wrong_use_is_refused(wish: Any, message: str) -> None:
    class Wrong(Saga, key="order_id"):
        step = Step(undone_by=StockReleased)

        @starts_on(OrderPlaced)
        async def placed(self, event: OrderPlaced, saga: SagaContext) -> None:
            wished = wish(self, saga)
            if wished is not None:
                await wished

        @on_deadline("soon")
        async def soon(self, saga: SagaContext) -> None: ...

    with pytest.raises(UsageError, match=message):
        await MemorySagas(Wrong).give(PLACED)


async def test_a_context_is_closed_when_its_method_returns() -> None:
    kept: list[SagaContext] = []

    class Keeping(Saga, key="order_id"):
        @starts_on(OrderPlaced)
        async def placed(self, event: OrderPlaced, saga: SagaContext) -> None:
            kept.append(saga)

    await MemorySagas(Keeping).give(PLACED)
    with pytest.raises(UsageError, match="after its method returned"):
        kept[0].cancel_deadline("x")


async def test_commands_of_a_saga_keep_their_order(stage: MemorySagas) -> None:
    await stage.give(PLACED, RESERVED, PaymentFailed(order_id="1"))
    streams = {recorded.type: recorded.stream_name for recorded in stage.log.events}
    assert streams["ReserveStock"] == streams["ReleaseStock"] == "stock-outbox:1"


async def test_answers_that_only_their_content_tells_apart() -> None:
    class Answered(Event, category="answer"):
        order_id: str
        ok: bool

    class Story(Saga, key="order_id"):
        first = Step()
        second = Step()

        @starts_on(OrderPlaced)
        async def placed(self, event: OrderPlaced, saga: SagaContext) -> None:
            await saga.send(self.first, ReserveStock(order_id="1"), compensation=ReleaseStock(order_id="1"))
            await saga.send(self.second, TakePayment(order_id="1", amount=Decimal(1)), compensation=RefundPayment(order_id="1"))
            await saga.done(self.first)

        @on(Answered)
        async def answered(self, event: Answered, saga: SagaContext) -> None:
            assert saga.status_of(self.first) == "done"
            if not event.ok:
                await saga.failed(self.second)
                await saga.compensate("no")

    stage = MemorySagas(Story)
    await stage.give(PLACED)
    stage.take_sent()
    await stage.give(Answered(order_id="1", ok=False))
    assert stage.take_sent() == (ReleaseStock(order_id="1"),), "without undone_by it counts as soon as it is sent"
    assert (await stage.get(Story, "1")).status is SagaStatus.COMPENSATED


async def test_news_that_come_late_are_undone_and_not_given_to_methods() -> None:
    called: list[str] = []

    class Parallel(Saga, key="order_id"):
        first = Step(done_by=StockReserved, undone_by=StockReleased)
        second = Step(done_by=PaymentTaken, undone_by=PaymentRefunded)

        @starts_on(OrderPlaced)
        async def placed(self, event: OrderPlaced, saga: SagaContext) -> None:
            await saga.send(self.first, ReserveStock(order_id="1"), compensation=ReleaseStock(order_id="1"))
            await saga.send(self.second, TakePayment(order_id="1", amount=Decimal(1)), compensation=RefundPayment(order_id="1"))
            saga.set_deadline("soon", after=timedelta(seconds=1))

        @on(StockReserved)
        async def reserved(self, event: StockReserved, saga: SagaContext) -> None:
            called.append("reserved")

        @on_deadline("soon")
        async def soon(self, saga: SagaContext) -> None:
            await saga.compensate("late")

    stage = MemorySagas(Parallel)
    await stage.give(PLACED)
    await stage.advance(timedelta(seconds=2))
    stage.take_sent()
    await stage.give(RESERVED)
    assert (called, stage.take_sent()) == ([], ()), "its turn comes after the step behind it"
    assert [step.status for step in (await stage.get(Parallel, "1")).steps] == ["done", "undoing"]
    await stage.give(PaymentRefunded(order_id="1"))
    assert stage.take_sent() == (ReleaseStock(order_id="1"),)
    await stage.give(StockReleased(order_id="1"))
    assert (called, (await stage.get(Parallel, "1")).status) == ([], SagaStatus.COMPENSATED)

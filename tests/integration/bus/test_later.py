"""Messages for later, in memory and on PostgreSQL: once, in order, at their time, and taken back in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from headwater.errors import HeadwaterError, InvalidEvent, InvalidStreamName, SubjectForgotten, UsageError
from headwater.outbox import Cancellation, DueTime, ScheduledMessage
from headwater.telemetry import Correlation, correlate
from tests.integration.bus.later_worlds import Greeting, PostgresWorld, Reminder, World


async def test_a_message_is_delivered_once_when_its_time_has_come(world: World) -> None:
    with correlate(Correlation("story", "cause")):
        message = await world.remind(1, 60, key="a")
    assert await world.deliver() == 0
    seconds = await world.scheduled.seconds_to_next()
    assert seconds is not None
    assert 55 < seconds <= 60
    await world.let_pass(61)
    assert await world.deliver() == 1
    assert await world.deliver() == 0
    (event,) = await world.recorded()
    assert (event.event_id, event.stream_name, event.type) == (message.message_id, "reminding-outbox:a", "Reminder")
    assert event.metadata == {"correlation_id": "story", "causation_id": "cause"}
    assert await world.scheduled.seconds_to_next() is None


async def test_a_moment_that_has_passed_is_due_at_once(world: World) -> None:
    due = DueTime.of(datetime(2001, 1, 1, tzinfo=timezone(timedelta(hours=2))), None)
    assert due is not None
    message = await world.publisher.schedule(Reminder(number=1), due=due)
    assert message.due_at == datetime(2000, 12, 31, 22, tzinfo=UTC)
    await world.deliver()
    assert await world.reminded() == [1]


async def test_messages_of_one_key_due_together_keep_the_order_of_scheduling(world: World) -> None:
    moment = DueTime.of(datetime(2020, 1, 1, tzinfo=UTC), None)
    assert moment is not None
    for number in range(150):
        await world.publisher.schedule(Reminder(number=number), due=moment, key=f"k{number % 3}")
    assert await world.deliver() >= 2
    for key in range(3):
        assert await world.reminded(f"k{key}") == list(range(key, 150, 3))


async def test_who_is_due_first_comes_first_whenever_it_was_scheduled(world: World) -> None:
    await world.remind(1, 30, key="a")
    await world.remind(2, 10, key="a")
    await world.remind(3, 20, key="a")
    await world.let_pass(15)
    await world.deliver()
    assert await world.reminded() == [2]
    await world.let_pass(30)
    await world.deliver()
    assert await world.reminded() == [2, 3, 1]


async def test_a_cancelled_message_never_comes_and_the_answer_tells_whether_it_was_in_time(world: World) -> None:
    kept, gone = await world.remind(1, 10), await world.remind(2, 10)
    assert await world.publisher.cancel(gone.message_id) is Cancellation.CANCELLED
    assert await world.publisher.cancel(gone.message_id) is Cancellation.NOT_THERE
    await world.let_pass(11)
    await world.deliver()
    assert await world.reminded() == [1]
    answers = [await world.publisher.cancel(message.message_id) for message in (kept, kept, gone)]
    assert answers == [Cancellation.DELIVERED, Cancellation.DELIVERED, Cancellation.NOT_THERE]
    assert [answer.is_in_time for answer in answers] == [False, False, True]


async def test_scheduling_and_cancelling_join_the_transaction(world: World) -> None:
    kept = await world.remind(1, 10)
    with pytest.raises(RuntimeError, match="rolled back"):
        async with world.effects.transaction() as transaction:
            await world.remind(2, 0, connection=transaction.joining)
            assert await world.publisher.cancel(kept.message_id, connection=transaction.joining) is Cancellation.CANCELLED
            raise RuntimeError("rolled back")
    await world.let_pass(11)
    await world.deliver()
    assert await world.reminded() == [1]
    async with world.effects.transaction() as transaction:
        await world.remind(3, 0, connection=transaction.joining)
        last = await world.remind(4, 100)
    async with world.effects.transaction() as transaction:
        await world.publisher.cancel(last.message_id, connection=transaction.joining)
    await world.let_pass(200)
    await world.deliver()
    assert await world.reminded() == [1, 3]


async def test_what_cannot_be_delivered_waits_with_its_error_and_holds_up_its_own_stream_alone(world: World) -> None:
    await world.log.append("reminding-outbox:closed", [Reminder(number=0)], expected_version=0)
    await world.log.close_stream("reminding-outbox:closed")
    for number in range(1, 5):
        await world.remind(number, 5, key="closed" if number % 2 else "open")
    await world.let_pass(6)
    await world.deliver()
    assert await world.reminded("open") == [2, 4]
    seconds = await world.scheduled.seconds_to_next()
    assert seconds is not None
    assert 0 < seconds < 2, "it is tried again about a second later"
    waiting = (await _waiting(world))[0]
    assert waiting.attempts == 1
    assert waiting.error is not None
    assert waiting.error.startswith("StreamClosed: ")
    await world.let_pass(seconds + 0.1)
    await world.deliver()
    assert [message.attempts for message in await _waiting(world)] == [2, 0]
    assert [await world.publisher.cancel(message.message_id) for message in await _waiting(world)] == [Cancellation.CANCELLED] * 2
    assert await world.scheduled.seconds_to_next() is None


async def test_personal_data_waits_sealed_and_a_forgotten_subject_stays_forgotten(world: World) -> None:
    due = DueTime.of(None, timedelta(seconds=10))
    assert due is not None
    for customer in ("c1", "c2"):
        await world.publisher.schedule(Greeting(customer_id=customer, name=f"Name of {customer}"), due=due, key=customer)
    assert all("Name of" not in message.data and "headwater:sealed:" in message.data for message in await _waiting(world))
    await world.personal.forget("c1")
    await world.let_pass(11)
    await world.deliver()
    assert all("Name of" not in event.data for event in await world.recorded())
    opened = [world.registry.decode(event) for event in (await world.store.read_log(after=0)).events]
    assert opened == [Greeting(customer_id="c1", name="[forgotten]"), Greeting(customer_id="c2", name="Name of c2")]
    with pytest.raises(SubjectForgotten):
        await world.publisher.schedule(Greeting(customer_id="c1", name="again"), due=due)


async def test_what_cannot_be_meant_is_refused_and_nothing_is_kept(world: World) -> None:
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    with pytest.raises(UsageError, match="give one of them"):
        DueTime.of(moment, timedelta(seconds=1))
    with pytest.raises(UsageError, match="time zone"):
        DueTime.of(moment.replace(tzinfo=None), None)
    with pytest.raises(UsageError, match="timedelta"):
        DueTime.of(None, 5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="datetime"):
        DueTime.of("tomorrow", None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="in the past"):
        DueTime.of(None, timedelta(seconds=-1))
    with pytest.raises(UsageError, match="3650 days"):
        DueTime.of(None, timedelta(days=3651))
    assert DueTime.of(None, None) is None
    too_far = DueTime.of(datetime.max.replace(tzinfo=UTC), None)
    soon = DueTime.of(None, timedelta())
    assert too_far is not None
    assert soon is not None
    with pytest.raises(HeadwaterError, match="3650 days"):
        await world.publisher.schedule(Reminder(number=1), due=too_far)
    with pytest.raises(InvalidStreamName):
        await world.publisher.schedule(Reminder(number=1), due=soon, key="x" * 600)
    with pytest.raises(InvalidEvent, match="bytes"):
        await world.publisher.schedule(Greeting(customer_id="c", name="x" * 1_100_000), due=soon)
    assert await world.scheduled.seconds_to_next() is None


async def _waiting(world: World) -> list[ScheduledMessage]:
    if isinstance(world, PostgresWorld):
        return list(await world.postgres_scheduled.list())
    return list(world.scheduled.waiting)  # type: ignore[attr-defined]

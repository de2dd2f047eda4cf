"""Messages for later on PostgreSQL: many workers, locks that others hold, other drivers, and the clock that counts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest

from headwater.bus import Clockwork, DueMessages, PostgresEffects
from headwater.errors import DuplicateEvent, InvalidEvent
from headwater.eventstore import PostgresEventStore
from headwater.messages import NewEvent
from headwater.outbox import Cancellation, DueTime, PostgresScheduledMessages
from headwater.postgres import Database, sql_file
from headwater.testing import eventually
from tests.integration.bus.later_worlds import PostgresWorld, Reminder

NOW = DueTime(datetime(2020, 1, 1, tzinfo=UTC), None)


@pytest.fixture
async def world(database: Database) -> AsyncIterator[PostgresWorld]:
    found = PostgresWorld(database)
    yield found
    await found.personal.close()


async def test_many_workers_deliver_each_message_once_and_keep_every_keys_order(world: PostgresWorld) -> None:
    """While messages are scheduled and some are cancelled."""
    chance = random.Random(7)
    workers = [Clockwork(world.worker()) for _ in range(4)]
    cancelled: set[int] = set()

    async def schedule(key: int) -> None:
        for number in range(50):
            due = NOW if chance.random() < 0.7 else DueTime(None, timedelta(seconds=chance.random()))
            message = await world.publisher.schedule(Reminder(number=key * 1000 + number), due=due, key=f"k{key}" if key else None)
            if chance.random() < 0.1 and (await world.publisher.cancel(message.message_id)).is_in_time:
                cancelled.add(key * 1000 + number)
            for worker in workers:
                worker.wake()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(worker.run()) for worker in workers]
        await asyncio.gather(*(schedule(key) for key in range(8)))

        async def all_gone() -> bool:
            return await world.scheduled.seconds_to_next() is None

        await eventually(all_gone, 30)
        for task in tasks:
            task.cancel()
    delivered = await world.reminded()
    assert sorted(delivered) == sorted({key * 1000 + number for key in range(8) for number in range(50)} - cancelled)


async def test_two_workers_at_once_share_streams_and_keep_their_order(world: PostgresWorld) -> None:
    for number in range(600):
        await world.publisher.schedule(Reminder(number=number), due=NOW, key=f"k{number % 5}")

    async def work() -> int:
        worker, count = world.worker(), 0
        while (seconds := await worker.seconds_to_next()) is not None and seconds <= 0:
            count += await worker.do_next()
        return count

    counts = await asyncio.gather(*(work() for _ in range(3)))
    assert sum(counts) >= 10
    for key in range(5):
        assert await world.reminded(f"k{key}") == list(range(key, 600, 5))


async def test_a_stream_that_somebody_holds_waits_and_the_others_go_on(world: PostgresWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.bus.delivering.LOCK_WAIT_SECONDS_MAX", 0.05)
    for number in range(6):
        await world.publisher.schedule(Reminder(number=number), due=NOW, key="held" if number % 2 else "free")
    await world.log.append("reminding-outbox:held", [Reminder(number=-1)], expected_version=0)
    async with world.database.transaction() as connection:
        await world.log.append("reminding-outbox:held", [Reminder(number=-2)], expected_version=1, connection=connection)
        await world.deliver()
        # The horizon of the log waits for that transaction; the stream shows what was appended.
        assert await world.log.stream_version("reminding-outbox:free") == 3
    await world.let_pass(5)
    await world.deliver()
    assert await world.reminded("held") == [-1, -2, 1, 3, 5]


async def test_what_comes_behind_a_message_that_is_being_cancelled_waits_for_the_outcome(world: PostgresWorld) -> None:
    messages = [await world.publisher.schedule(Reminder(number=number), due=NOW, key="a") for number in range(3)]
    with pytest.raises(RuntimeError, match="not after all"):
        async with world.database.transaction() as connection:
            assert await world.publisher.cancel(messages[1].message_id, connection=connection) is Cancellation.CANCELLED
            assert await world.worker().do_next()
            assert await world.reminded() == [0]
            assert not await world.worker().do_next()
            raise RuntimeError("not after all")
    await world.deliver()
    assert await world.reminded() == [0, 1, 2]


async def test_cancelling_waits_for_a_delivery_that_is_under_way(world: PostgresWorld) -> None:
    message = await world.publisher.schedule(Reminder(number=1), due=NOW)
    async with world.effects.transaction() as transaction:
        (claimed,) = await world.scheduled.claim(limit=10, connection=transaction.joining)
        cancelling = asyncio.create_task(world.publisher.cancel(message.message_id))
        async with world.database.connection() as observer:

            async def waits() -> bool:
                return bool(await observer.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

            await eventually(waits)
        await world.store.append(claimed.stream_name, [claimed.event], expected_version=0, connection=transaction.joining)
        await world.scheduled.remove([claimed.message_id], connection=transaction.joining)
        assert not cancelling.done()
    assert await cancelling is Cancellation.DELIVERED


async def test_repeating_what_was_scheduled_changes_nothing_and_another_message_of_its_id_is_refused(world: PostgresWorld) -> None:
    message = NewEvent.of(Reminder(number=1))
    first = await world.scheduled.schedule("reminding-outbox:a", message, NOW)
    assert (await world.scheduled.schedule("reminding-outbox:a", message, NOW)).due_at == first.due_at
    with pytest.raises(DuplicateEvent, match="another message"):
        await world.scheduled.schedule("reminding-outbox:b", message, NOW)
    assert (await world.postgres_scheduled.count()).waiting == 1
    await world.deliver()
    await world.scheduled.schedule("reminding-outbox:a", message, NOW)
    assert await world.deliver() == 0
    assert await world.reminded() == [1]


async def test_another_driver_schedules_in_its_own_transaction(world: PostgresWorld, postgres_dsn: str) -> None:
    call = "SELECT headwater.schedule_event(%s, 'Reminder', %s::jsonb, '{}', %s, NULL, 0)"
    async with await psycopg.AsyncConnection.connect(postgres_dsn) as connection:
        async with connection.transaction(force_rollback=True):
            await connection.execute(call, ("reminding-1", '{"number": 1}', uuid4()))
        async with connection.transaction():
            await connection.execute(call, ("reminding-1", '{"number": 2}', uuid4()))
        for bad, says in [
            ((None, "{}", uuid4()), "needs the name of a stream"),
            (("reminding-1", '{"x": "' + "x" * 1_100_000 + '"}', uuid4()), "bytes as JSON"),
            (("reminding-1", "{}", None), "lacks its"),
        ]:
            with pytest.raises(psycopg.Error, match=says) as raised:
                async with connection.transaction():
                    await connection.execute(call, bad)
            assert raised.value.sqlstate == "HW003"
        with pytest.raises(psycopg.Error, match="3650 days"):
            await connection.execute("SELECT headwater.schedule_event('a-1', 'T', '{}', '{}', gen_random_uuid(), NULL, 'NaN')")
    await world.deliver()
    assert await world.reminded() == [2]


async def test_what_postgres_cannot_keep_is_refused_with_its_reason(world: PostgresWorld) -> None:
    for data in ('{"a": "\\u0000"}', '{"a": 1e200000}', "no json"):
        with pytest.raises(InvalidEvent):
            await world.scheduled.schedule("reminding-1", NewEvent("Reminder", data), NOW)


async def test_a_ring_wakes_the_clockwork_long_before_it_would_look(database: Database) -> None:
    """The worker polls every minute here, and delivers within a moment all the same."""
    store, keeper = PostgresEventStore(database), PostgresScheduledMessages(database)
    clockwork = Clockwork(DueMessages(keeper, store, PostgresEffects(database, store)), poll_seconds_max=60.0)
    scheduled = PostgresScheduledMessages(database, on_schedule=clockwork.wake)
    running = asyncio.create_task(clockwork.run())
    try:
        for number in range(3):
            await scheduled.schedule(f"reminding-{number}", NewEvent.of(Reminder(number=number)), DueTime(None, timedelta(seconds=0.2)))

            async def there(number: int = number) -> bool:
                return await store.stream_version(f"reminding-{number}") == 1

            await eventually(there, 5)
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_no_statement_reads_all_messages_of_a_stream_that_has_very_many(world: PostgresWorld) -> None:
    """The planner is told that one stream holds everything, which is when it would rather read the whole table for each message."""
    async with world.database.connection() as connection:
        await connection.execute(
            "INSERT INTO headwater.scheduled_messages (message_id, due_at, stream_name, type, data, metadata) "
            "SELECT gen_random_uuid(), clock_timestamp() + make_interval(mins => n - 2000), 'reminding-1', 'Reminder', '{\"number\": 1}', '{}' "
            "FROM generate_series(1, 20000) AS n"
        )
        await connection.execute("ANALYZE headwater.scheduled_messages")
        for statement, arguments in (
            ("lock_due_streams", (60, 300)),
            ("claim_due_messages", (["reminding-1"], 60)),
            ("next_due_message", ()),
        ):
            plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {sql_file('headwater.outbox', statement)}", *arguments))
            assert "Seq Scan" not in plan, f"{statement}: {plan}"

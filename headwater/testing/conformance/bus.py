"""What the bus promises, whichever source feeds it: each test is one promise, and its name says which."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any, Final

import pytest

from headwater.bus import Context, RetryPolicy
from headwater.clock import SYSTEM_CLOCK
from headwater.messages import CAUSATION_ID, CORRELATION_ID, Event, RecordedEvent
from headwater.randomness import SeededRandomness
from headwater.testing.conformance.bus_bed import CRASH_POINTS, LIMITS, WAIT_SECONDS, BusBed, Crash, Group, crashing, stopped
from headwater.testing.waiting import eventually

STREAMS: Final = 7
SLOW: Final = RetryPolicy(attempts_max=3, first_delay_seconds=3600.0)


def numbered(count: int) -> dict[str, list[int]]:
    """Numbers from 0 on, dealt out to a few streams."""
    return {str(stream): list(range(stream, count, STREAMS)) for stream in range(min(STREAMS, count))}


class BusConformance:
    """Inherit, and give a fixture `bed`; every test must pass."""

    pytestmark = pytest.mark.asyncio

    @pytest.fixture
    async def group(self, bed: BusBed) -> Group:
        """One group of handlers on the bed."""
        return Group(bed)

    # -- effects ------------------------------------------------------------------------------------------------------

    async def test_every_committed_event_has_its_effect_once_and_in_the_order_of_its_stream(self, group: Group) -> None:
        """While several writers append, before and after the member starts."""
        group.handle_all()
        expected = numbered(140)

        async def write(stream: str, numbers: list[int]) -> None:
            for number in numbers:
                await group.place(stream, number)

        await write("0", expected["0"])
        async with group.running():
            await asyncio.gather(*(write(stream, numbers) for stream, numbers in expected.items() if stream != "0"))
            await group.until_handled(expected)

    async def test_a_backlog_is_worked_off_in_the_order_of_its_streams(self, group: Group) -> None:
        group.handle_all()
        expected = numbered(LIMITS.batch_size_max * 10)
        for stream, numbers in expected.items():
            await group.place(stream, *numbers)
        async with group.running():
            await group.until_handled(expected)

    async def test_what_was_handled_is_not_handled_again_by_the_next_member(self, group: Group) -> None:
        group.handle_all()
        for number in range(3):
            await group.place("a", number)
            await group.place("b", number)
            async with group.running():
                await group.until_handled({"a": list(range(number + 1)), "b": list(range(number + 1))})

    async def test_what_a_failed_attempt_did_is_undone(self, group: Group) -> None:
        failures = 2

        @group.subscriptions.on(group.placed)
        async def unsteady(event: Any, context: Context) -> None:
            nonlocal failures
            await group.note(event, context)
            if event.number == 1 and failures:
                failures -= 1
                raise ValueError("not yet")

        await group.place("a", 0, 1, 2)
        async with group.running():
            await group.until_handled({"a": [0, 1, 2]})
        assert failures == 0
        assert await group.letters() == []

    async def test_what_a_handler_appends_is_handled_in_its_turn(self, group: Group) -> None:
        """By the same group, too: its own open transaction does not keep it from being read afterwards."""

        @group.subscriptions.on(group.placed)
        async def go_on(event: Any, context: Context) -> None:
            await group.note(event, context)
            if event.number < 5:
                await context.append(f"{group.bed.category}-next", group.placed(number=event.number + 1))

        await group.place("first", 0)
        async with group.running():
            await group.until_handled({"first": [0], "next": [1, 2, 3, 4, 5]})

    async def test_effects_carry_their_cause_and_correlation(self, group: Group) -> None:
        group.handle_all()
        await group.place("a", 1)
        async with group.running():
            await group.until_handled({"a": [1]})
        cause = next(event for event in (await group.bed.store.read_log(after=0)).events if event.stream_name.endswith("-a"))
        (note,) = await group.noted()
        assert note.metadata[CAUSATION_ID] == str(cause.event_id)
        assert note.metadata[CORRELATION_ID] == cause.correlation_id

    async def test_events_that_nobody_handles_hold_up_nothing(self, group: Group) -> None:
        @group.subscriptions.on(group.cancelled)
        async def noting(event: Any, context: Context) -> None:
            await group.note(event, context)

        await group.place("a", *range(30))
        async with group.running():
            await group.bed.store.append(f"{group.bed.category}-a", [group.cancelled(number=30)], expected_version=30)
            await group.until_handled({"a": [30]})

    async def test_a_handler_of_a_category_gets_all_of_it_in_the_order_of_each_stream(self, group: Group) -> None:
        """As it is in the log, whatever its type; and beside the handlers of a class, each once."""
        both = Group(group.bed, "both")

        @group.subscriptions.on(category=group.bed.category)
        async def everything(event: RecordedEvent, context: Context) -> None:
            await group.note_number(json.loads(event.data)["number"], context)

        @both.subscriptions.on(both.placed)
        async def by_class(event: Any, context: Context) -> None:
            await both.note(event, context)

        @both.subscriptions.on(category=group.bed.category)
        async def typed(event: Event, context: Context) -> None:
            await both.note(event, context)

        await group.place("a", 0, 1)
        await group.place("b", 0)
        await group.place_raw("a", '{"number": 2}', event_type="HeardOfNowhere")
        await group.place("a", 3)
        async with group.running(), both.running():
            await group.until_handled({"a": [0, 1, 2, 3], "b": [0]})
            await both.until_handled({"a": [0, 0, 1, 1, 3, 3], "b": [0, 0]})
        assert await group.letters() == []
        (letter,) = await both.letters()
        assert (letter.event_type, letter.error_type) == ("HeardOfNowhere", "headwater.errors.UnknownEventType")
        assert str(letter.handler_name).endswith("typed")

    async def test_every_group_gets_every_event(self, group: Group) -> None:
        other = Group(group.bed, "two")
        group.handle_all()
        other.handle_all()
        await group.place("a", 0, 1, 2)
        async with group.running(), other.running():
            await group.until_handled({"a": [0, 1, 2]})
            await other.until_handled({"a": [0, 1, 2]})

    # -- crashes, and members that were replaced ----------------------------------------------------------------------

    async def test_a_crash_at_any_point_loses_and_repeats_nothing(self, group: Group) -> None:
        """One member after the other crashes, each at another point; the last one finishes."""
        group.handle_all()
        expected: dict[str, list[int]] = {}
        for number, point in enumerate(CRASH_POINTS):
            for stream in "abc":
                await group.place(stream, number)
                expected.setdefault(stream, []).append(number)
            with pytest.raises(Crash, match=point):
                async with asyncio.timeout(WAIT_SECONDS):
                    await group.member(effects=crashing(group.bed.effects, point)).run()
        async with group.running():
            await group.until_handled(expected)

    async def test_a_member_whose_partition_was_claimed_by_another_commits_nothing_there(self, group: Group) -> None:
        """While its handler works; what it did is undone, and done by whoever claims next."""
        members: list[Any] = []
        attempts: list[int] = []

        @group.subscriptions.on(group.placed)
        async def claimed_meanwhile(event: Any, context: Context) -> None:
            attempts.append(event.number)
            await group.note(event, context)
            if len(attempts) == 1:
                for status in members[0].status():
                    await group.bed.usurp(group.name, status.partition)

        await group.place("a", 1)
        async with group.running() as member:
            members.append(member)
            await group.until_handled({"a": [1]})
        assert attempts == [1, 1]

    async def test_stopping_finishes_the_batch_at_hand(self, group: Group) -> None:
        entered, released = asyncio.Event(), asyncio.Event()

        @group.subscriptions.on(group.placed)
        async def slow(event: Any, context: Context) -> None:
            await group.note(event, context)
            entered.set()
            await released.wait()

        await group.place("a", 1)
        task = asyncio.create_task(group.member().run())
        await asyncio.wait_for(entered.wait(), WAIT_SECONDS)
        task.cancel()
        await SYSTEM_CLOCK.sleep(0)
        released.set()
        with suppress(asyncio.CancelledError):
            await task
        assert await group.handled() == {"a": [1]}
        await group.place("a", 2)
        async with group.running():
            await group.until_handled({"a": [1, 2]})

    async def test_members_share_the_partitions_and_take_over_when_one_leaves(self, group: Group) -> None:
        group.handle_all()
        expected = numbered(60)
        for stream, numbers in expected.items():
            await group.place(stream, *numbers)
        async with group.running() as first:
            await group.until_handled(expected)
            whole = {status.partition for status in first.status()}
            async with group.running() as second:

                def is_shared() -> bool:
                    mine, yours = ({status.partition for status in member.status()} for member in (first, second))
                    return bool(mine and yours) and mine | yours == whole and not mine & yours

                await eventually(is_shared, WAIT_SECONDS)
                for stream, numbers in expected.items():
                    await group.place(stream, 1_000 + numbers[0])
                    numbers.append(1_000 + numbers[0])
                await group.until_handled(expected)
            await eventually(lambda: {status.partition for status in first.status()} == whole, WAIT_SECONDS)
            for stream, numbers in expected.items():
                await group.place(stream, 2_000 + numbers[0])
                numbers.append(2_000 + numbers[0])
            await group.until_handled(expected)

    async def test_members_that_come_and_go_repeat_and_reorder_nothing(self, group: Group) -> None:
        """Two members; at moments that nobody chose one of them ends and another begins, while events are appended."""
        group.handle_all()
        expected: dict[str, list[int]] = {}
        chance = SeededRandomness(7)
        tasks = [asyncio.create_task(group.member().run()) for _ in range(2)]
        try:
            for number in range(40):
                stream = str(number % STREAMS)
                await group.place(stream, number)
                expected.setdefault(stream, []).append(number)
                if number % 13 == 12:
                    await SYSTEM_CLOCK.sleep(chance.uniform(0, 0.1))
                    await stopped(tasks.pop(0))
                    tasks.append(asyncio.create_task(group.member().run()))
            await group.until_handled(expected)
        finally:
            for task in tasks:
                await stopped(task)

    async def test_a_store_that_goes_away_is_waited_out(self, group: Group) -> None:
        group.handle_all()
        expected = numbered(42)
        async with group.running():
            for turn in range(3):
                for stream, numbers in expected.items():
                    await group.place(stream, *numbers[turn * 2 : turn * 2 + 2])
                await group.bed.interrupt()
            await group.until_handled(expected)
        assert await group.letters() == []

    # -- failing handlers, and what cannot be handled -----------------------------------------------------------------

    async def test_a_handler_that_keeps_failing_ends_in_a_dead_letter_and_everything_else_goes_on(self, group: Group) -> None:
        attempts = 0

        @group.subscriptions.on(group.placed)
        async def picky(event: Any, context: Context) -> None:
            nonlocal attempts
            await group.note(event, context)
            if event.number == 1:
                attempts += 1
                raise ValueError("never")

        await group.place("a", 0, 1, 2)
        await group.place("b", 3)
        async with group.running():
            await group.until_handled({"a": [0, 2], "b": [3]})
            (letter,) = await eventually(group.letters, WAIT_SECONDS)
        assert attempts == 3
        assert (letter.attempts, letter.error_type, letter.error_message) == (3, "ValueError", "never")
        assert str(letter.handler_name).endswith("picky")
        assert letter.stream_name == f"{group.bed.category}-a"
        assert group.placed.model_validate_json(letter.data or "").number == 1

    async def test_the_other_handlers_of_a_message_keep_what_they_did(self, group: Group) -> None:
        @group.subscriptions.on(group.placed)
        async def failing(event: Any, context: Context) -> None:
            await group.note(event, context)
            raise ValueError("never")

        @group.subscriptions.on(group.placed)
        async def easy(event: Any, context: Context) -> None:
            await group.note(event, context)

        await group.place("a", 0, 1)
        async with group.running():
            await group.until_handled({"a": [0, 1]})
            await eventually(lambda: _has_letters(group, 2), WAIT_SECONDS)

    async def test_a_message_that_waits_for_its_next_attempt_holds_up_no_other_partition(self, group: Group) -> None:
        @group.subscriptions.on(group.placed)
        async def picky(event: Any, context: Context) -> None:
            if event.number == 0:
                raise ValueError("not before tomorrow")
            await group.note(event, context)

        await group.place("0", 0)
        for number in range(1, 40):
            await group.place(str(number), number)
        async with group.running(retry_policy=SLOW):

            async def others_are_done() -> bool:
                return len(await group.handled()) >= 10

            await eventually(others_are_done, WAIT_SECONDS)
        assert "0" not in await group.handled()
        assert await group.letters() == []

    async def test_data_that_does_not_fit_its_class_ends_in_a_dead_letter_at_once(self, group: Group) -> None:
        group.handle_all()
        await group.place("a", 0)
        await group.place_raw("a", '{"number": "none"}')
        await group.place("a", 2)
        async with group.running(retry_policy=SLOW):
            await group.until_handled({"a": [0, 2]})
            (letter,) = await eventually(group.letters, WAIT_SECONDS)
        assert letter.error_type.endswith("InvalidEvent")
        assert letter.data is not None
        assert "none" in letter.data

    async def test_an_attempt_has_the_idempotency_key_of_the_one_before(self, group: Group) -> None:
        keys: list[str] = []

        @group.subscriptions.on(group.placed)
        async def calling(event: Any, context: Context) -> None:
            keys.append(context.idempotency_key)
            if len(keys) < 3:
                raise ValueError("again")
            await group.note(event, context)

        await group.place("a", 1)
        async with group.running():
            await group.until_handled({"a": [1]})
        assert len(keys) == 3
        assert len(set(keys)) == 1


async def _has_letters(group: Group, count: int) -> bool:
    return len(await group.letters()) == count

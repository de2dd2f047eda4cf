"""Awaits are counted where the event loop gets a turn, and each can be the one at which the task is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from headwater.testing.stepping import Moment, Stepper


async def answer(queue: asyncio.Queue[int], heard: list[int]) -> int:
    await asyncio.sleep(0)
    heard.append(await queue.get())
    await asyncio.sleep(0)
    return sum(heard)


async def stepped(stepper: Stepper, heard: list[int]) -> asyncio.Task[int]:
    queue: asyncio.Queue[int] = asyncio.Queue()
    task = asyncio.create_task(stepper.watch(answer(queue, heard)))
    await asyncio.sleep(0.001)
    queue.put_nowait(7)
    await asyncio.wait({task})
    return task


async def test_awaits_are_listed_with_their_places() -> None:
    stepper = Stepper()
    task = await stepped(stepper, [])
    assert (task.result(), len(stepper.awaits), stepper.cancelled) == (7, 3, None)
    assert "asyncio/queues.py" in stepper.awaits[1]


@pytest.mark.parametrize(
    ("cancel_at", "moment", "heard"),
    [
        (1, Moment.WAITING, []),
        (2, Moment.WAITING, []),
        (2, Moment.ANSWERED, []),
        (3, Moment.WAITING, [7]),
    ],
)
async def test_task_is_cancelled_at_the_await(cancel_at: int, moment: Moment, heard: list[int]) -> None:
    stepper, listened = Stepper(cancel_at=cancel_at, moment=moment), list[int]()
    task = await stepped(stepper, listened)
    assert task.cancelled()
    assert (stepper.cancelled, listened) == (task, heard)


async def test_await_that_does_not_come_cancels_nothing() -> None:
    stepper = Stepper(cancel_at=4)
    assert (await stepped(stepper, [])).result() == 7
    assert stepper.cancelled is None


async def test_coroutine_may_catch_what_is_thrown_into_it() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "swallowed"
        return "slept"

    stepper = Stepper(cancel_at=1)
    assert await asyncio.create_task(stepper.watch(stubborn())) == "swallowed"
    assert stepper.cancelled is not None
    assert not stepper.cancelled.cancelled()

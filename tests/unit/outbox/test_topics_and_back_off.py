"""What the shards of one process do together: ask for topics, and wait after failures."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import pytest

from headwater.errors import BrokerUnavailable
from headwater.outbox.back_off import BackOff
from headwater.outbox.options import BACK_OFF_SECONDS_MAX, BACK_OFF_SECONDS_MIN
from headwater.outbox.topics import TopicDesk
from headwater.randomness import SeededRandomness
from headwater.testing import FakeClock
from headwater.testing.memory_relay import MemoryRelayBroker


class CountedBroker(MemoryRelayBroker):
    """Counts requests."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0

    async def ensure_topics(self, names: Iterable[str]) -> Mapping[str, int]:
        self.requests += 1
        counts = await super().ensure_topics(names)
        await asyncio.sleep(0)
        return counts


async def test_many_who_ask_at_once_are_answered_by_two_requests() -> None:
    broker = CountedBroker()
    desk = TopicDesk(broker)
    answers = await asyncio.gather(*(desk.ensure({"order"}) for _ in range(20)))
    assert answers == [{"order": 3}] * 20
    assert broker.requests == 2
    assert await desk.ensure({"order", "stock"}) == {"order": 3, "stock": 3}
    assert await desk.ensure(set()) == {}


async def test_an_answer_is_never_older_than_its_question() -> None:
    broker = CountedBroker()
    desk = TopicDesk(broker)
    await desk.ensure({"order"})
    early = asyncio.create_task(desk.ensure({"order"}))
    while broker.requests < 2:
        await asyncio.sleep(0)
    # The early request is on its way, perhaps with its answer; whoever asks now wants to see what happens now.
    broker.topics["order"].append(broker.topics["order"][0])
    late = asyncio.create_task(desk.ensure({"order"}))
    await early
    assert await late == {"order": 4}
    assert broker.requests == 3


async def test_a_request_that_fails_fails_whoever_asked_it_alone() -> None:
    broker = CountedBroker()
    desk = TopicDesk(broker)
    broker.is_up = False
    with pytest.raises(BrokerUnavailable):
        await desk.ensure({"order"})
    broker.is_up = True
    assert await desk.ensure({"order"}) == {"order": 3}


async def test_shards_that_fail_together_are_told_once_and_start_over_together() -> None:
    clock = FakeClock()
    back_off = BackOff(clock, SeededRandomness(1))
    assert back_off.after("away") == (True, BACK_OFF_SECONDS_MIN)
    await clock.advance(BACK_OFF_SECONDS_MIN / 2)
    assert back_off.after("away") == (False, pytest.approx(BACK_OFF_SECONDS_MIN / 2))
    assert back_off.after("another reason")[0]
    assert back_off.after("refused", at_once=True) == (True, BACK_OFF_SECONDS_MIN)


async def test_waits_grow_to_a_limit_and_begin_anew_after_a_good_while() -> None:
    clock = FakeClock()
    back_off = BackOff(clock, SeededRandomness(1))
    waits: list[float] = []
    for _ in range(30):
        _, seconds = back_off.after("away")
        waits.append(seconds)
        await clock.advance(seconds)
    assert BACK_OFF_SECONDS_MAX / 2 < max(waits) <= BACK_OFF_SECONDS_MAX
    await clock.advance(3 * BACK_OFF_SECONDS_MAX)
    assert back_off.after("away") == (True, pytest.approx(BACK_OFF_SECONDS_MIN))

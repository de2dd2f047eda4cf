"""The fence's conversation with a coordinator that is played here; the real one is in tests/integration/kafka."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import aiokafka.errors as kafka_errors
import pytest
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest

from headwater.clock import SYSTEM_CLOCK
from headwater.errors import BrokerUnavailable, RelayFenced
from headwater.kafka import BrokerDenied, KafkaSettings, Partition
from headwater.kafka.fence import EPOCH_MAX, ProducerIdentity, raise_fence

SETTINGS = KafkaSettings.parse("localhost:9092")
PARTITIONS = [Partition("a", 0), Partition("a", 1), Partition("b", 0)]


class Coordinator:
    """Counts epochs as Kafka does, answers `hiccups` first, and lets a rival in at a given step."""

    def __init__(self, epoch: int = 0, hiccups: tuple[int | Exception, ...] = (), rival_before: int | None = None) -> None:
        self.producer_id, self.epoch = 100, epoch
        self.hiccups, self.rival_before = list(hiccups), rival_before
        self.markers: list[tuple[int, int]] = []
        self.open: Any = None
        self.calls: Counter[str] = Counter()

    async def coordinator_lookup(self, _kind: int, _key: str) -> int:
        return 1

    async def ready(self, _node: int, *, group: int) -> bool:
        return True

    async def send(self, _node: int, request: Any, *, group: int) -> Any:
        self.calls[type(request).__name__] += 1
        if self.rival_before == sum(self.calls.values()):
            self._init()
        code = self.hiccups.pop(0) if self.hiccups else 0
        if isinstance(code, Exception):
            raise code
        if isinstance(request, InitProducerIdRequest):
            if not code:
                self._init()
            return SimpleNamespace(error_code=code, producer_id=self.producer_id, producer_epoch=self.epoch)
        if (request._producer_id, request._producer_epoch) != (self.producer_id, self.epoch):
            code = kafka_errors.InvalidProducerEpoch.errno
        if isinstance(request, AddPartitionsToTxnRequest):
            self.open = request._topics
            return SimpleNamespace(errors=[(topic, [(number, code) for number in numbers]) for topic, numbers in request._topics])
        assert isinstance(request, EndTxnRequest)
        if not code:
            self.markers.append((self.producer_id, self.epoch))
        return SimpleNamespace(error_code=code)

    def _init(self) -> None:
        self.epoch += 1
        if self.epoch >= 32_767:
            self.producer_id, self.epoch = self.producer_id + 1, 0


async def fence(coordinator: Coordinator) -> ProducerIdentity:
    return await raise_fence(coordinator, SETTINGS, "t", PARTITIONS, SYSTEM_CLOCK)


async def test_data_is_written_under_the_epoch_after_the_markers() -> None:
    coordinator = Coordinator(epoch=3)
    assert await fence(coordinator) == ProducerIdentity(100, 5)
    assert coordinator.markers == [(100, 4)]
    assert coordinator.open == [("a", [0, 1]), ("b", [0])]


@pytest.mark.parametrize("hiccup", [51, 14, 15, 16, kafka_errors.NodeNotReadyError(), kafka_errors.RequestTimedOutError()])
async def test_what_passes_is_waited_for(hiccup: int | Exception) -> None:
    assert await fence(Coordinator(hiccups=(hiccup, hiccup))) == ProducerIdentity(100, 2)


@pytest.mark.parametrize("step", [2, 3, 4])
async def test_a_rival_at_any_step_ends_the_fence(step: int) -> None:
    """At step 4 the epoch would even be the highest, but the rival may be writing under its own."""
    with pytest.raises(RelayFenced):
        await fence(Coordinator(rival_before=step))


async def test_the_producer_id_changes_after_our_marker_and_not_in_the_next_relays_first_step() -> None:
    coordinator = Coordinator(epoch=EPOCH_MAX - 1)
    assert await fence(coordinator) == ProducerIdentity(101, 2)
    assert coordinator.markers == [(100, EPOCH_MAX), (101, 1)]


async def test_what_is_not_allowed_says_so() -> None:
    with pytest.raises(BrokerDenied, match="grant"):
        await fence(Coordinator(hiccups=(53,)))
    with pytest.raises(BrokerUnavailable):
        await fence(Coordinator(hiccups=(48,)))

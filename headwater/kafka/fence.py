"""The fence (rule 13): refuse, in Kafka itself, everything that an earlier relay of this shard may still send.

InitProducerId under the shard's transactional id gives a newer epoch; AddPartitionsToTxn and EndTxn(abort) put the marker of an empty, aborted
transaction with that epoch into every partition; InitProducerId again gives the epoch to write under. It answers only when all markers are
written and replicated, so what is read below the high watermark from then on is all that the predecessor ever got in.

Two relays may do this at once. Whoever is overtaken between its two InitProducerIds would get an epoch above its rival's without a marker to
show for it, and would read a tail that the rival still moves; so the second epoch must be the one right after the first.
"""

# aiokafka ships no types; its values get ours here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import aiokafka.errors as kafka
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest

from headwater.clock import Clock
from headwater.errors import RelayFenced
from headwater.kafka.errors import error_of_code, translate_kafka_errors
from headwater.kafka.partitions import Partition
from headwater.kafka.settings import KafkaSettings

FENCE_SECONDS_MAX: Final = 20.0
"""How long taking a shard may take: longer than an abandoned fence's transaction lives."""
TRANSACTION_SECONDS_MAX: Final = 10.0
"""When Kafka ends the empty transaction of a relay that died inside its fence."""
EPOCH_MAX: Final = 32_000
"""No data is written under a higher epoch. At 32,766 Kafka would change the producer id inside the *next* relay's first step, whose marker
could then not fence ours; from here on we bring the change about ourselves, after our marker."""
_RETRY_SECONDS: Final = 0.01
_RETRY_SECONDS_MAX: Final = 0.2
_RETRIED: Final = frozenset(
    {
        kafka.UnknownTopicOrPartitionError.errno,  # a new topic that the coordinator has not heard of
        kafka.GroupLoadInProgressError.errno,
        kafka.GroupCoordinatorNotAvailableError.errno,
        kafka.NotCoordinatorForGroupError.errno,
        kafka.ConcurrentTransactions.errno,  # markers of the transaction before are still being written
    }
)
_LOST_ON_THE_WAY: Final = (
    kafka.NodeNotReadyError,
    kafka.RequestTimedOutError,
    kafka.KafkaConnectionError,
    kafka.GroupCoordinatorNotAvailableError,
    kafka.GroupLoadInProgressError,
)
_DOING: Final = "fencing the relay before this one"


@dataclass(frozen=True, slots=True)
class ProducerIdentity:
    """Under which id and epoch batches are written."""

    producer_id: int
    epoch: int


class FenceClient(Protocol):
    """What the fence needs of a client; aiokafka's has it."""

    async def coordinator_lookup(self, coordinator_type: int, coordinator_key: str) -> Any:
        """The node that keeps this transactional id."""
        ...

    async def ready(self, node_id: Any, *, group: Any) -> bool:
        """Whether it is connected."""
        ...

    async def send(self, node_id: Any, request: Any, *, group: Any) -> Any:
        """Its answer."""
        ...


async def raise_fence(
    client: FenceClient, settings: KafkaSettings, transactional_id: str, partitions: Sequence[Partition], clock: Clock
) -> ProducerIdentity:
    """Fence every earlier holder of this transactional id off these partitions, and return the identity to write under.

    Takes some 30 ms. Safe to repeat, also after being cut off anywhere.

    Raises:
        RelayFenced: another relay does the same right now and was later; start again from the lease.
        BrokerUnavailable: it could not be done in time.
    """
    with translate_kafka_errors(settings, _DOING):
        async with asyncio.timeout(FENCE_SECONDS_MAX):
            coordinator = _Coordinator(client, transactional_id, clock)
            while True:
                first = await coordinator.init_producer_id()
                await coordinator.write_markers(first, partitions)
                second = await coordinator.init_producer_id()
                if second != ProducerIdentity(first.producer_id, first.epoch + 1):
                    raise RelayFenced(f"another relay took the shard while this one was {_DOING} ({first} then {second})")
                if second.epoch <= EPOCH_MAX:
                    return second
                while (await coordinator.init_producer_id()).producer_id == second.producer_id:
                    pass


class _Coordinator:
    def __init__(self, client: FenceClient, transactional_id: str, clock: Clock) -> None:
        self._client, self._transactional_id, self._clock = client, transactional_id, clock

    async def init_producer_id(self) -> ProducerIdentity:
        answer = await self._call(
            lambda: InitProducerIdRequest(
                transactional_id=self._transactional_id, transaction_timeout_ms=int(TRANSACTION_SECONDS_MAX * 1000)
            ),
            lambda answer: [answer.error_code],
        )
        return ProducerIdentity(int(answer.producer_id), int(answer.producer_epoch))

    async def write_markers(self, identity: ProducerIdentity, partitions: Iterable[Partition]) -> None:
        by_topic: defaultdict[str, list[int]] = defaultdict(list)
        for partition in partitions:
            by_topic[partition.topic].append(partition.number)
        await self._call(
            lambda: AddPartitionsToTxnRequest(
                transactional_id=self._transactional_id,
                producer_id=identity.producer_id,
                producer_epoch=identity.epoch,
                topics=list(by_topic.items()),
            ),
            lambda answer: [code for _, partition_errors in answer.errors for _, code in partition_errors],
        )
        await self._call(
            lambda: EndTxnRequest(
                transactional_id=self._transactional_id,
                producer_id=identity.producer_id,
                producer_epoch=identity.epoch,
                transaction_result=False,
            ),
            lambda answer: [answer.error_code],
        )

    async def _call(self, request: Callable[[], Any], codes_of: Callable[[Any], Iterable[int]]) -> Any:
        """The answer of success; waits for what passes, raises the rest. The caller holds the deadline."""
        wait_seconds = _RETRY_SECONDS
        while True:
            answer = await self._attempt(request())
            codes = {-1} if answer is None else {int(code) for code in codes_of(answer)} - {0, kafka.OperationNotAttempted.errno}
            if answer is not None and not codes:
                return answer
            if answer is not None and (fatal := codes - _RETRIED):
                raise error_of_code(min(fatal), _DOING)
            await self._clock.sleep(wait_seconds)
            wait_seconds = min(wait_seconds * 2, _RETRY_SECONDS_MAX)

    async def _attempt(self, request: Any) -> Any:
        """One try at the coordinator, wherever it is now; None when it did not get through."""
        try:
            node = await self._client.coordinator_lookup(CoordinationType.TRANSACTION, self._transactional_id)
            if not await self._client.ready(node, group=ConnectionGroup.COORDINATION):
                return None
            return await self._client.send(node, request, group=ConnectionGroup.COORDINATION)
        except _LOST_ON_THE_WAY:
            return None

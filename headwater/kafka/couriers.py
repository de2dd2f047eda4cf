"""Produce requests that carry the batches of several producers: what waits for one broker travels together, one request after the other.

Producers of one process share a client, for a request costs this process and the broker as much with one batch as with six. What fails a request
fails everything in it and everything behind it, and the client with it: nothing is sent again here. What Kafka refuses of one batch concerns
its producer alone.
"""

# aiokafka ships no types; its values get ours here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, Self

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest

from headwater.errors import BrokerUnavailable
from headwater.kafka.client import abort_connections, drop_client, leader_of, open_client
from headwater.kafka.errors import error_of_code, translate_kafka_errors
from headwater.kafka.partitions import Partition
from headwater.kafka.settings import REQUEST_SECONDS_MAX, KafkaSettings

REQUEST_BYTES_MAX: Final = 8 * 1024 * 1024
"""Batches of several partitions share a request up to this; the broker's own limit is 100 MiB."""
SENDING: Final = "sending a batch"
_ACKS_ALL: Final = -1


class Parcel:
    """A batch on its way."""

    __slots__ = ("content", "delivered", "partition")

    def __init__(self, partition: Partition, content: bytes) -> None:
        self.partition, self.content = partition, content
        self.delivered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The offset of its first record, once all in-sync replicas have it."""


class Couriers:
    """A client with its requests under way; it ends with the first request that fails."""

    def __init__(self, client: AIOKafkaClient, settings: KafkaSettings) -> None:
        self.client, self._settings = client, settings
        self.is_broken = False
        self.user_count = 0
        self._waiting: defaultdict[int, deque[Parcel]] = defaultdict(deque)
        self._tasks: dict[int, asyncio.Task[None]] = {}

    @classmethod
    async def open(cls, settings: KafkaSettings) -> Self:
        """Connect.

        Raises:
            BrokerUnavailable: none of the addresses answers.
        """
        return cls(await open_client(settings), settings)

    async def learn_leaders(self, topics: Iterable[str]) -> None:
        """Ask where the partitions of these topics are now.

        Raises:
            BrokerUnavailable: nobody said; the client is broken.
        """
        for topic in topics:
            # Not awaited: all of them travel in one question.
            self.client.add_topic(topic)
        with translate_kafka_errors(self._settings, "asking for leaders"):
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                if not await self.client.force_metadata_update():
                    self._break()
                    raise BrokerUnavailable("Kafka does not say who leads which partition")

    def hand_in(self, partition: Partition, content: bytes) -> Parcel:
        """Have a batch carried to the partition's leader.

        Raises:
            BrokerUnavailable: the partition has no leader, or the client is broken.
        """
        if self.is_broken:
            raise BrokerUnavailable("the connection to Kafka was dropped; a new one is opened with the next fence")
        leader = leader_of(self.client, partition)
        parcel = Parcel(partition, content)
        self._waiting[leader].append(parcel)
        task = self._tasks.get(leader)
        if task is None or task.done():
            # It starts after the caller's turn, so that batches handed in together travel together.
            self._tasks[leader] = asyncio.create_task(self._carry(leader), name=f"headwater-courier-{leader}")
        return parcel

    def take_back(self, parcels: Iterable[Parcel]) -> None:
        """Send none of these that is not under way yet; what is, may still arrive."""
        unwanted = set(parcels)
        for waiting in self._waiting.values():
            for parcel in [parcel for parcel in waiting if parcel in unwanted]:
                waiting.remove(parcel)
                _fail(parcel, BrokerUnavailable("its producer failed and must be dropped"))

    async def drop(self) -> None:
        """Close the connections with all that was not sent yet. Safe twice."""
        self._break()
        await drop_client(self.client)
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry(self, leader: int) -> None:
        """One request after the other to one broker, each with all that waits by then."""
        waiting = self._waiting[leader]
        while waiting:
            parcels = _take(waiting)
            try:
                answer = await self.client.send(leader, _produce_request(parcels))
            except BaseException as error:
                for parcel in parcels:
                    _fail(parcel, BrokerUnavailable("the producer was dropped") if isinstance(error, asyncio.CancelledError) else error)
                self._break()
                if not isinstance(error, Exception):
                    raise
            else:
                _deliver(parcels, answer)

    def _break(self) -> None:
        """Nothing is sent any more, not even what the sockets still hold."""
        self.is_broken = True
        abort_connections(self.client)
        for waiting in self._waiting.values():
            for parcel in waiting:
                _fail(parcel, BrokerUnavailable("a request before this batch failed; its producer must be dropped"))
            waiting.clear()


class SharedCouriers:
    """One client for all producers of a process that come and go; a broken one is replaced for whoever comes next."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._current: Couriers | None = None
        self._opening = asyncio.Lock()

    async def borrow(self) -> Couriers:
        """The client of today; give it back.

        Raises:
            BrokerUnavailable: none of the addresses answers.
        """
        async with self._opening:
            if self._current is None or self._current.is_broken:
                self._current = await Couriers.open(self._settings)
            self._current.user_count += 1
            return self._current

    async def give_back(self, couriers: Couriers) -> None:
        """Whoever is the last drops it."""
        couriers.user_count -= 1
        if not couriers.user_count:
            if self._current is couriers:
                self._current = None
            await couriers.drop()


def _deliver(parcels: Sequence[Parcel], answer: Any) -> None:
    outcomes = {
        Partition(str(topic), int(outcome[0])): (int(outcome[1]), int(outcome[2]))
        for topic, outcomes in answer.topics
        for outcome in outcomes
    }
    for parcel in parcels:
        code, offset = outcomes.get(parcel.partition, (-1, -1))
        if code != 0 or offset < 0:
            _fail(parcel, error_of_code(code, f"{SENDING} to {parcel.partition}"))
        elif not parcel.delivered.done():
            parcel.delivered.set_result(offset)


def _take(waiting: deque[Parcel]) -> list[Parcel]:
    taken = [waiting.popleft()]
    size = len(taken[0].content)
    while waiting and size + len(waiting[0].content) <= REQUEST_BYTES_MAX:
        size += len(waiting[0].content)
        taken.append(waiting.popleft())
    return taken


def _fail(parcel: Parcel, error: BaseException) -> None:
    if not parcel.delivered.done():
        parcel.delivered.set_exception(error)
        parcel.delivered.exception()  # Whoever sent it may be gone already.


def _produce_request(parcels: Sequence[Parcel]) -> ProduceRequest:
    topics: defaultdict[str, list[tuple[int, bytes]]] = defaultdict(list)
    for parcel in parcels:
        topics[parcel.partition.topic].append((parcel.partition.number, parcel.content))
    return ProduceRequest(
        transactional_id=None, required_acks=_ACKS_ALL, timeout=int(REQUEST_SECONDS_MAX * 1000), topics=list(topics.items())
    )

"""The bus without servers: a source that serves a memory store's log as Kafka's relay would, and effects that land in that store.

    store = MemoryEventStore()
    source, effects = MemorySource(store), MemoryEffects(store)
    consumer = Consumer(group="shop", subscriptions=service.subscriptions, source=source, effects=effects)

What an append in a handler stores appears when the batch commits, and is then served like everything else in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final, cast
from uuid import UUID

from headwater.bus import (
    DeadLetter,
    Move,
    OffsetOutOfRange,
    PartitionPosition,
    RebalanceListener,
    SourceRecord,
)
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import BrokerUnavailable, NotFoundError, StorageUnavailable, TransactionConflict, UsageError, WrongExpectedVersion
from headwater.eventstore import (
    AppendCondition,
    EventQuery,
    EventStore,
    Matching,
    StreamAppend,
    WatchedEventStore,
    expected_number,
)
from headwater.kafka import JSON_ENCODER, Envelope, OffsetRange, Partition, ValueEncoder, encode_envelope, event_topic, partition_of
from headwater.messages import (
    ANY,
    LOG_START,
    AppendResult,
    Event,
    ExpectedVersion,
    LogPosition,
    NewEvent,
    RecordedEvent,
    prepare,
)
from headwater.postgres import CallerConnection, Connection
from headwater.privacy import PersonalData
from headwater.testing.memory_keys import MemorySubjectKeys

PARTITION_COUNT_DEFAULT: Final = 3
"""More than one, so that a handler that counts on order across streams fails its test."""
_SOURCE: Final = "/memory"


@dataclass(frozen=True, slots=True)
class MemoryRecord:
    """One record of a memory topic."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(slots=True)
class _HeldPartition:
    records: list[MemoryRecord] = field(default_factory=list[MemoryRecord])
    first: int = 0
    """Offsets below it were deleted."""
    previous: LogPosition = LOG_START


class MemoryTopics:
    """Topics that are filled from a store's log, as a relay would; one instance can serve many sources, like a broker."""

    def __init__(
        self, store: EventStore | None = None, *, partition_count: int = PARTITION_COUNT_DEFAULT, values: ValueEncoder = JSON_ENCODER
    ) -> None:
        self._store, self.partition_count, self._values = store, partition_count, values
        self._held: dict[Partition, _HeldPartition] = {}
        self._checkpoint = 0
        self._turn = asyncio.Lock()
        """Several sources share the topics; two that relay at once would put an event in twice."""
        self.is_reachable = True
        """Set it to False to take the broker away."""

    def partitions(self, topics: Sequence[str]) -> list[Partition]:
        """Every partition of these topics."""
        return [Partition(topic, number) for topic in topics for number in range(self.partition_count)]

    async def relay(self) -> int:
        """Put what is new in the log into the topics; returns how many events that were."""
        if self._store is None:
            return 0
        async with self._turn:
            return await self._relay_from(self._store)

    async def _relay_from(self, store: EventStore) -> int:
        identity = await store.identity()
        count = 0
        while events := (await store.read_log(after=self._checkpoint)).events:
            await self._values.prepare({event.type for event in events})
            for event in events:
                partition = Partition(event_topic(event), partition_of(event.stream_name.encode(), self.partition_count))
                held = self._hold(partition)
                position = identity.locate(event.global_position)
                self.put_envelope(partition, Envelope(event, identity.log_id, position, held.previous))
                held.previous = position
            self._checkpoint = events[-1].global_position
            count += len(events)
        return count

    def put_envelope(self, partition: Partition, envelope: Envelope) -> int:
        """Add a record as given, whatever its chain; returns its offset."""
        encoded = self._values.encode(envelope.event)
        key, value, headers, timestamp = encode_envelope(envelope, source=_SOURCE, encoded=encoded)
        return self.put(partition, key=key, value=value, headers=headers, timestamp=timestamp)

    def put(
        self,
        partition: Partition,
        *,
        key: bytes | None = None,
        value: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        timestamp: int = 0,
    ) -> int:
        """Add any record, a foreign one for instance; returns its offset."""
        held = self._hold(partition)
        offset = held.first + len(held.records)
        held.records.append(MemoryRecord(*partition, offset, timestamp, key, value, tuple(headers)))
        return offset

    def delete_before(self, partition: Partition, offset: int) -> None:
        """Lose the records below an offset, as retention would."""
        held = self._hold(partition)
        del held.records[: offset - held.first]
        held.first = offset

    def recreate(self, topic: str) -> None:
        """Lose everything in a topic, as deleting and making it anew would."""
        for partition in self.partitions([topic]):
            self._held.pop(partition, None)

    def range_of(self, partition: Partition) -> OffsetRange:
        """What the partition holds."""
        held = self._hold(partition)
        return OffsetRange(held.first, held.first + len(held.records))

    def records(self, partition: Partition, offset: int, limit: int) -> Sequence[MemoryRecord]:
        """The records from an offset on."""
        held = self._hold(partition)
        start = offset - held.first
        return held.records[start : start + limit]

    def _hold(self, partition: Partition) -> _HeldPartition:
        return self._held.setdefault(partition, _HeldPartition())


class MemorySource:
    """A `MessageSource` over memory topics. Without rebalancing, it has all partitions from the start; tests move them by hand."""

    def __init__(self, topics: MemoryTopics | EventStore, *, clock: Clock = SYSTEM_CLOCK, share: Sequence[Partition] | None = None) -> None:
        """Serve these topics, or those that a store's log fills; `share` are the partitions assigned on opening, by default all."""
        self.topics = topics if isinstance(topics, MemoryTopics) else MemoryTopics(topics)
        self._clock, self._share = clock, share
        self._next: dict[Partition, int] = {}
        self._assigned: set[Partition] = set()
        self._paused: set[Partition] = set()
        self._listener: RebalanceListener | None = None
        self.open_count = 0

    async def open(self, topics: Sequence[str], listener: RebalanceListener) -> None:
        """Assign the share; see `MessageSource.open`."""
        await self._clock.sleep(0)
        self._require_broker()
        self._listener = listener
        self.open_count += 1
        await self.assign(self.topics.partitions(topics) if self._share is None else self._share)

    async def close(self) -> None:
        self._assigned.clear()
        self._next.clear()
        self._paused.clear()
        self._listener = None

    async def assign(self, partitions: Sequence[Partition]) -> None:
        """Give these partitions to the consumer, as a rebalance would."""
        assert self._listener is not None, "open it first"
        self._assigned.update(partitions)
        await self._listener.assigned(partitions)

    async def revoke(self, partitions: Sequence[Partition]) -> None:
        """Take these partitions away, as a rebalance would."""
        assert self._listener is not None, "open it first"
        await self._listener.revoked(partitions)
        for partition in partitions:
            self._assigned.discard(partition)
            self._next.pop(partition, None)
            self._paused.discard(partition)

    async def offsets(self, partitions: Sequence[Partition]) -> Mapping[Partition, OffsetRange]:
        await self._clock.sleep(0)
        self._require_broker()
        return {partition: self.topics.range_of(partition) for partition in partitions}

    def start_at(self, partition: Partition, offset: int) -> None:
        self._next[partition] = offset
        self._paused.discard(partition)

    def pause(self, partition: Partition) -> None:
        self._paused.add(partition)

    def resume(self, partition: Partition) -> None:
        self._paused.discard(partition)

    async def receive(self, *, limit: int, timeout_seconds: float) -> Mapping[Partition, Sequence[SourceRecord]]:
        """What is there, else what is there after the wait; see `MessageSource.receive`."""
        self._require_broker()
        await self.topics.relay()
        received = self._take(limit)
        if not received:
            await self._clock.sleep(timeout_seconds)
            await self.topics.relay()
            received = self._take(limit)
        return received

    def _take(self, limit: int) -> dict[Partition, Sequence[SourceRecord]]:
        taken: dict[Partition, Sequence[SourceRecord]] = {}
        for partition, offset in list(self._next.items()):
            held = self.topics.range_of(partition)
            if partition in self._paused or partition not in self._assigned:
                continue
            if not held.first <= offset <= held.end:
                raise OffsetOutOfRange(partition, offset)
            if records := self.topics.records(partition, offset, limit):
                taken[partition] = records
                self._next[partition] = records[-1].offset + 1
                limit -= len(records)
            if limit <= 0:
                break
        return taken

    def _require_broker(self) -> None:
        if not self.topics.is_reachable:
            raise BrokerUnavailable("the memory broker was taken away")


class MemoryTransaction:
    """An `EffectTransaction` that keeps everything aside until it commits."""

    def __init__(self, effects: MemoryEffects) -> None:
        self._effects = effects
        self._appends: list[tuple[str, list[RecordedEvent], list[NewEvent]]] = []
        self._letters: list[DeadLetter] = []
        self._moves: list[tuple[str, Move]] = []
        self._base_versions: dict[str, int] = {}

    @property
    def connection(self) -> Connection:
        raise UsageError("there is no connection in memory; test handlers with tables of their own on PostgreSQL")

    @property
    def joining(self) -> CallerConnection:
        # Understood by `MemoryEffects.store` alone, which is what a publisher gets here.
        return cast("CallerConnection", self)

    async def append(self, stream_name: str, events: Sequence[Event | NewEvent], *, expected_version: ExpectedVersion) -> AppendResult:
        """Keep the append for the commit; versions and positions are those it will get, unless somebody outside appends meanwhile."""
        prepared = prepare(await self._effects.personal.seal(events), stream_name=stream_name)
        version = await self._version(stream_name)
        self._effects.check_version(stream_name, expected_version, version)
        position = await self._effects.base.horizon() + sum(len(recorded) for _, recorded, _ in self._appends)
        recorded = [
            RecordedEvent(
                global_position=position + ordinal,
                stream_name=stream_name,
                version=version + ordinal,
                type=event.type,
                data=event.data,
                metadata=event.metadata,
                event_id=event.event_id,
                recorded_at=self._effects.clock.now(),
            )
            for ordinal, event in enumerate(prepared, start=1)
        ]
        self._appends.append((stream_name, recorded, prepared))
        return AppendResult(stream_name=stream_name, version=recorded[-1].version, global_position=recorded[-1].global_position)

    async def read_stream(
        self, stream_name: str, *, from_version: int | None = None, backwards: bool = False, limit: int | None = None
    ) -> AsyncIterator[RecordedEvent]:
        """The stream with this transaction's own appends."""
        stored = [event async for event in self._effects.base.read_stream(stream_name)]
        whole = stored + [event for name, recorded, _ in self._appends if name == stream_name for event in recorded]
        if backwards:
            chosen = [event for event in reversed(whole) if from_version is None or event.version <= from_version]
        else:
            chosen = [event for event in whole if from_version is None or event.version >= from_version]
        for event in await self._effects.personal.open(chosen[: len(chosen) if limit is None else max(limit, 0)]):
            yield event

    def appended(self, event_id: UUID) -> RecordedEvent | None:
        return next((event for _, recorded, _ in self._appends for event in recorded if event.event_id == event_id), None)

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        kept = len(self._appends)
        try:
            yield
        except Exception:
            del self._appends[kept:]
            raise

    def interpret(self, error: Exception) -> Exception:
        return error

    def require_open(self) -> None:
        """Nothing in memory can end it."""

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        self._letters.extend(letters)

    async def advance(self, group: str, moves: Sequence[Move]) -> frozenset[Partition]:
        lost = frozenset(move.after.partition for move in moves if not self._effects.is_at(group, move.before))
        if not lost:
            self._moves.extend((group, move) for move in moves)
        return lost

    async def commit(self) -> None:
        """Store everything.

        Raises:
            TransactionConflict: a stream moved on, or a position is another's; nothing is stored.
        """
        for stream_name, version in self._base_versions.items():
            if await self._effects.base.stream_version(stream_name) != version:
                raise TransactionConflict(f"somebody appended to {stream_name!r} meanwhile; repeat the whole transaction")
        if any(not self._effects.is_at(group, move.before) for group, move in self._moves):
            raise TransactionConflict("a position was claimed meanwhile; repeat the whole transaction")
        for group, move in self._moves:
            self._effects.set_position(group, move.after)
        self._effects.letters.extend(self._letters)
        for stream_name, _, prepared in self._appends:
            await self._effects.base.append(stream_name, prepared, expected_version=ANY)

    async def _version(self, stream_name: str) -> int:
        if stream_name not in self._base_versions:
            self._base_versions[stream_name] = await self._effects.base.stream_version(stream_name)
        return self._base_versions[stream_name] + sum(len(recorded) for name, recorded, _ in self._appends if name == stream_name)


class MemoryEffects:
    """An `EffectStore` over a store in memory: transactions take turns, and appear in the store when they commit."""

    def __init__(self, store: EventStore, *, clock: Clock = SYSTEM_CLOCK, personal: PersonalData | None = None) -> None:
        """Commit to this store; `personal` seals what handlers append and opens what they read."""
        self.base, self.clock = store, clock
        self.personal = personal or PersonalData(MemorySubjectKeys(clock=clock), clock=clock)
        self.letters: list[DeadLetter] = []
        self.is_reachable = True
        """Set it to False to take the database away."""
        self.lose_next_answer = False
        """Set it to True to let the next commit take effect and say that it may not have."""
        self.commit_count = 0
        self._positions: dict[tuple[str, Partition], PartitionPosition] = {}
        self._turn = asyncio.Lock()

    @property
    def store(self) -> JoiningStore:
        """The store for a publisher: appends with a handler's transaction join it, others go straight in."""
        return JoiningStore(self.base)

    @property
    def dead_letters(self) -> MemoryDeadLetters:
        """What handlers gave up on."""
        return MemoryDeadLetters(self.letters)

    async def claim(self, group: str, partition: Partition) -> PartitionPosition:
        self._require_database()
        async with self._turn:
            known = self._positions.get((group, partition), PartitionPosition(partition, 0, 0, {}, None))
            claimed = replace(known, epoch=known.epoch + 1)
            self._positions[group, partition] = claimed
            return claimed

    async def confirm(self, group: str, claimed: PartitionPosition) -> PartitionPosition | None:
        self._require_database()
        async with self._turn:
            known = self._positions[group, claimed.partition]
            return known if known.epoch == claimed.epoch else None

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[MemoryTransaction]:
        self._require_database()
        async with self._turn:
            transaction = MemoryTransaction(self)
            yield transaction
            self._require_database()
            await transaction.commit()
            self.commit_count += 1
            if self.lose_next_answer:
                self.lose_next_answer = False
                raise StorageUnavailable("the answer to a commit was lost on purpose; whether it took effect is unknown")

    def position(self, group: str, partition: Partition) -> PartitionPosition | None:
        """How far a group got in a partition, for assertions."""
        return self._positions.get((group, partition))

    def is_at(self, group: str, position: PartitionPosition) -> bool:
        """Whether the row is where, and whose, its owner believes."""
        known = self._positions.get((group, position.partition))
        return known is not None and (known.epoch, known.next_offset) == (position.epoch, position.next_offset)

    def set_position(self, group: str, position: PartitionPosition) -> None:
        """Overwrite a row."""
        self._positions[group, position.partition] = position

    def check_version(self, stream_name: str, expected_version: ExpectedVersion, version: int) -> None:
        """Refuse an append whose expectation does not hold."""
        expected = expected_number(expected_version)
        if expected is None or expected == version or (expected == -1 and version > 0):
            return
        words = {-1: "an existing stream", 0: "no stream"}.get(expected, f"version {expected}")
        raise WrongExpectedVersion(stream_name=stream_name, expected=words, actual_version=version)

    def _require_database(self) -> None:
        if not self.is_reachable:
            raise StorageUnavailable("the memory database was taken away")


class MemoryDeadLetters:
    """Reads back what handlers gave up on, as `headwater.bus.DeadLetters` does."""

    def __init__(self, letters: Sequence[DeadLetter]) -> None:
        self._letters = letters

    async def list(self, limit: int = 100, *, after: int = 0) -> tuple[DeadLetter, ...]:
        """The oldest letters whose id, counted from 1, is above `after`."""
        return tuple(replace(letter, dead_letter_id=number) for number, letter in enumerate(self._letters, start=1))[after : after + limit]

    async def get(self, dead_letter_id: int) -> DeadLetter:
        """One letter.

        Raises:
            NotFoundError: there is none of this id.
        """
        if not 1 <= dead_letter_id <= len(self._letters):
            raise NotFoundError(f"there is no dead letter {dead_letter_id}")
        return replace(self._letters[dead_letter_id - 1], dead_letter_id=dead_letter_id)

    async def count(self) -> int:
        """How many there are."""
        return len(self._letters)


class JoiningStore(WatchedEventStore):
    """A memory store that knows `MemoryTransaction`: given one as `connection=`, an append waits for its commit."""

    def __init__(self, base: EventStore) -> None:
        super().__init__(base, on_append=_nobody_to_wake)
        self._base = base

    async def append(
        self,
        stream_name: str,
        events: Sequence[Event | NewEvent],
        *,
        expected_version: ExpectedVersion,
        connection: CallerConnection | None = None,
    ) -> AppendResult:
        """Append, in the transaction where one is given."""
        if isinstance(connection, MemoryTransaction):
            return await connection.append(stream_name, events, expected_version=expected_version)
        return await self._base.append(stream_name, events, expected_version=expected_version, connection=connection)

    async def append_to_streams(
        self,
        appends: Sequence[StreamAppend],
        *,
        condition: AppendCondition | None = None,
        connection: CallerConnection | None = None,
    ) -> tuple[AppendResult, ...]:
        """Append to several streams, in the transaction where one is given."""
        if not isinstance(connection, MemoryTransaction):
            return await self._base.append_to_streams(appends, condition=condition, connection=connection)
        if condition is not None:
            raise UsageError("a condition inside a handler cannot be tested in memory; test it on PostgreSQL")
        async with connection.savepoint():
            return tuple([await connection.append(one.stream_name, one.events, expected_version=one.expected_version) for one in appends])

    async def read_matching(self, query: EventQuery | Sequence[EventQuery], *, connection: CallerConnection | None = None) -> Matching:
        """Read what is committed."""
        if isinstance(connection, MemoryTransaction):
            connection = None
        return await self._base.read_matching(query, connection=connection)

    def read_stream(
        self,
        stream_name: str,
        *,
        from_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
        connection: CallerConnection | None = None,
    ) -> AsyncIterator[RecordedEvent]:
        """Read, as the transaction sees it where one is given."""
        if isinstance(connection, MemoryTransaction):
            return connection.read_stream(stream_name, from_version=from_version, backwards=backwards, limit=limit)
        return self._base.read_stream(stream_name, from_version=from_version, backwards=backwards, limit=limit, connection=connection)

    async def stream_version(self, stream_name: str, *, connection: CallerConnection | None = None) -> int:
        """How many events the stream has."""
        return len([event async for event in self.read_stream(stream_name, connection=connection)])

    async def find_event(self, event_id: UUID, *, connection: CallerConnection | None = None) -> RecordedEvent | None:
        if isinstance(connection, MemoryTransaction):
            return connection.appended(event_id) or await self._base.find_event(event_id)
        return await self._base.find_event(event_id, connection=connection)


def _nobody_to_wake() -> None:
    """Sources in memory look by themselves."""

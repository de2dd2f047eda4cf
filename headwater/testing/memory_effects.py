"""Effects of handlers in memory: transactions, positions, dead letters, and the store that joins them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from enum import StrEnum
from typing import Any, cast
from uuid import UUID

from headwater.bus import (
    DeadLetter,
    Lane,
    Move,
    ParkedKey,
    ParkedRequest,
    PartitionPosition,
    TopicDivision,
)
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import NotFoundError, StorageUnavailable, TransactionConflict, UsageError, WrongExpectedVersion
from headwater.eventstore import (
    AppendCondition,
    EventQuery,
    EventStore,
    ForwardingEventStore,
    Matching,
    StreamAppend,
    expected_number,
)
from headwater.kafka import Partition
from headwater.messages import (
    ANY,
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
from headwater.testing.memory_parked import MemoryParkedRows, MemoryParking


class Step(StrEnum):
    """Where a transaction is; a test's chaos is asked at each."""

    READ = "read"
    APPEND = "append"
    COMMIT = "commit"
    """Everything is done but nothing is kept."""
    COMMITTED = "committed"
    """Everything is kept, and who asked has no answer yet."""


class MemoryTransaction:
    """An `EffectTransaction` that keeps everything aside until it commits."""

    def __init__(self, effects: MemoryEffects) -> None:
        self._effects = effects
        self._appends: list[tuple[str, list[RecordedEvent], list[NewEvent]]] = []
        self._letters: list[DeadLetter] = []
        self._moves: list[tuple[str, Move]] = []
        self._marks: list[tuple[str, Partition, Lane, int]] = []
        self._base_versions: dict[str, int] = {}
        self.parked = MemoryParkedRows(effects, effects.parking, effects.clock)
        self._when_committed: list[Callable[[], object]] = []

    def when_committed(self, act: Callable[[], object]) -> None:
        """Call this if and when the transaction commits; what a savepoint undoes is forgotten."""
        self._when_committed.append(act)

    @property
    def connection(self) -> Connection:
        raise UsageError("there is no connection in memory; test handlers with tables of their own on PostgreSQL")

    @property
    def joining(self) -> CallerConnection:
        # Understood by `MemoryEffects.store` alone, which is what a publisher gets here.
        return cast("CallerConnection", self)

    async def append(self, stream_name: str, events: Sequence[Event | NewEvent], *, expected_version: ExpectedVersion) -> AppendResult:
        """Keep the append for the commit; versions and positions are those it will get, unless somebody outside appends meanwhile."""
        await self._effects.reach(Step.APPEND)
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
        await self._effects.reach(Step.READ)
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

    async def limit_lock_wait(self, seconds: float) -> None:
        """Nothing is locked here."""

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        kept, planned = len(self._appends), len(self._when_committed)
        try:
            yield
        except Exception:
            del self._appends[kept:]
            del self._when_committed[planned:]
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

    async def mark_lane(self, group: str, claimed: PartitionPosition, lane: Lane, offset: int) -> bool:
        if not self._effects.is_owner(group, claimed):
            return False
        assert self._effects.lane_marks(group, claimed.partition).get(lane, -1) < offset, "a lane goes forward only"
        self.parked.held.append((group, claimed))
        self._marks.append((group, claimed.partition, lane, offset))
        return True

    @property
    def is_empty(self) -> bool:
        """Whether a commit would change nothing."""
        return not (self._appends or self._letters or self._moves or self._marks or self._when_committed or self.parked.is_changed)

    async def commit(self) -> None:
        """Store everything.

        Raises:
            TransactionConflict: a stream moved on, or a position is another's; nothing is stored.
        """
        for stream_name, version in self._base_versions.items():
            if await self._effects.base.stream_version(stream_name) != version:
                raise TransactionConflict(f"somebody appended to {stream_name!r} meanwhile; repeat the whole transaction")
        is_lost = any(not self._effects.is_owner(group, held) for group, held in self.parked.held)
        if is_lost or any(not self._effects.is_at(group, move.before) for group, move in self._moves):
            raise TransactionConflict("a position was claimed meanwhile; repeat the whole transaction")
        for stream_name, _, prepared in self._appends:
            await self._effects.base.append(stream_name, prepared, expected_version=ANY)
        # Last, so that whoever sees the position sees what it stands for.
        for group, move in self._moves:
            self._effects.set_position(group, move.after)
        for group, partition, lane, offset in self._marks:
            self._effects.lane_marks(group, partition)[lane] = offset
        self._effects.letters.extend(self._letters)
        self.parked.commit()
        for act in self._when_committed:
            act()

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
        self.parking = MemoryParking(clock)
        """What is parked, and where people decide about it."""
        self.is_reachable = True
        """Set it to False to take the database away."""
        self.lose_next_answer = False
        """Set it to True to let the next commit take effect and say that it may not have."""
        self.commit_count = 0
        self.on_step: Callable[[Step], Awaitable[None]] | None = None
        """Asked at each step of a transaction that changes something; what it raises ends the transaction there."""
        self._positions: dict[tuple[str, Partition], PartitionPosition] = {}
        self.divisions: dict[str, list[TopicDivision]] = {}
        """Where topics were given more partitions, by topic."""
        self._lane_marks: dict[tuple[str, Partition], dict[Lane, int]] = {}
        self._turn = asyncio.Lock()
        self._rows = asyncio.Lock()
        """Held by a commit and by a claim: as in a database, a claim may come in the middle of a transaction, which then cannot commit."""

    @property
    def store(self) -> JoiningStore:
        """The store for a publisher: appends with a handler's transaction join it, others go straight in."""
        return JoiningStore(self.base)

    @property
    def dead_letters(self) -> MemoryDeadLetters:
        """What handlers gave up on."""
        return MemoryDeadLetters(self.letters)

    @property
    def is_busy(self) -> bool:
        """Whether a transaction is open."""
        return self._turn.locked()

    async def claim(self, group: str, partition: Partition) -> PartitionPosition:
        self._require_database()
        async with self._rows:
            known = self._positions.get((group, partition), PartitionPosition(partition, 0, 0, {}, None))
            claimed = replace(known, epoch=known.epoch + 1)
            self._positions[group, partition] = claimed
            return claimed

    async def confirm(self, group: str, claimed: PartitionPosition) -> PartitionPosition | None:
        self._require_database()
        async with self._rows:
            known = self._positions[group, claimed.partition]
            return known if known.epoch == claimed.epoch else None

    async def claim_lanes(self, group: str, claimed: PartitionPosition, lane_counts: Mapping[str, int]) -> Mapping[Lane, int] | None:
        self._require_database()
        async with self._rows:
            if not self.is_owner(group, claimed):
                return None
            marks = self.lane_marks(group, claimed.partition)
            wanted = [Lane(name, count, number) for name, count in lane_counts.items() for number in range(count)]
            kept = {lane: mark for lane, mark in marks.items() if mark >= claimed.next_offset or lane in wanted}
            self._lane_marks[group, claimed.partition] = dict.fromkeys(wanted, -1) | kept
            return dict(self._lane_marks[group, claimed.partition])

    def lane_marks(self, group: str, partition: Partition) -> dict[Lane, int]:
        """How far the lanes of a partition got, for assertions."""
        return self._lane_marks.setdefault((group, partition), {})

    async def parked_keys(self, group: str, claimed: PartitionPosition, monotonic: float) -> Sequence[ParkedKey]:
        self._require_database()
        return self.parking.load(group, claimed.partition, monotonic)

    async def topic_divisions(self, topic: str) -> Sequence[TopicDivision]:
        self._require_database()
        return self.divisions.get(topic, [])

    async def group_marks(self, group: str, topic: str) -> Mapping[int, Mapping[UUID, LogPosition]]:
        self._require_database()
        mine = {key: position for key, position in self._positions.items() if key[0] == group and key[1].topic == topic}
        return {partition.number: position.marks for (_, partition), position in mine.items()}

    async def parked_requests(self, group: str, partitions: Sequence[Partition]) -> Sequence[ParkedRequest]:
        self._require_database()
        return self.parking.requests(group, partitions)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[MemoryTransaction]:
        self._require_database()
        async with self._turn:
            transaction = MemoryTransaction(self)
            yield transaction
            if is_change := self._is_change(transaction):
                await self.reach(Step.COMMIT)
            self._require_database()
            await _whole(self._commit(transaction))
            if self.lose_next_answer:
                self.lose_next_answer = False
                raise answer_lost()
            if is_change:
                await self.reach(Step.COMMITTED)

    async def reach(self, step: Step) -> None:
        """A transaction is here now."""
        if self.on_step is not None:
            await self.on_step(step)

    def _is_change(self, transaction: MemoryTransaction) -> bool:
        return not transaction.is_empty

    async def _commit(self, transaction: MemoryTransaction) -> None:
        async with self._rows:
            await transaction.commit()
            self._committed()

    def _committed(self) -> None:
        self.commit_count += 1

    def position(self, group: str, partition: Partition) -> PartitionPosition | None:
        """How far a group got in a partition, for assertions."""
        return self._positions.get((group, partition))

    def is_at(self, group: str, position: PartitionPosition) -> bool:
        """Whether the row is where, and whose, its owner believes."""
        known = self._positions.get((group, position.partition))
        return known is not None and (known.epoch, known.next_offset) == (position.epoch, position.next_offset)

    def is_owner(self, group: str, claimed: PartitionPosition) -> bool:
        """Whether the row still has the epoch of this claim."""
        known = self._positions.get((group, claimed.partition))
        return known is not None and known.epoch == claimed.epoch

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


def answer_lost() -> StorageUnavailable:
    """What a commit raises that took effect and cannot say so."""
    return StorageUnavailable("the answer to a commit was lost on purpose; whether it took effect is unknown")


async def _whole(commit: Coroutine[Any, Any, None]) -> None:
    """Commit all of it, also when the caller is cancelled meanwhile: a database does not stop half-way."""
    task = asyncio.create_task(commit)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


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


class JoiningStore(ForwardingEventStore):
    """A memory store that knows `MemoryTransaction`: given one as `connection=`, an append waits for its commit."""

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
        return await self._store.append(stream_name, events, expected_version=expected_version, connection=connection)

    async def append_to_streams(
        self,
        appends: Sequence[StreamAppend],
        *,
        condition: AppendCondition | None = None,
        connection: CallerConnection | None = None,
    ) -> tuple[AppendResult, ...]:
        """Append to several streams, in the transaction where one is given."""
        if not isinstance(connection, MemoryTransaction):
            return await self._store.append_to_streams(appends, condition=condition, connection=connection)
        if condition is not None:
            raise UsageError("a condition inside a handler cannot be tested in memory; test it on PostgreSQL")
        async with connection.savepoint():
            return tuple([await connection.append(one.stream_name, one.events, expected_version=one.expected_version) for one in appends])

    async def read_matching(self, query: EventQuery | Sequence[EventQuery], *, connection: CallerConnection | None = None) -> Matching:
        """Read what is committed."""
        if isinstance(connection, MemoryTransaction):
            connection = None
        return await self._store.read_matching(query, connection=connection)

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
        return self._store.read_stream(stream_name, from_version=from_version, backwards=backwards, limit=limit, connection=connection)

    async def stream_version(self, stream_name: str, *, connection: CallerConnection | None = None) -> int:
        """How many events the stream has."""
        return len([event async for event in self.read_stream(stream_name, connection=connection)])

    async def find_event(self, event_id: UUID, *, connection: CallerConnection | None = None) -> RecordedEvent | None:
        if isinstance(connection, MemoryTransaction):
            return connection.appended(event_id) or await self._store.find_event(event_id)
        return await self._store.find_event(event_id, connection=connection)

"""Effects, positions and dead letters in PostgreSQL, in one transaction."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from headwater.bus.dead_letters import DeadLetter
from headwater.bus.divisions import TopicDivision
from headwater.bus.group_sources import FedByAnother, source_of
from headwater.bus.lane_marks import Lane
from headwater.bus.parked import ParkedKey, ParkedRequest
from headwater.bus.ports import EffectsRefused
from headwater.bus.postgres_parked import PostgresParkedRows, load_parked_keys, load_parked_requests
from headwater.bus.values import LastRecord, Move, PartitionPosition
from headwater.errors import HeadwaterError, LockTimeout, NotFoundError, StorageError, StorageUnavailable, TransactionConflict
from headwater.eventstore import EventStore
from headwater.kafka import Partition
from headwater.messages import AppendResult, Event, ExpectedVersion, LogPosition, NewEvent, RecordedEvent
from headwater.postgres import CallerConnection, Connection, Database, sql_file, translate_errors

_PACKAGE: Final = "headwater.bus"
_CLAIM_PARTITION = sql_file(_PACKAGE, "claim_partition")
_KEEP_GROUP_SOURCE = sql_file(_PACKAGE, "keep_group_source")
_CONFIRM_CLAIM = sql_file(_PACKAGE, "confirm_claim")
_HAS_LANES = sql_file(_PACKAGE, "has_lanes")
_CLAIM_LANES = sql_file(_PACKAGE, "claim_lanes")
_MARK_LANE = sql_file(_PACKAGE, "mark_lane")
_ADVANCE_POSITIONS = sql_file(_PACKAGE, "advance_positions")
_INSERT_DEAD_LETTER = sql_file(_PACKAGE, "insert_dead_letter")
_LIST_DEAD_LETTERS = sql_file(_PACKAGE, "list_dead_letters")
_READ_DEAD_LETTER = sql_file(_PACKAGE, "read_dead_letter")
_COUNT_DEAD_LETTERS = sql_file(_PACKAGE, "count_dead_letters")
_BEGIN_HANDLER = sql_file(_PACKAGE, "begin_handler")
_UNDO_HANDLER = sql_file(_PACKAGE, "undo_handler")
_KEEP_HANDLER = sql_file(_PACKAGE, "keep_handler")
_CHECK_CONSTRAINTS = sql_file(_PACKAGE, "check_constraints")
_DEFER_CONSTRAINTS = sql_file(_PACKAGE, "defer_constraints")
_LIST_TOPIC_DIVISIONS = sql_file(_PACKAGE, "list_topic_divisions")
_READ_GROUP_MARKS = sql_file(_PACKAGE, "read_group_marks")
_LIMIT_LOCK_WAIT = sql_file(_PACKAGE, "limit_lock_wait")

CLAIM_WAIT_SECONDS_MAX: Final = 5.0
"""How long a claim waits for another member's commit before it is tried anew."""
COMMIT_WAIT_SECONDS_MAX: Final = 5.0
"""How long a lane may take from its mark to its commit, which follows at once, before PostgreSQL ends its session."""
LIST_SIZE_DEFAULT: Final = 100

_BAD_TRANSACTION: Final = ("25P01", "25P02")
"""There is none any more, or it is aborted."""
_INTEGRITY: Final = "23"
_SERVER_TROUBLE: Final = ("53", "57P", "58", "25006", "25P03", "XX", "F0")
"""Out of resources, shutting down, its own files, read only after a failover, idle too long, its own faults."""
_DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class PostgresTransaction:
    """An `EffectTransaction` on one connection."""

    def __init__(self, connection: Connection, store: EventStore) -> None:
        self._connection, self._store = connection, store
        self.is_unusable = False
        """The driver refuses to go on, because something that a handler began is still under way."""
        self.parked = PostgresParkedRows(connection, self._machinery, self.require_open)

    @property
    def connection(self) -> Connection:
        return self._connection

    @property
    def joining(self) -> CallerConnection:
        return self._connection

    async def append(self, stream_name: str, events: Sequence[Event | NewEvent], *, expected_version: ExpectedVersion) -> AppendResult:
        """Append within the transaction."""
        return await self._store.append(stream_name, events, expected_version=expected_version, connection=self._connection)

    def read_stream(
        self, stream_name: str, *, from_version: int | None = None, backwards: bool = False, limit: int | None = None
    ) -> AsyncIterator[RecordedEvent]:
        """Read within the transaction."""
        return self._store.read_stream(
            stream_name, from_version=from_version, backwards=backwards, limit=limit, connection=self._connection
        )

    async def limit_lock_wait(self, seconds: float) -> None:
        """Wait for locks no longer than that, in this transaction."""
        with self._machinery():
            await self._connection.execute(_LIMIT_LOCK_WAIT, str(int(seconds * 1000)))

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        """Undo what happens inside when it raises; see `EffectTransaction.savepoint`."""
        with self._machinery():
            await self._connection.execute(_BEGIN_HANDLER)
        try:
            yield
            with self._machinery():
                self.require_open()
                await self._connection.execute(_CHECK_CONSTRAINTS)
                await self._connection.execute(_DEFER_CONSTRAINTS)
                await self._connection.execute(_KEEP_HANDLER)
        except Exception:
            if not self.is_unusable and self._connection.is_in_transaction():
                with self._machinery():
                    await self._connection.execute(_UNDO_HANDLER)
            raise

    def interpret(self, error: Exception) -> Exception:
        """What a handler's exception means; see `EffectTransaction.interpret`."""
        if isinstance(error, HeadwaterError):
            return error
        if isinstance(error, _DRIVER_ERRORS):
            translated = _translated(error)
            return translated if isinstance(translated, (StorageUnavailable, TransactionConflict)) else error
        if self._connection.is_closed():
            return StorageUnavailable(f"the connection to PostgreSQL was lost while a handler worked ({error!r})")
        return error

    def require_open(self) -> None:
        """Make sure that a handler left the transaction open."""
        if self.is_unusable:
            raise EffectsRefused("a handler left a statement running on context.connection; await everything that is started on it")
        if not self._connection.is_closed() and not self._connection.is_in_transaction():
            raise EffectsRefused("a handler ended the transaction; it must neither commit nor roll back context.connection")

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Keep dead letters."""
        if letters:
            with self._machinery():
                await self._connection.executemany(_INSERT_DEAD_LETTER, [_letter_row(letter) for letter in letters])

    async def advance(self, group: str, moves: Sequence[Move]) -> frozenset[Partition]:
        """Move each row that is still ours; see `EffectTransaction.advance`."""
        after = [move.after for move in moves]
        with self._machinery():
            self.require_open()
            rows = await self._connection.fetch(
                _ADVANCE_POSITIONS,
                group,
                [position.partition.topic for position in after],
                [position.partition.number for position in after],
                [position.epoch for position in after],
                [move.before.next_offset for move in moves],
                [position.next_offset for position in after],
                [_encoded_marks(position) for position in after],
                [position.last.offset if position.last else None for position in after],
                [position.last.log_id if position.last else None for position in after],
                [str(position.last.position) if position.last else None for position in after],
                [position.last.event_id if position.last else None for position in after],
            )
        moved = {Partition(row["topic"], row["partition"]) for row in rows}
        return frozenset(position.partition for position in after) - moved

    async def mark_lane(self, group: str, claimed: PartitionPosition, lane: Lane, offset: int) -> bool:
        """This lane handled everything up to the offset; see `EffectTransaction.mark_lane`."""
        with self._machinery():
            self.require_open()
            milliseconds = str(int(COMMIT_WAIT_SECONDS_MAX * 1000))
            return (
                await self._connection.fetchval(_MARK_LANE, group, *claimed.partition, *lane, claimed.epoch, offset, milliseconds)
                is not None
            )

    @contextmanager
    def _machinery(self) -> Generator[None]:
        try:
            with _machinery():
                yield
        except HeadwaterError as error:
            self.is_unusable = self.is_unusable or isinstance(error.__cause__, asyncpg.InterfaceError)
            raise


class PostgresEffects:
    """An `EffectStore` over a database that somebody else opens and closes."""

    def __init__(self, database: Database, store: EventStore, *, on_commit: Callable[[], None] | None = None) -> None:
        """Join appends to the effects through `store`, which must be of the same database; `on_commit` is called after each commit."""
        self._database, self._store, self._on_commit = database, store, on_commit

    async def claim(self, group: str, partition: Partition) -> PartitionPosition:
        """Become the partition's owner; see `EffectStore.claim`."""
        source = source_of(partition.topic)
        async with self._briefly_waiting() as connection:
            await connection.execute(_KEEP_GROUP_SOURCE, group, source)
            row = await connection.fetchrow(_CLAIM_PARTITION, group, *partition, source)
        if row is None:
            raise FedByAnother(group, "postgres" if source == "kafka" else "kafka", source)
        return _position(partition, row)

    async def confirm(self, group: str, claimed: PartitionPosition) -> PartitionPosition | None:
        """The row now, or None when it is somebody else's; see `EffectStore.confirm`."""
        async with self._briefly_waiting() as connection:
            row = await connection.fetchrow(_CONFIRM_CLAIM, group, *claimed.partition, claimed.epoch)
        return None if row is None else _position(claimed.partition, row)

    async def claim_lanes(self, group: str, claimed: PartitionPosition, lane_counts: Mapping[str, int]) -> Mapping[Lane, int] | None:
        """Take over the lanes of a partition; see `EffectStore.claim_lanes`."""
        names, counts = list(lane_counts), list(lane_counts.values())
        async with self._briefly_waiting() as connection:
            if not names and not await connection.fetchval(_HAS_LANES, group, *claimed.partition):
                return {}
            if await connection.fetchrow(_CONFIRM_CLAIM, group, *claimed.partition, claimed.epoch) is None:
                return None
            rows = await connection.fetch(_CLAIM_LANES, group, *claimed.partition, claimed.epoch, claimed.next_offset, names, counts)
        return {Lane(row["handler_name"], row["lane_count"], row["lane"]): row["mark"] for row in rows}

    async def parked_keys(self, group: str, claimed: PartitionPosition, monotonic: float) -> Sequence[ParkedKey]:
        """What is parked of a partition; see `EffectStore.parked_keys`."""
        with _machinery():
            async with self._database.connection() as connection:
                return await load_parked_keys(connection, group, claimed.partition, monotonic)

    async def topic_divisions(self, topic: str) -> Sequence[TopicDivision]:
        """Where a topic of this log was given more partitions; see `EffectStore.topic_divisions`."""
        with _machinery():
            async with self._database.connection() as connection:
                rows = await connection.fetch(_LIST_TOPIC_DIVISIONS, topic)
        return [
            TopicDivision(
                row["log_id"],
                LogPosition(row["through_epoch"], row["through_position"]),
                {int(number): LogPosition.parse(tail) for number, tail in orjson.loads(row["tails"]).items()},
            )
            for row in rows
        ]

    async def group_marks(self, group: str, topic: str) -> Mapping[int, Mapping[UUID, LogPosition]]:
        """How far the group got in each partition; see `EffectStore.group_marks`."""
        with _machinery():
            async with self._database.connection() as connection:
                rows = await connection.fetch(_READ_GROUP_MARKS, group, topic)
        return {row["partition"]: decoded_marks(row["marks"]) for row in rows}

    async def parked_requests(self, group: str, partitions: Sequence[Partition]) -> Sequence[ParkedRequest]:
        """What people want done; see `EffectStore.parked_requests`."""
        with _machinery():
            async with self._database.connection() as connection:
                return await load_parked_requests(connection, group, partitions)

    @asynccontextmanager
    async def _briefly_waiting(self) -> AsyncGenerator[Connection]:
        """A transaction that waits only so long for rows that another member holds."""
        # Inside as well: the pool has words of its own for a lock that was not given.
        with _machinery():
            async with self._database.transaction() as connection:
                with _machinery():
                    await connection.execute(_LIMIT_LOCK_WAIT, str(int(CLAIM_WAIT_SECONDS_MAX * 1000)))
                    yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[PostgresTransaction]:
        """Commits at the end of the block; see `EffectStore.transaction`."""
        failure: Exception | None = None
        try:
            with _machinery():
                async with self._database.transaction(on_commit=self._on_commit) as connection:
                    transaction = PostgresTransaction(connection, self._store)
                    try:
                        yield transaction
                    except Exception as error:
                        if transaction.is_unusable:
                            # It cannot even be rolled back; the server does that when the connection goes.
                            failure = error
                            connection.terminate()
                        raise
        except Exception:
            # Rolling back a connection that is gone fails, too; what matters is why it went.
            if failure is not None:
                raise failure from failure.__cause__
            raise


class DeadLetters:
    """Reads back what handlers gave up on."""

    def __init__(self, database: Database, *, group: str | None = None) -> None:
        """Look at one group's letters, or at all in this database."""
        self._database, self._group = database, group

    async def list(self, limit: int = LIST_SIZE_DEFAULT, *, after: int = 0) -> tuple[DeadLetter, ...]:
        """The oldest letters whose id is above `after`."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_LIST_DEAD_LETTERS, self._group, after, limit)
        return tuple(dead_letter_of(row) for row in rows)

    async def get(self, dead_letter_id: int) -> DeadLetter:
        """One letter.

        Raises:
            NotFoundError: there is none of this id.
        """
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_READ_DEAD_LETTER, dead_letter_id)
        if row is None:
            raise NotFoundError(f"there is no dead letter {dead_letter_id}; list them with: headwater dead-letters list")
        return dead_letter_of(row)

    async def count(self) -> int:
        """How many there are."""
        async with self._database.connection() as connection:
            return int(await connection.fetchval(_COUNT_DEAD_LETTERS, self._group))


# -- what errors of the machinery mean ---------------------------------------------------------------------------------


@contextmanager
def _machinery() -> Generator[None]:
    """Around statements that are ours, not a handler's: whatever fails is the handlers' doing or the server's, and says which."""
    try:
        yield
    except _DRIVER_ERRORS as error:
        raise _translated(error) from error


def _translated(error: Exception) -> HeadwaterError:
    """Ours for a driver's error; never the driver's own."""
    try:
        with translate_errors():
            raise error
    except LockTimeout as translated:
        return TransactionConflict(f"PostgreSQL gave no lock in time ({translated}); repeat the whole transaction")
    except HeadwaterError as translated:
        return translated
    except asyncpg.PostgresError as same:
        sqlstate: str = same.sqlstate or ""
        if sqlstate in _BAD_TRANSACTION:
            return EffectsRefused(
                "a handler passed over a database error and left the transaction aborted; let the error out, or use a savepoint"
            )
        if sqlstate.startswith(_INTEGRITY):
            return EffectsRefused(f"a handler broke a constraint that is checked at the end: {same}")
        if sqlstate.startswith(_SERVER_TROUBLE):
            return StorageUnavailable(f"PostgreSQL cannot do it now ({same}); repeat the transaction")
        return StorageError(f"PostgreSQL refused: {type(same).__name__}: {same}")
    except asyncpg.InternalClientError as same:
        # asyncpg stumbles when the server ends a connection in the moment in which it is given back to the pool, after the commit.
        return StorageUnavailable(f"the connection to PostgreSQL broke ({same}); whether the transaction was committed is unknown")
    except Exception as same:  # noqa: BLE001 - the driver's own trouble, such as a connection that a handler still uses
        return EffectsRefused(f"the connection cannot be used: {same}; a handler must await everything that it starts on it")


# -- rows and values ---------------------------------------------------------------------------------------------------


def decoded_marks(text: str) -> dict[UUID, LogPosition]:
    """The last position of each log, as a row has them."""
    return {UUID(log_id): LogPosition.parse(mark) for log_id, mark in orjson.loads(text).items()}


def _encoded_marks(position: PartitionPosition) -> str:
    return orjson.dumps({str(log_id): str(mark) for log_id, mark in position.marks.items()}).decode()


def _position(partition: Partition, row: asyncpg.Record) -> PartitionPosition:
    last = row["last_offset"]
    return PartitionPosition(
        partition=partition,
        epoch=row["epoch"],
        next_offset=row["next_offset"],
        marks=decoded_marks(row["marks"]),
        last=None if last is None else _last_record(last, row),
    )


def _last_record(offset: int, row: asyncpg.Record) -> LastRecord:
    event_id = row["last_event_id"]
    return LastRecord(
        offset,
        log_id=UUID(str(row["last_log_id"])),
        position=LogPosition.parse(row["last_position"]),
        event_id=None if event_id is None else UUID(str(event_id)),
    )


def _letter_row(letter: DeadLetter) -> tuple[Any, ...]:
    return (
        letter.group,
        letter.handler_name,
        letter.partition.topic,
        letter.partition.number,
        letter.offset,
        letter.log_id,
        None if letter.position is None else str(letter.position),
        letter.event_id,
        letter.stream_name,
        letter.version,
        letter.event_type,
        letter.data,
        None if letter.metadata is None else orjson.dumps(dict(letter.metadata)).decode(),
        letter.recorded_at,
        None if letter.raw is None else orjson.dumps(letter.raw).decode(),
        letter.error_type,
        letter.error_message,
        letter.traceback,
        letter.attempts,
        letter.first_failed_at,
        letter.last_failed_at,
        letter.is_skipped,
    )


def dead_letter_of(row: asyncpg.Record) -> DeadLetter:
    """The letter that a row holds."""
    return DeadLetter(
        group=row["group_name"],
        handler_name=row["handler_name"],
        partition=Partition(row["topic"], row["partition"]),
        offset=row["record_offset"],
        error_type=row["error_type"],
        error_message=row["error_message"],
        traceback=row["traceback"],
        attempts=row["attempts"],
        first_failed_at=row["first_failed_at"],
        last_failed_at=row["last_failed_at"],
        event_id=row["event_id"],
        log_id=row["log_id"],
        position=None if row["log_position"] is None else LogPosition.parse(row["log_position"]),
        stream_name=row["stream_name"],
        version=row["version"],
        event_type=row["event_type"],
        data=row["data"],
        metadata=None if row["metadata"] is None else orjson.loads(row["metadata"]),
        recorded_at=row["recorded_at"],
        raw=None if row["raw"] is None else orjson.loads(row["raw"]),
        dead_letter_id=row["dead_letter_id"],
    )

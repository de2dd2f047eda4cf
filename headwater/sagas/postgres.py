"""Sagas in PostgreSQL: locked, saved, and read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import orjson

from headwater.bus import EffectsRefused
from headwater.errors import SagaNotFound, UsageError
from headwater.postgres import Connection, Database, sql_file
from headwater.sagas.definition import definition_of, key_text
from headwater.sagas.ports import SagaEffects
from headwater.sagas.progress import Phase, Progress, StepRecord, StepStatus, StoredCommand
from headwater.sagas.values import (
    DeadlineId,
    DeadlineKind,
    DeadlineSetting,
    DueDeadline,
    Note,
    SagaChanges,
    SagaDeadline,
    SagaInstance,
    SagaRecord,
    SagaStatus,
    SagaSummary,
    SagaTransition,
)

_PACKAGE: Final = "headwater.sagas"
_START_SAGA = sql_file(_PACKAGE, "start_saga")
_LOCK_SAGA = sql_file(_PACKAGE, "lock_saga")
_SAVE_SAGA = sql_file(_PACKAGE, "save_saga")
_CLAIM_DEADLINE = sql_file(_PACKAGE, "claim_deadline")
_NEXT_DEADLINE = sql_file(_PACKAGE, "next_deadline")
_LIST_DEADLINES = sql_file(_PACKAGE, "list_deadlines")
_LIST_SAGAS = sql_file(_PACKAGE, "list_sagas")
_READ_SAGA = sql_file(_PACKAGE, "read_saga")
_LIST_HISTORY = sql_file(_PACKAGE, "list_history")
_COUNT_SAGAS = sql_file(_PACKAGE, "count_sagas")

LIST_SIZE_DEFAULT: Final = 100


class PostgresSagaStore:
    """A `SagaStore` that works on the connection of the transaction it is given."""

    async def start(
        self, effects: SagaEffects, *, saga_type: str, key: str, state: str, correlation_id: str, cause_id: Any
    ) -> SagaRecord | None:
        """A new saga; see `SagaStore.start`."""
        stored = await effects.connection.fetchval(_START_SAGA, saga_type, key, state, correlation_id, cause_id)
        return None if stored is None else SagaRecord(saga_type, key, stored, Progress(), correlation_id, cause_id)

    async def load(self, effects: SagaEffects, saga_type: str, key: str) -> SagaRecord | None:
        """The saga, locked; see `SagaStore.load`."""
        row = await effects.connection.fetchrow(_LOCK_SAGA, saga_type, key)
        return None if row is None else await _record(effects.connection, row)

    async def save(self, effects: SagaEffects, record: SagaRecord, changes: SagaChanges) -> None:
        """Row, deadlines and history in one statement; see `SagaStore.save`."""
        if not effects.connection.is_in_transaction():
            # What is saved now would be kept by itself, without the position and whatever else belongs to this turn.
            raise EffectsRefused("a saga's method ended the transaction; it must neither commit nor roll back saga.connection")
        removed, settings = list(changes.deadlines_removed), list(changes.deadlines_set.items())
        await effects.connection.execute(
            _SAVE_SAGA,
            record.saga_type,
            record.key,
            record.progress.phase.value,
            record.status.value,
            record.state,
            encode_steps(record.progress.steps),
            record.reason,
            record.cause_id,
            [kind.value for kind in changes.kinds_removed],
            [deadline.kind.value for deadline in removed],
            [deadline.name for deadline in removed],
            [deadline.kind.value for deadline, _ in settings],
            [deadline.name for deadline, _ in settings],
            [setting.at for _, setting in settings],
            [setting.after_seconds for _, setting in settings],
            [setting.period_seconds for _, setting in settings],
            [setting.attempts for _, setting in settings],
            [setting.error for _, setting in settings],
            [setting.is_failed for _, setting in settings],
            [note.kind for note in changes.notes],
            [note.subject for note in changes.notes],
            [note.detail for note in changes.notes],
        )

    async def claim_due(self, effects: SagaEffects, saga_types: Sequence[str]) -> DueDeadline | None:
        """A deadline that has passed; see `SagaStore.claim_due`."""
        row = await effects.connection.fetchrow(_CLAIM_DEADLINE, saga_types)
        if row is None:
            return None
        deadline = DeadlineId(DeadlineKind(row["kind"]), row["name"])
        return DueDeadline(deadline, row["attempts"], row["period_seconds"], await _record(effects.connection, row))

    async def seconds_to_next(self, effects: SagaEffects, saga_types: Sequence[str]) -> float | None:
        """How long until the next deadline; see `SagaStore.seconds_to_next`."""
        seconds: float | None = await effects.connection.fetchval(_NEXT_DEADLINE, saga_types)
        return seconds


class Sagas:
    """Looks at the sagas of one database, and lets one that waits for a person go on."""

    def __init__(self, database: Database) -> None:
        """Read from a database that somebody else opens and closes."""
        self._database = database

    async def list(
        self, *, status: SagaStatus | str | None = None, saga_type: str | type | None = None, limit: int = LIST_SIZE_DEFAULT
    ) -> tuple[SagaSummary, ...]:
        """The newest sagas, of one status or one type where these are given.

        Raises:
            UsageError: there is no such status.
        """
        wanted = None if status is None else status_of(status).value
        async with self._database.connection() as connection:
            rows = await connection.fetch(_LIST_SAGAS, wanted, None if saga_type is None else type_name(saga_type), limit)
        return tuple(SagaSummary(**_summary(row), stuck_because=tuple(row["stuck_because"])) for row in rows)

    async def get(self, saga_type: str | type, key: object) -> SagaInstance:
        """One saga with its steps, deadlines and history, as one moment shows them.

        Raises:
            SagaNotFound: none of this type and key has begun.
        """
        name, text = type_name(saga_type), key_text(key)
        async with self._database.connection() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            row = await connection.fetchrow(_READ_SAGA, name, text)
            if row is None:
                raise SagaNotFound(f"there is no saga {name} {text!r}; list them with: headwater sagas list")
            deadlines = tuple(_deadline(found) for found in await connection.fetch(_LIST_DEADLINES, name, text))
            history = tuple(SagaTransition(**dict(found)) for found in await connection.fetch(_LIST_HISTORY, name, text))
        return SagaInstance(
            **_summary(row),
            stuck_because=tuple(f"{found.name}: {found.error}" for found in deadlines if found.is_failed),
            state=orjson.loads(row["state"]),
            steps=decode_steps(row["steps"]),
            deadlines=deadlines,
            history=history,
        )

    async def count(self, *, saga_type: str | type | None = None) -> dict[SagaStatus, int]:
        """How many there are of each status; every status is there."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_COUNT_SAGAS, None if saga_type is None else type_name(saga_type))
        found = {row["status"]: row["saga_count"] for row in rows}
        return {status: int(found.get(status.value, 0)) for status in SagaStatus}

    async def retry(self, saga_type: str | type, key: object) -> int:
        """Let the deadlines that a saga waits for a person for be acted on again; returns how many. Harmless when there are none.

        Raises:
            SagaNotFound: none of this type and key has begun.
        """
        name, text = type_name(saga_type), key_text(key)
        store = PostgresSagaStore()
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(_LOCK_SAGA, name, text)
            if row is None:
                raise SagaNotFound(f"there is no saga {name} {text!r}; list them with: headwater sagas list")
            failed = [found for found in await connection.fetch(_LIST_DEADLINES, name, text) if found["is_failed"]]
            record, changes = await _record(connection, row), SagaChanges()
            record.failed_deadlines.clear()
            for found in failed:
                deadline = DeadlineId(DeadlineKind(found["kind"]), found["name"])
                period: float = found["period_seconds"]
                changes.deadlines_set[deadline] = DeadlineSetting(after_seconds=period, period_seconds=period)
                changes.notes.append(Note("resumed", deadline.name, "by a person"))
            if failed:
                await store.save(_OnConnection(connection), record, changes)
        return len(failed)


def status_of(status: SagaStatus | str) -> SagaStatus:
    """The status of this name.

    Raises:
        UsageError: naming those there are.
    """
    try:
        return SagaStatus(status)
    except ValueError:
        raise UsageError(f"no saga is ever {str(status)!r}; choose among {', '.join(SagaStatus)}") from None


def type_name(saga_type: str | type) -> str:
    """The name under which sagas of a class, or of a name, are stored."""
    return saga_type if isinstance(saga_type, str) else definition_of(saga_type).name


class _OnConnection:
    """A connection as `SagaEffects`, for what appends nothing."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def append(self, stream_name: str, events: Any, *, expected_version: Any) -> Any:  # noqa: ARG002 - never called
        raise AssertionError("a person's retry appends nothing")


# -- rows and values ---------------------------------------------------------------------------------------------------


async def _record(connection: Connection, row: asyncpg.Record) -> SagaRecord:
    failed: dict[DeadlineId, str] = {}
    if row["status"] == SagaStatus.STUCK:
        # A statement of its own: the one that waited for the lock would see the deadlines as they were before it waited.
        for found in await connection.fetch(_LIST_DEADLINES, row["saga_type"], row["saga_key"]):
            if found["is_failed"]:
                failed[DeadlineId(DeadlineKind(found["kind"]), found["name"])] = found["error"]
    return SagaRecord(
        saga_type=row["saga_type"],
        key=row["saga_key"],
        state=row["state"],
        progress=Progress(Phase(row["phase"]), decode_steps(row["steps"])),
        correlation_id=row["correlation_id"],
        cause_id=row["cause_id"],
        reason=row["reason"],
        history_count=row["history_count"],
        failed_deadlines=failed,
    )


def _summary(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "saga_type": row["saga_type"],
        "key": row["saga_key"],
        "status": SagaStatus(row["status"]),
        "phase": Phase(row["phase"]),
        "reason": row["reason"],
        "started_at": row["started_at"],
        "updated_at": row["updated_at"],
        "ended_at": row["ended_at"],
    }


def _deadline(row: asyncpg.Record) -> SagaDeadline:
    return SagaDeadline(DeadlineKind(row["kind"]), row["name"], row["due_at"], row["attempts"], row["is_failed"], row["error"])


def encode_steps(steps: Sequence[StepRecord]) -> str:
    """Steps as they are stored."""
    return orjson.dumps(steps).decode()


def decode_steps(text: str) -> tuple[StepRecord, ...]:
    """What `encode_steps` wrote."""
    return tuple(
        StepRecord(
            name=step["name"],
            status=StepStatus(step["status"]),
            compensation=None if step["compensation"] is None else StoredCommand(**step["compensation"]),
            awaits_confirmation=step["awaits_confirmation"],
            round=step["round"],
        )
        for step in orjson.loads(text)
    )

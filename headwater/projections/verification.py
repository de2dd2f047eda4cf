"""Proving that a read model is what the log says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from headwater.eventstore import Checkpoint, EventStore
from headwater.messages import EventRegistry, RecordedEvent
from headwater.postgres import Connection, Database, translate_errors
from headwater.projections.applying import apply_only
from headwater.projections.definition import AnyProjection, ProjectionDefinition
from headwater.projections.fold import Projection, decode_row, encode_row, fold_steps, steps_of
from headwater.projections.postgres import (
    VERIFY,
    OwnSession,
    compare_tables,
    count_rows,
    create_tables,
    list_states,
    list_tables,
    lock_version,
    read_version,
    unknown_projection,
    version_schema,
)
from headwater.projections.runner import check_projections
from headwater.projections.values import Difference, Verification

DIFFERENCES_MAX: Final = 100
"""Differences reported at most."""
VERIFY_BATCH_SIZE: Final = 5_000


async def verify(database: Database, store: EventStore, registry: EventRegistry, projection_class: AnyProjection) -> Verification:
    """Compare the stored read model with what the log gives when read anew, up to the read model's checkpoint.

    The projection goes on meanwhile, but for the comparison of the rows. A fold's rows are all held in memory; an SQL projection is built again
    in tables that no one else sees and that are gone afterwards, in one transaction. Columns that do not come from events (a default of
    `now()`) count as differences.

    Raises:
        NotFoundError: the projection never ran here.
        ProjectionFailed: the projection raises at an event.
    """
    (definition,) = check_projections(registry, [projection_class])
    session = OwnSession(database)
    try:
        if definition.is_sql:
            return await _verify_sql(session, definition, store, registry)
        return await _verify_fold(session, definition, store, registry)
    finally:
        await session.close()


async def _verify_fold(session: OwnSession, definition: ProjectionDefinition, store: EventStore, registry: EventRegistry) -> Verification:
    rows: dict[str, Projection] = {}
    done = await _fold_up_to(await _live_checkpoint(session, definition), 0, rows, definition, store, registry)
    async with session.transaction() as connection:
        # Under this lock the rows are those of this very checkpoint.
        version = await lock_version(connection, definition.name)
        if version is None:
            raise await unknown_projection(connection, definition.name)
        await _fold_up_to(version.checkpoint, done, rows, definition, store, registry)
        stored = dict(await list_states(connection, definition, None, None))
    differences: list[Difference] = []
    for key in sorted(stored.keys() | rows.keys()):
        difference = _row_difference(definition, key, stored.get(key), rows.get(key))
        if difference is not None and len(differences) < DIFFERENCES_MAX:
            differences.append(difference)
    return Verification(definition.name, version.checkpoint, len(stored), tuple(differences))


def _row_difference(definition: ProjectionDefinition, key: str, stored: str | None, expected: Projection | None) -> Difference | None:
    if stored is None or expected is None:
        return Difference(key, stored, None if expected is None else encode_row(definition, expected, ()))
    wanted = encode_row(definition, expected, ())
    fold_class = type(expected)
    # Both as they come back from storage: sets have no order, and NaN equals nothing.
    found, should_be = decode_row(fold_class, key, stored), decode_row(fold_class, key, wanted)
    if found == should_be or found.model_dump_json() == should_be.model_dump_json():
        return None
    return Difference(key, stored, wanted)


async def _fold_up_to(
    checkpoint: Checkpoint,
    after: int,
    rows: dict[str, Projection],
    definition: ProjectionDefinition,
    store: EventStore,
    registry: EventRegistry,
) -> int:
    async for events in _batches(store, after, checkpoint.global_position):
        fold_steps(definition, rows, steps_of(definition, registry, events))
    return max(after, checkpoint.global_position)


async def _verify_sql(session: OwnSession, definition: ProjectionDefinition, store: EventStore, registry: EventRegistry) -> Verification:
    connection = await session.connection()
    transaction = connection.transaction(isolation="read_committed")
    with translate_errors():
        await transaction.start()
        try:
            await create_tables(connection, definition, VERIFY)
            checkpoint = await _build_again(connection, definition, store, registry)
            return await _compare(connection, definition, checkpoint)
        finally:
            # Nothing of this is to stay.
            await transaction.rollback()


async def _build_again(connection: Connection, definition: ProjectionDefinition, store: EventStore, registry: EventRegistry) -> Checkpoint:
    """Fill the tables up to the live version's checkpoint, which is held still from then on."""
    done, checkpoint = 0, Checkpoint()
    for find_version in (read_version, lock_version):
        version = await find_version(connection, definition.name)
        if version is None:
            raise await unknown_projection(connection, definition.name)
        checkpoint = version.checkpoint
        async for events in _batches(store, done, version.checkpoint.global_position):
            await apply_only(connection, definition, registry, VERIFY, events)
        done = version.checkpoint.global_position
    return checkpoint


async def _compare(connection: Connection, definition: ProjectionDefinition, checkpoint: Checkpoint) -> Verification:
    stored, expected = version_schema(connection, definition), version_schema(connection, definition, VERIFY)
    tables = {schema: set(await list_tables(connection, schema)) for schema in (stored, expected)}
    if tables[stored] != tables[expected]:
        missing = tables[stored] ^ tables[expected]
        found = [
            Difference(t, "a table" if t in tables[stored] else None, "a table" if t in tables[expected] else None) for t in sorted(missing)
        ]
        return Verification(definition.name, checkpoint, 0, tuple(found))
    differences: list[Difference] = []
    rows_compared = 0
    for table in sorted(tables[stored]):
        rows_compared += await count_rows(connection, stored, table)
        for side, row in await compare_tables(connection, table, stored, expected, DIFFERENCES_MAX):
            differences.append(Difference(table, row if side == "stored" else None, row if side == "expected" else None))
    return Verification(definition.name, checkpoint, rows_compared, tuple(differences[:DIFFERENCES_MAX]))


async def _live_checkpoint(session: OwnSession, definition: ProjectionDefinition) -> Checkpoint:
    connection = await session.connection()
    version = await read_version(connection, definition.name)
    if version is None:
        raise await unknown_projection(connection, definition.name)
    return version.checkpoint


async def _batches(store: EventStore, after: int, until: int) -> AsyncIterator[list[RecordedEvent]]:
    """The log after one position and up to another."""
    while after < until:
        read = await store.read_log(after=after, limit=VERIFY_BATCH_SIZE)
        events = [event for event in read.events if event.global_position <= until]
        if not events:
            return
        yield events
        after = events[-1].global_position

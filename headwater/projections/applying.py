"""A batch of the log into a version of a projection, on a connection whose transaction also moves the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from headwater.errors import HeadwaterError
from headwater.eventstore import Checkpoint, LogIdentity
from headwater.messages import EventRegistry, RecordedEvent
from headwater.postgres import Connection, translate_errors
from headwater.projections.definition import ProjectionDefinition
from headwater.projections.fold import Projection, Step, decode_row, encode_row, failed, fold_steps, steps_of
from headwater.projections.postgres import is_outdated_plan, load_states, move_checkpoint, save_states, set_search_path, version_schema
from headwater.projections.sql_projection import SqlProjection
from headwater.telemetry import Correlation, correlate


class OutdatedPlan(Exception):
    """A statement was planned for tables that a switch replaced; repeat the transaction."""


async def apply_batch(
    connection: Connection,
    definition: ProjectionDefinition,
    registry: EventRegistry,
    identity: LogIdentity,
    role: str,
    events: Sequence[RecordedEvent],
) -> Checkpoint:
    """Apply consecutive events and move the checkpoint to the last of them; the caller holds the lock of the version's row.

    Raises:
        ProjectionFailed: at an event; roll the transaction back.
        OutdatedPlan: roll back and repeat.
    """
    await apply_only(connection, definition, registry, role, events)
    last = events[-1]
    checkpoint = Checkpoint(identity.locate(last.global_position).epoch, last.global_position, last.event_id)
    await move_checkpoint(connection, definition.name, role, checkpoint, len(events))
    return checkpoint


async def apply_only(
    connection: Connection, definition: ProjectionDefinition, registry: EventRegistry, role: str, events: Sequence[RecordedEvent]
) -> None:
    """Apply events to a version and leave its checkpoint alone."""
    steps = list(steps_of(definition, registry, events))
    if not steps:
        return
    await set_search_path(connection, version_schema(connection, definition, role))
    if definition.is_sql:
        await _apply_sql(connection, definition, steps)
    else:
        await _apply_fold(connection, definition, steps)


async def _apply_fold(connection: Connection, definition: ProjectionDefinition, steps: Sequence[Step]) -> None:
    projection_class = definition.projection_class
    assert issubclass(projection_class, Projection), "the definition says that it is a fold"
    keys = {step.key for step in steps if step.key is not None}
    stored = await load_states(connection, list(keys))
    try:
        rows: dict[str, Projection] = {key: decode_row(projection_class, key, state) for key, state in stored.items()}
    except HeadwaterError as error:
        raise failed(definition, steps[0].recorded, error) from error
    fold_steps(definition, rows, steps)
    await save_states(connection, {key: encode_row(definition, row, steps) for key, row in rows.items()})


async def _apply_sql(connection: Connection, definition: ProjectionDefinition, steps: Sequence[Step]) -> None:
    projection_class = definition.projection_class
    assert issubclass(projection_class, SqlProjection), "the definition says that it is not a fold"
    projection = projection_class()
    for step in steps:
        recorded = step.recorded
        try:
            with correlate(Correlation(recorded.correlation_id, str(recorded.event_id))), translate_errors():
                await step.handler.function(projection, step.event, connection)
        except Exception as error:
            if isinstance(error, HeadwaterError) and error.retryable:
                raise
            if is_outdated_plan(error):
                raise OutdatedPlan from error
            raise failed(definition, recorded, error) from error

"""Read models: folds and tables made from the log, kept up to date, rebuilt with no downtime, and proven equal to the log.

Who is authoritative: the log. A read model may be dropped at any moment and made anew. How far it got is a row in `headwater.projections`,
moved in the very transaction that changes the model, under that row's lock: whatever crashes, and however many processes run the same
projection, an event changes it once. A checkpoint moves past events that the projection does not take, so that readers can wait for any position.

Where it lives: each version in a schema of its own, `projection_<name>`, with that schema alone on the search path (rule 23). A rebuild
fills `projection_<name>__next` beside it and switches by renaming both, once the new mark has reached the old one; what was replaced is
`projection_<name>__old` until nobody reads it and it can be dropped.

States of a projection: running → failed (it raised at an event: mended by a person, resumed or rebuilt) or diverged (the log lost what it had read:
rebuilt) → running. In one process only: outdated (its rows were made by another definition) or superseded (it was rebuilt by other code).

What can fail: the projection's own code (`ProjectionFailed` in a rebuild; a runner tries five times, stops that projection with an alarm,
and goes on with the others), the database (waited out by a runner), a wait for freshness (`ConsistencyTimeout`, `ProjectionStopped`), a second
rebuild at the same time (`RebuildRunning`).
"""

from headwater.projections.definition import AnyProjection, definition_of, key_text, on
from headwater.projections.fold import Projection, fold_steps, steps_of
from headwater.projections.inspection import ProjectionLag, count_all_rows, list_lags, read_lag
from headwater.projections.postgres import QueryConnection, list_projections, resume_projection
from headwater.projections.reading import READ_TIMEOUT_SECONDS, ReadModels, RowReader, fold_definition, row_key_of
from headwater.projections.rebuild import rebuild
from headwater.projections.runner import ProjectionRunner, register_projections
from headwater.projections.sql_projection import SqlProjection
from headwater.projections.values import Consistency, Difference, ProjectionVersion, RebuildProgress, Verification
from headwater.projections.verification import verify

__all__ = [
    "READ_TIMEOUT_SECONDS",
    "AnyProjection",
    "Consistency",
    "Difference",
    "Projection",
    "ProjectionLag",
    "ProjectionRunner",
    "ProjectionVersion",
    "QueryConnection",
    "ReadModels",
    "RebuildProgress",
    "RowReader",
    "SqlProjection",
    "Verification",
    "count_all_rows",
    "definition_of",
    "fold_definition",
    "fold_steps",
    "key_text",
    "list_lags",
    "list_projections",
    "on",
    "read_lag",
    "rebuild",
    "register_projections",
    "resume_projection",
    "row_key_of",
    "steps_of",
    "verify",
]

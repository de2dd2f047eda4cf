"""Where people decide about dead letters: look at them, ask for another try, pass over them, or throw them away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from headwater.bus.dead_letters import DeadLetter
from headwater.bus.postgres import LIST_SIZE_DEFAULT, dead_letter_of
from headwater.errors import NotFoundError
from headwater.postgres import Database, sql_file

_PACKAGE: Final = "headwater.bus"
_SELECT_DEAD_LETTERS = sql_file(_PACKAGE, "select_dead_letters")
_COUNT_SELECTED_DEAD_LETTERS = sql_file(_PACKAGE, "count_selected_dead_letters")
_REQUEST_LETTER_RETRIES = sql_file(_PACKAGE, "request_letter_retries")
_SKIP_DEAD_LETTERS = sql_file(_PACKAGE, "skip_dead_letters")
_DELETE_DEAD_LETTERS = sql_file(_PACKAGE, "delete_dead_letters")

LetterStatus: TypeAlias = Literal["waiting", "retrying", "handled", "skipped"]
"""`waiting` for somebody to decide, `retrying` as soon as a consumer gets to it, `handled` by a retry, `skipped` for good."""
OPEN_STATUSES: Final[tuple[LetterStatus, ...]] = ("waiting", "retrying")
ALL_STATUSES: Final[tuple[LetterStatus, ...]] = ("waiting", "retrying", "handled", "skipped")


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which dead letters are meant; what is None leaves out nothing."""

    ids: tuple[int, ...] | None = None
    group: str | None = None
    handler_name: str | None = None
    event_type: str | None = None
    statuses: tuple[LetterStatus, ...] = OPEN_STATUSES

    @property
    def is_everything(self) -> bool:
        """Whether nothing but the status narrows it down."""
        return (self.ids, self.group, self.handler_name, self.event_type) == (None, None, None, None)


@dataclass(frozen=True, slots=True)
class KeptLetter:
    """A dead letter, and what was decided about it."""

    letter: DeadLetter
    dead_letter_id: int
    status: LetterStatus
    stored_at: datetime
    retry_requested_at: datetime | None
    """When somebody last asked for a retry."""
    settled_at: datetime | None
    """When a retry handled it, or somebody skipped it."""

    @property
    def can_be_retried(self) -> bool:
        """A record that nobody could read belongs to no handler."""
        return self.letter.handler_name is not None and self.letter.event_id is not None


class DeadLetterDesk:
    """Decisions about the dead letters of one database. Each waits for a retry of the letter that is under way."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, chosen: LetterFilter, *, limit: int = LIST_SIZE_DEFAULT, after: int = 0) -> tuple[KeptLetter, ...]:
        """The oldest letters that the filter finds, of those whose id is above `after`."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_SELECT_DEAD_LETTERS, *_arguments(chosen), after, limit)
        return tuple(_kept_letter(row) for row in rows)

    async def count(self, chosen: LetterFilter) -> int:
        """How many letters the filter finds."""
        async with self._database.connection() as connection:
            return int(await connection.fetchval(_COUNT_SELECTED_DEAD_LETTERS, *_arguments(chosen)))

    async def get(self, dead_letter_id: int) -> KeptLetter:
        """One letter, whatever its status.

        Raises:
            NotFoundError: there is none of this id.
        """
        found = await self.list(LetterFilter(ids=(dead_letter_id,), statuses=ALL_STATUSES), limit=1)
        if not found:
            raise NotFoundError(f"there is no dead letter {dead_letter_id}; list them with: headwater dead-letters list --status all")
        return found[0]

    async def retry(self, ids: Sequence[int]) -> frozenset[int]:
        """Ask for another try by the same handler in a running consumer of the group; returns those that will be tried.

        Left as they are: letters that were handled, that are to be tried already, and that cannot be (`KeptLetter.can_be_retried`).
        """
        return await self._decide(_REQUEST_LETTER_RETRIES, ids)

    async def skip(self, ids: Sequence[int]) -> frozenset[int]:
        """Settle letters without an effect; returns those that were open until now."""
        return await self._decide(_SKIP_DEAD_LETTERS, ids)

    async def discard(self, ids: Sequence[int]) -> frozenset[int]:
        """Remove letters for good, whatever their status; returns those that were there."""
        return await self._decide(_DELETE_DEAD_LETTERS, ids)

    async def _decide(self, statement: str, ids: Sequence[int]) -> frozenset[int]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(statement, ids)
        return frozenset(row["dead_letter_id"] for row in rows)


def _arguments(chosen: LetterFilter) -> tuple[Any, ...]:
    return chosen.ids, chosen.group, chosen.handler_name, chosen.event_type, chosen.statuses


def _kept_letter(row: Any) -> KeptLetter:
    return KeptLetter(
        letter=dead_letter_of(row),
        dead_letter_id=row["dead_letter_id"],
        status=row["status"],
        stored_at=row["stored_at"],
        retry_requested_at=row["retry_requested_at"],
        settled_at=row["settled_at"],
    )

"""Dead letters, and their copies for whoever subscribes to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from headwater.bus.dead_letters import DeadLetter, MessageDeadLettered
from headwater.bus.ports import EffectTransaction
from headwater.bus.subscriptions import Subscriptions
from headwater.errors import StorageError, TransactionConflict
from headwater.messages import ANY, EVENT_BYTES_MAX, STREAM_NAME_CHARACTERS_MAX
from headwater.telemetry import logger

COPIED_DATA_BYTES_MAX: Final = EVENT_BYTES_MAX // 4
"""Larger data is left out of a copy, so that quoting it once more cannot make the copy too large; the letter itself has it."""

_log = logger("bus")


class Burying:
    """Keeps dead letters, and appends their copies in the same transaction where a handler's or the service's option says so."""

    def __init__(self, subscriptions: Subscriptions, copy_to: type[MessageDeadLettered] | None = None) -> None:
        """`copy_to` is the class of the copies of handlers that do not name their own."""
        self._copy_to = copy_to
        self._own = {handler.name: handler.policy.copy_to for handler in subscriptions if handler.policy.copy_to is not None}
        # A copy that nobody can handle is not copied again, or that would never end.
        self._never_copied = {copy.event_type for copy in (MessageDeadLettered, copy_to, *self._own.values()) if copy is not None}

    async def bury(self, transaction: EffectTransaction, letters: Sequence[DeadLetter]) -> None:
        """Keep the letters. A copy that cannot be appended is logged, and costs neither its letter nor the transaction.

        Raises:
            StorageError, TransactionConflict: the transaction is lost.
        """
        await transaction.bury(letters)
        if self._copy_to is None and not self._own:
            return
        for letter in letters:
            copy_class = self._own.get(letter.handler_name or "", self._copy_to)
            if copy_class is not None and letter.event_type not in self._never_copied and not letter.is_skipped:
                await _copy(transaction, letter, copy_class)


async def _copy(transaction: EffectTransaction, letter: DeadLetter, copy_class: type[MessageDeadLettered]) -> None:
    key = letter.stream_name or f"{letter.partition.topic}-{letter.partition.number}"
    stream_name = f"{copy_class.event_category}-{key}"[:STREAM_NAME_CHARACTERS_MAX]
    try:
        async with transaction.savepoint():
            await transaction.append(stream_name, [_copied(letter, copy_class)], expected_version=ANY)
    except (StorageError, TransactionConflict):
        raise
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the copy, the letter is what counts
        _log.error(
            "dead_letter_not_copied", stream_name=stream_name, handler=letter.handler_name, event_id=str(letter.event_id), error=str(error)
        )


def _copied(letter: DeadLetter, copy_class: type[MessageDeadLettered]) -> MessageDeadLettered:
    data = letter.data
    return copy_class(
        group=letter.group,
        handler=letter.handler_name,
        topic=letter.partition.topic,
        partition=letter.partition.number,
        offset=letter.offset,
        error_type=letter.error_type,
        error_message=letter.error_message,
        attempts=letter.attempts,
        first_failed_at=letter.first_failed_at,
        last_failed_at=letter.last_failed_at,
        event_id=letter.event_id,
        message_type=letter.event_type,
        stream_name=letter.stream_name,
        version=letter.version,
        data=data if data is None or len(data.encode()) <= COPIED_DATA_BYTES_MAX else None,
    )

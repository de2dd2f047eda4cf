"""Commands that may come more than once: the ids of their events are derived, so that the log itself recognises a repetition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID, uuid5

from headwater.errors import UsageError
from headwater.messages import Event, NewEvent

COMMAND_ID: Final = "command_id"
"""The metadata in which an event names the command that it was decided for."""
_TIME_AND_VERSION: Final = ((1 << 52) - 1) << 76
"""The bits of a version 7 UUID that hold its milliseconds, and then its version."""
_REST: Final = (1 << 76) - 1


def check_command_id(command_id: object) -> None:
    """Refuse what is no UUID, for callers without a type checker.

    Raises:
        UsageError: saying how to make one of a text.
    """
    if command_id is not None and not isinstance(command_id, UUID):
        raise UsageError(
            f"command_id={command_id!r} is no UUID; make one of a text with uuid5(NAMESPACE, text), NAMESPACE being a UUID of your own"
        )


def event_id_of_command(command_id: UUID, ordinal: int) -> UUID:
    """The id of the event at this place (from 0) among those that a command led to.

    It is uuid5 of the command id and the ordinal. Where the command id is of version 7, its time and version stand in front of it instead of the
    hash's own bits, so that the event's id sorts with its neighbours in the index as every other event's does.
    """
    derived = uuid5(command_id, str(ordinal))
    if command_id.version != 7:
        return derived
    return UUID(int=(command_id.int & _TIME_AND_VERSION) | (derived.int & _REST))


def events_of_command(events: Sequence[Event], command_id: UUID) -> list[NewEvent]:
    """The events ready to be stored, each with its derived id and the command's id in its metadata."""
    return [
        NewEvent.of(event, metadata={COMMAND_ID: str(command_id)}, event_id=event_id_of_command(command_id, ordinal))
        for ordinal, event in enumerate(events)
    ]

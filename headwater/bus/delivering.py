"""Messages for later, delivered: taken from where they wait and appended to the log in one transaction, so each is delivered once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from headwater.bus.dead_letters import message_of
from headwater.bus.ports import EffectStore
from headwater.bus.retries import RetryPolicy
from headwater.errors import HeadwaterError, StorageUnavailable
from headwater.eventstore import EventStore, StreamAppend
from headwater.messages import ANY, NewEvent
from headwater.outbox import ScheduledMessage, ScheduledMessages
from headwater.randomness import SYSTEM_RANDOMNESS, Randomness
from headwater.telemetry import logger

DUE_BATCH_MAX: Final = 60
"""Messages delivered in one transaction, at most: with 1 MiB each they still fit into one append."""
LOCK_WAIT_SECONDS_MAX: Final = 2.0
"""How long a delivery waits for a stream that somebody's open transaction holds; then that stream is tried again later."""
FAILED_DELIVERY: Final = RetryPolicy(first_delay_seconds=1.0, delay_factor=3.0, delay_seconds_max=300.0)
"""When a delivery that failed is tried again; for ever, until it succeeds or somebody cancels the message."""

_log = logger("bus")


class DueMessages:
    """Messages whose moment has come, as `DueWork`.

    One that cannot be delivered (its stream was closed, or somebody holds it) is noted with its error and tried again later, in growing steps; messages
    of its stream wait behind it, all others go on.
    """

    name = "messages"

    def __init__(
        self, scheduled: ScheduledMessages, store: EventStore, effects: EffectStore, *, randomness: Randomness = SYSTEM_RANDOMNESS
    ) -> None:
        """Take from `scheduled` and append to `store`, in transactions of `effects`; all three are of one database."""
        self._scheduled, self._store, self._effects, self._randomness = scheduled, store, effects, randomness
        self._one_by_one = 0
        """So many are delivered alone yet: one of them failed its whole batch."""

    async def do_next(self) -> bool:
        """Deliver the next messages that are due, many at once.

        Raises:
            StorageUnavailable: outcome unknown; what was not delivered is still there.
        """
        limit = 1 if self._one_by_one else DUE_BATCH_MAX
        claimed: Sequence[ScheduledMessage] = ()
        try:
            async with self._effects.transaction() as transaction:
                await transaction.limit_lock_wait(LOCK_WAIT_SECONDS_MAX)
                claimed = await self._scheduled.claim(limit=limit, connection=transaction.joining)
                if claimed:
                    await self._store.append_to_streams(_appends(claimed), connection=transaction.joining)
                    await self._scheduled.remove([message.message_id for message in claimed], connection=transaction.joining)
        except StorageUnavailable:
            raise
        except HeadwaterError as error:
            if not claimed:
                raise
            await self._set_aside(claimed, error)
            return True
        self._one_by_one = max(self._one_by_one - len(claimed), 0) if claimed else 0
        if claimed:
            _log.debug("scheduled_messages_delivered", message_count=len(claimed))
        return bool(claimed)

    async def seconds_to_next(self) -> float | None:
        """How long until the next is due."""
        return await self._scheduled.seconds_to_next()

    async def _set_aside(self, claimed: Sequence[ScheduledMessage], error: HeadwaterError) -> None:
        if len(claimed) > 1:
            self._one_by_one = len(claimed)
            return
        (message,) = claimed
        self._one_by_one = max(self._one_by_one - 1, 0)
        delay = FAILED_DELIVERY.delay_seconds(message.attempts + 1, self._randomness)
        attempts = await self._scheduled.delay(message.message_id, f"{type(error).__name__}: {message_of(error)}", delay)
        if attempts is not None:
            _log.error(
                "scheduled_message_failed",
                message_id=str(message.message_id),
                event_type=message.type,
                stream_name=message.stream_name,
                attempts=attempts,
                delay_seconds=round(delay, 3),
                error=message_of(error),
            )


def _appends(messages: Sequence[ScheduledMessage]) -> list[StreamAppend]:
    by_stream: dict[str, list[NewEvent]] = {}
    for message in messages:
        by_stream.setdefault(message.stream_name, []).append(message.event)
    return [StreamAppend(stream_name, events, ANY) for stream_name, events in by_stream.items()]

"""What is decided about a message that failed in place: when it is due again, or what becomes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from headwater.bus.context import HandlerSurroundings
from headwater.bus.dead_letters import message_of
from headwater.bus.failing import FailingMessage, Failure, HandlerFault, TryAgain, decide, decide_parked
from headwater.bus.partition_work import Message, PartitionWork
from headwater.bus.retries import DEFAULT_POLICY, HandlerPolicy, Park, RetryPolicy, Stop, Verdict
from headwater.bus.values import ConsumerLimits
from headwater.errors import WrongExpectedVersion
from headwater.metrics import HANDLER_RETRIES
from headwater.randomness import Randomness
from headwater.telemetry import logger

_WAIT_OUT: Final = RetryPolicy(first_delay_seconds=0.02, delay_seconds_max=15.0)
"""For what the message is not to blame for."""
ROOM_SECONDS: Final = 1.0
"""How long a message waits for room among what is parked before it is looked at again."""

_log = logger("bus")


class Judging:
    """Applies the handlers' policies."""

    def __init__(self, surroundings: HandlerSurroundings, default: RetryPolicy, limits: ConsumerLimits, randomness: Randomness) -> None:
        self._clock, self._default, self._limits, self._randomness = surroundings.clock, default, limits, randomness
        self._metrics, self._group = surroundings.metrics, surroundings.group

    def note(self, message: Message, failing: FailingMessage, faults: Sequence[HandlerFault]) -> None:
        """Remember the errors; what is decided by them goes to `failing.settled`, and `failing.due_at` says when the rest is tried again."""
        if not faults:
            return
        failing.waits += 1
        delays: list[float] = [0.0]
        for fault in faults:
            failure = failing.note(fault, self._clock.now())
            verdict = self._verdict(message, failing, fault, failure)
            if isinstance(verdict, TryAgain):
                delays.append(verdict.delay_seconds)
            else:
                failing.settled[fault.handler_name] = verdict
            self._metrics.add(HANDLER_RETRIES, 1, self._group, fault.handler_name)
            _log.warning(
                "handler_failed",
                **facts_of(message),
                handler=fault.handler_name,
                attempt=failure.attempts,
                counts=fault.counts,
                then=f"again in {verdict.delay_seconds:.3f} s" if isinstance(verdict, TryAgain) else type(verdict).__name__,
                error=f"{type(fault.error).__name__}: {message_of(fault.error)}",
            )
            if isinstance(verdict, Stop):
                self._stop(message, failing, fault)
                return
        failing.due_at = self._clock.monotonic() + max(delays)

    def judge_parked(self, message: Message, fault: HandlerFault, failure: Failure) -> TryAgain | Verdict:
        """What becomes of a message that is parked; see `decide_parked`."""
        verdict = decide_parked(fault, failure, policy_of(message, fault.handler_name), self._default, self._randomness)
        return self._limited(verdict) if isinstance(verdict, TryAgain) else verdict

    def wait_out(self, waits: int, error: BaseException | None = None) -> float:
        """After how many seconds to try again what something other than the message was to blame for, so many times in a row."""
        # Who was first has committed by now: looking again soon is right, and the partition should not wait long for it.
        is_conflict = isinstance(error, WrongExpectedVersion)
        return min(_WAIT_OUT.delay_seconds(1 if is_conflict else max(waits, 1), self._randomness), self._limits.retry_delay_seconds_max)

    def first_parked_delay(self, park: Park) -> float:
        """How long a message that is being parked waits for its next attempt."""
        return min(park.delay_seconds(1, self._randomness), self._limits.retry_delay_seconds_max)

    def has_room(self, work: PartitionWork, *, for_messages: int = 1, for_keys: int = 0) -> bool:
        """Whether so many may be parked in addition; tells, once, when not."""
        limits, parked = self._limits, work.parked
        if parked.message_count + for_messages <= limits.parked_messages_max and (
            not for_keys or len(parked) + for_keys <= limits.parked_keys_max
        ):
            parked.is_full = False
            return True
        if not parked.is_full:
            parked.is_full = True
            _log.error(
                "parking_full",
                topic=work.partition.topic,
                partition=work.partition.number,
                parked_keys=len(parked),
                parked_keys_max=limits.parked_keys_max,
                parked_messages=parked.message_count,
                parked_messages_max=limits.parked_messages_max,
                hint="the partition waits; mend the cause, or decide: headwater dead-letters list --parked",
            )
        return False

    def _verdict(self, message: Message, failing: FailingMessage, fault: HandlerFault, failure: Failure) -> TryAgain | Verdict:
        if not fault.counts:
            return TryAgain(self.wait_out(failing.waits, fault.error))
        verdict = decide(fault, failure, policy_of(message, fault.handler_name), self._default, self._randomness)
        if isinstance(verdict, TryAgain):
            return self._limited(verdict)
        if isinstance(verdict, Park) and not self.has_room(message.work, for_keys=1):
            return TryAgain(ROOM_SECONDS)
        return verdict

    def _limited(self, again: TryAgain) -> TryAgain:
        return TryAgain(min(again.delay_seconds, self._limits.retry_delay_seconds_max))

    def _stop(self, message: Message, failing: FailingMessage, fault: HandlerFault) -> None:
        failing.due_at = math.inf
        message.work.stop_reason = f"{fault.handler_name} raised {type(fault.error).__name__}: {message_of(fault.error)}"
        _log.error("partition_stopped", **facts_of(message), handler=fault.handler_name, error=message.work.stop_reason)


def policy_of(message: Message, handler_name: str) -> HandlerPolicy:
    """The policy of one of the message's handlers."""
    handlers = message.route.handlers if message.route is not None else ()
    return next((handler.policy for handler in handlers if handler.name == handler_name), DEFAULT_POLICY)


def facts_of(message: Message) -> dict[str, object]:
    """Which message it is, for the log."""
    facts: dict[str, object] = {"topic": message.record.topic, "partition": message.record.partition, "offset": message.offset}
    if message.envelope is not None:
        event = message.envelope.event
        facts |= {"event_type": event.type, "event_id": str(event.event_id), "stream_name": event.stream_name}
    return facts

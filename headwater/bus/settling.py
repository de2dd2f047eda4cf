"""What becomes of one message beside its effects: dead letters, keys that are parked, a place behind those that are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headwater.bus.burying import Burying
from headwater.bus.context import HandlerSurroundings
from headwater.bus.dead_letters import DeadLetter, ErrorFacts, unhandled
from headwater.bus.failing import FailingMessage
from headwater.bus.handling import followers_of
from headwater.bus.judging import Judging, facts_of
from headwater.bus.parked import Follower, ParkedKey
from headwater.bus.partition_work import Message
from headwater.bus.ports import EffectTransaction
from headwater.bus.retries import Park, Skip
from headwater.metrics import DEAD_LETTERS, MESSAGES_PARKED, NO_HANDLER
from headwater.telemetry import logger

_log = logger("bus")


@dataclass(slots=True)
class Settlement:
    """What becomes of one message, beside its effects."""

    letters: list[DeadLetter] = field(default_factory=list[DeadLetter])
    opened: list[tuple[ParkedKey, float]] = field(default_factory=list[tuple[ParkedKey, float]])
    """Keys to be parked, and in how many seconds they are due."""
    behind: list[Follower] = field(default_factory=list[Follower])
    """The message, behind what is parked already."""
    skipped: list[str] = field(default_factory=list[str])


class Settling:
    """Carries out what was decided."""

    def __init__(self, surroundings: HandlerSurroundings, judging: Judging, burying: Burying) -> None:
        self._surroundings, self._judging, self._burying = surroundings, judging, burying

    def settle(self, message: Message, failing: FailingMessage, held: Mapping[str, ParkedKey]) -> Settlement:
        """What becomes of the message, by what was decided about its handlers; behind those that are held back it waits."""
        settlement = Settlement(behind=followers_of(message, held.values()) if held else [])
        for name, verdict in failing.settled.items():
            failure = failing.failures[name]
            if isinstance(verdict, Park):
                delay = self._judging.first_parked_delay(verdict)
                due_at = self._surroundings.clock.monotonic() + delay
                parked = ParkedKey(name, message.key, failure.attempts, 1, ErrorFacts.of(failure), due_at)
                settlement.opened.append((parked, delay))
            elif isinstance(verdict, Skip):
                settlement.skipped.append(name)
            else:
                settlement.letters.append(self._letter(message, name, failure.attempts, ErrorFacts.of(failure)))
        return settlement

    def _letter(self, message: Message, handler_name: str, attempts: int, error: ErrorFacts) -> DeadLetter:
        envelope = message.envelope
        assert envelope is not None, "a message with handlers has an envelope"
        return unhandled(self._surroundings.group, handler_name, message.work.partition, message.record, envelope, attempts, error)

    async def keep(self, transaction: EffectTransaction, message: Message, settlement: Settlement) -> None:
        """Write it all, in the transaction that moves past the message."""
        if settlement.letters:
            await self._burying.bury(transaction, settlement.letters)
        for parked, delay in settlement.opened:
            parked.parked_key_id = await transaction.parked.open(self._surroundings.group, message.work.partition, parked, delay)
        waiting = [*followers_of(message, [parked for parked, _ in settlement.opened]), *settlement.behind]
        if waiting:
            await transaction.parked.add(waiting)

    def remember(self, message: Message, settlement: Settlement) -> None:
        """It was committed."""
        facts = facts_of(message)
        for parked, delay in settlement.opened:
            message.work.parked.add(parked)
            self._surroundings.metrics.add(MESSAGES_PARKED, 1, self._surroundings.group, parked.handler_name)
            _log.error(
                "key_parked",
                **facts,
                handler=parked.handler_name,
                attempts=parked.attempts,
                delay_seconds=round(delay, 3),
                error=parked.error.error_message if parked.error else None,
            )
        for follower in settlement.behind:
            self._surroundings.metrics.add(MESSAGES_PARKED, 1, self._surroundings.group, follower.parked.handler_name)
            message.work.parked.count(follower.parked, 1)
        for letter in settlement.letters:
            self._surroundings.metrics.add(DEAD_LETTERS, 1, self._surroundings.group, letter.handler_name or NO_HANDLER)
            _log.error("dead_letter_stored", **facts, handler=letter.handler_name, attempts=letter.attempts, error=letter.error_message)
        for name in settlement.skipped:
            _log.warning("message_skipped", **facts, handler=name)

"""What a saga's method may do, all of it inside one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from headwater.clock import Clock
from headwater.errors import UsageError
from headwater.messages import ANY, AppendResult, Event, ExpectedVersion, NewEvent
from headwater.postgres import Connection
from headwater.sagas.definition import Step
from headwater.sagas.progress import Outcome, Phase, StepStatus
from headwater.sagas.turn import Turn


class SagaContext:
    """One saga in one transaction; good until the method returns."""

    __slots__ = ("_clock", "_turn")

    def __init__(self, turn: Turn, clock: Clock) -> None:
        self._turn: Turn | None = turn
        self._clock = clock

    @property
    def key(self) -> str:
        """The text of the key that this saga is known by."""
        return self._open().record.key

    @property
    def phase(self) -> Phase:
        return self._open().phase

    @property
    def reason(self) -> str | None:
        """Why it compensates."""
        return self._open().record.reason

    def status_of(self, step: Step) -> StepStatus | None:
        """What is known of a step; None when it was not sent."""
        found = self._open().record.progress.step(step.name)
        return None if found is None else found.status

    # -- steps ---------------------------------------------------------------------------------------------------------

    async def send(self, step: Step, command: Event, *, compensation: Event | None = None) -> None:
        """Send a step's command, if and only if this turn is kept; it goes to the topic of its category.

        Commands of one saga to one category keep their order, so a compensation never overtakes what it undoes. Each carries an
        `idempotency_key` in its metadata, the same whenever it is sent again.

        Args:
            compensation: what undoes the step, sent when the saga compensates and the step was done or may have been. It must do no harm where
                there is nothing to undo.
        Raises:
            UsageError: the saga no longer runs, the step was sent before, or the compensation belongs to another category.
        """
        await self._open().send(step, command, compensation)

    async def done(self, step: Step) -> None:
        """Note that a step was done; for answers that only their content tells apart."""
        await self._open().mark(step, Outcome.DONE, "said by the saga")

    async def failed(self, step: Step) -> None:
        """Note that a step had no effect, so that it is not compensated."""
        await self._open().mark(step, Outcome.FAILED, "said by the saga")

    async def compensate(self, reason: str) -> None:
        """Undo, last first, every step that was done or may have been. From here on the saga's methods are not called, but the one marked
        `@when_compensated`.

        Raises:
            UsageError: it does so already, or has ended.
        """
        await self._open().compensate(reason)

    def complete(self) -> None:
        """End well; plain, not awaited: a forgotten `await` would leave the saga open. Deadlines are forgotten, and later events passed over.

        Raises:
            UsageError: the saga compensates, or has ended.
        """
        self._open().complete()

    # -- deadlines -----------------------------------------------------------------------------------------------------

    def set_deadline(self, name: str, *, after: timedelta | None = None, at: datetime | None = None) -> None:
        """Let the method marked `@on_deadline(name)` act when the time comes, on the database's clock. Setting it again moves it.

        Raises:
            UsageError: no method acts on it, or the saga no longer runs.
        """
        self._open().set_deadline(name, after, at)

    def cancel_deadline(self, name: str) -> None:
        """Forget a deadline; harmless when it is not set."""
        self._open().cancel_deadline(name)

    # -- beside the steps ----------------------------------------------------------------------------------------------

    async def append(
        self, stream_name: str, events: Event | NewEvent | Sequence[Event | NewEvent], *, expected_version: ExpectedVersion = ANY
    ) -> AppendResult:
        """Add events to a stream of this service's log, if and only if this turn is kept; see `Context.append`."""
        several = [events] if isinstance(events, (Event, NewEvent)) else list(events)
        return await self._open().append(stream_name, several, expected_version)

    async def publish(self, event: Event, *, key: str | None = None) -> AppendResult:
        """Send a message that is no step: nobody waits for an answer, and nothing undoes it. Without a key, it keeps the order of this saga's."""
        return await self._open().publish(event, key)

    @property
    def connection(self) -> Connection:
        """The asyncpg connection in this turn's transaction. Neither commit nor roll it back.

        Raises:
            UsageError: in memory, where there is none.
        """
        return self._open().effects.connection

    def now(self) -> datetime:
        """The current moment, from the clock that tests can hold."""
        return self._clock.now()

    def close(self) -> None:
        """The method returned: whatever it left running must not act any more."""
        self._turn = None

    def _open(self) -> Turn:
        if self._turn is None:
            raise UsageError("the saga's context was used after its method returned; await everything inside it")
        return self._turn

"""What sagas ask of the transaction they act in and of the store that keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from headwater.messages import AppendResult, Event, ExpectedVersion, NewEvent
from headwater.postgres import Connection
from headwater.sagas.values import DueDeadline, SagaChanges, SagaInstance, SagaRecord, SagaStatus, SagaSummary


class SagaEffects(Protocol):
    """What is used of a transaction: a handler's `Context` and an `EffectTransaction` both fit."""

    @property
    def connection(self) -> Connection: ...

    async def append(self, stream_name: str, events: Sequence[Event | NewEvent], *, expected_version: ExpectedVersion) -> AppendResult: ...


class SagaStore(Protocol):
    """Where sagas live. Every call joins the transaction it is given."""

    async def start(
        self, effects: SagaEffects, *, saga_type: str, key: str, state: str, correlation_id: str, cause_id: UUID
    ) -> SagaRecord | None:
        """A new saga, locked until the transaction ends; None when there is one of this key, or was."""
        ...

    async def load(self, effects: SagaEffects, saga_type: str, key: str) -> SagaRecord | None:
        """The saga, locked until the transaction ends; None when there is none."""
        ...

    async def save(self, effects: SagaEffects, record: SagaRecord, changes: SagaChanges) -> None:
        """Keep what a turn made of a saga that this transaction has locked."""
        ...

    async def claim_due(self, effects: SagaEffects, saga_types: Sequence[str]) -> DueDeadline | None:
        """A deadline that has passed, whose saga nobody works on, with the saga locked; None when there is none now."""
        ...

    async def seconds_to_next(self, effects: SagaEffects, saga_types: Sequence[str]) -> float | None:
        """How long until the next deadline passes; None when there is none."""
        ...


class SagaReader(Protocol):
    """Looks at sagas."""

    async def list(
        self, *, status: SagaStatus | str | None = None, saga_type: str | type | None = None, limit: int = 100
    ) -> tuple[SagaSummary, ...]: ...

    async def get(self, saga_type: str | type, key: object) -> SagaInstance: ...

    async def count(self, *, saga_type: str | type | None = None) -> dict[SagaStatus, int]: ...

"""Keys of data subjects that are gone when the test ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import StorageUnavailable
from headwater.messages import RecordedEvent
from headwater.privacy import ForgottenSubject, SubjectKey, open_event
from headwater.randomness import token_bytes, uuid7

_KEY_BYTES: Final = 32


class MemorySubjectKeys:
    """`SubjectKeys` in memory. `ask_count` counts the questions, `is_reachable = False` takes the store away."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        """Begin without keys; `clock` says when subjects are forgotten."""
        self._clock = clock
        self._by_subject: dict[str, SubjectKey] = {}
        self.ask_count = 0
        self.is_reachable = True

    async def obtain(self, subjects: Sequence[str]) -> Mapping[str, SubjectKey]:
        """The key of every one of these subjects, made where there was none."""
        await self._ask()
        for subject in subjects:
            self._by_subject.setdefault(subject, SubjectKey(subject, uuid7(), token_bytes(_KEY_BYTES)))
        return {subject: self._by_subject[subject] for subject in subjects}

    async def find(self, key_ids: Sequence[UUID]) -> Mapping[UUID, SubjectKey]:
        """Those of the keys that are known."""
        await self._ask()
        known = self.by_id
        return {key_id: known[key_id] for key_id in key_ids if key_id in known}

    async def forget(self, subject: str) -> ForgottenSubject | None:
        """Destroy the subject's key."""
        await self._ask()
        if (key := self._by_subject.get(subject)) is None:
            return None
        forgotten_at = key.forgotten_at or self._clock.now()
        self._by_subject[subject] = SubjectKey(subject, key.key_id, None, forgotten_at)
        return self._fact(self._by_subject[subject], was_forgotten=key.forgotten_at is not None)

    async def forgotten(self, limit: int) -> Sequence[ForgottenSubject]:
        """Forgotten subjects, the latest first."""
        await self._ask()
        facts = [self._fact(key, was_forgotten=True) for key in self._by_subject.values() if key.forgotten_at is not None]
        return sorted(facts, key=lambda fact: fact.forgotten_at, reverse=True)[:limit]

    async def close(self) -> None:
        """Nothing to let go of."""

    @property
    def by_id(self) -> Mapping[UUID, SubjectKey]:
        """Every key by its id."""
        return {key.key_id: key for key in self._by_subject.values()}

    def open(self, events: Sequence[RecordedEvent]) -> tuple[RecordedEvent, ...]:
        """The events with their personal data open, for assertions."""
        return tuple(open_event(event, self.by_id) for event in events)

    def _fact(self, key: SubjectKey, *, was_forgotten: bool) -> ForgottenSubject:
        assert key.forgotten_at is not None, "asked of forgotten subjects alone"
        return ForgottenSubject(key.subject, key.forgotten_at, was_forgotten, (self._clock.now() - key.forgotten_at).total_seconds())

    async def _ask(self) -> None:
        self.ask_count += 1
        await self._clock.sleep(0)
        if not self.is_reachable:
            raise StorageUnavailable("the memory keys were taken away")

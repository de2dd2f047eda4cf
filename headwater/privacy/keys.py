"""The keys of data subjects: where they come from, and how long a process may hold them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from math import inf
from typing import Final, Generic, Protocol, TypeVar
from uuid import UUID

from headwater.clock import Clock
from headwater.privacy.cipher import Cipher

KEY_AGE_SECONDS_MAX: Final = 10.0
"""How long a process may use a key without asking again: so much later, at most, a subject that another process forgot is forgotten here."""
KEYS_CACHED_MAX: Final = 10_000
"""Keys that a process holds at once."""
SUBJECT_CHARACTERS_MAX: Final = 500
"""The longest name of a data subject."""


@dataclass(frozen=True)
class SubjectKey:
    """The key of one data subject, or what is left of it."""

    subject: str
    key_id: UUID
    secret: bytes | None = field(repr=False)
    """None once the subject was forgotten."""
    forgotten_at: datetime | None = None

    @cached_property
    def cipher(self) -> Cipher | None:
        """What seals and opens under it; None once the subject was forgotten."""
        return None if self.secret is None else Cipher(self.secret)


@dataclass(frozen=True, slots=True)
class ForgottenSubject:
    """A subject whose key was destroyed."""

    subject: str
    forgotten_at: datetime
    was_forgotten: bool
    """Whether it had been before this call."""
    seconds_ago: float


class KeySource(Protocol):
    """Finds keys by their ids. For what another service sealed: whoever may read it gets a source of that service's keys."""

    async def find(self, key_ids: Sequence[UUID]) -> Mapping[UUID, SubjectKey]:
        """Those of the keys that are known, without a secret where the subject was forgotten.

        Raises:
            StorageUnavailable: it cannot be asked; readers wait. A key that is left out counts as destroyed, so never answer from a copy that may
                be behind.
        """
        ...


class SubjectKeys(KeySource, Protocol):
    """Where the keys of a service's data subjects are kept."""

    async def obtain(self, subjects: Sequence[str]) -> Mapping[str, SubjectKey]:
        """The key of every one of these subjects, made and committed where there was none; without a secret where it was forgotten.

        Two processes that ask at once get the same key.

        Raises:
            StorageUnavailable: repeat; a key that was made already is found then.
        """
        ...

    async def forget(self, subject: str) -> ForgottenSubject | None:
        """Destroy the subject's key; repeating it changes nothing. None when nothing was ever sealed for it."""
        ...

    async def forgotten(self, limit: int) -> Sequence[ForgottenSubject]:
        """Forgotten subjects, the latest first."""
        ...

    async def close(self) -> None:
        """Let go of connections; harmless twice."""
        ...


K = TypeVar("K", str, UUID)


class _Shelf(Generic[K]):
    """Keys by one of their names, the least recently used first."""

    def __init__(self) -> None:
        self._held: OrderedDict[K, tuple[float, SubjectKey | None]] = OrderedDict()

    def find(self, names: Iterable[K], oldest: float) -> tuple[dict[K, SubjectKey | None], list[K], float]:
        """What is held and not too old, the rest, and when the oldest of what was found was asked for."""
        found: dict[K, SubjectKey | None] = {}
        missing: list[K] = []
        asked_at = inf
        for name in names:
            held = self._held.get(name)
            if held is None or held[0] < oldest:
                missing.append(name)
            else:
                self._held.move_to_end(name)
                found[name] = held[1]
                asked_at = min(asked_at, held[0])
        return found, missing, asked_at

    def put(self, name: K, key: SubjectKey | None, moment: float) -> None:
        self._held[name] = (moment, key)
        self._held.move_to_end(name)
        if len(self._held) > KEYS_CACHED_MAX:
            self._held.popitem(last=False)

    def clear(self) -> None:
        self._held.clear()


class KeyCache:
    """Keys that were fetched lately, by subject and by id. Holds `KEYS_CACHED_MAX` of each, none longer than `KEY_AGE_SECONDS_MAX`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_subject: _Shelf[str] = _Shelf()
        self._by_id: _Shelf[UUID] = _Shelf()
        self._generation = 0

    def of_subjects(self, subjects: Iterable[str]) -> tuple[dict[str, SubjectKey | None], list[str]]:
        """Keys of these subjects, and those of the subjects that must be asked for."""
        found, missing, _ = self._by_subject.find(subjects, self._oldest())
        return found, missing

    def of_ids(self, key_ids: Iterable[UUID]) -> tuple[dict[UUID, SubjectKey | None], list[UUID], float]:
        """Keys of these ids (None: nobody knows it), the ids that must be asked for, and when the oldest of these keys was."""
        return self._by_id.find(key_ids, self._oldest())

    def begin(self) -> tuple[int, float]:
        """Call it before asking, and give what it returns to `keep`."""
        return self._generation, self._clock.monotonic()

    def keep_own(self, begun: tuple[int, float], keys: Iterable[SubjectKey]) -> None:
        """Hold keys to seal with, from when they were asked for; nothing when something was forgotten since."""
        generation, moment = begun
        if generation == self._generation:
            for key in keys:
                self._by_subject.put(key.subject, key, moment)
                self._by_id.put(key.key_id, key, moment)

    def keep(self, begun: tuple[int, float], keys: Iterable[SubjectKey], unknown: Iterable[UUID] = ()) -> None:
        """Hold keys to open with, likewise; another service's subject may have the name of one of ours."""
        generation, moment = begun
        if generation != self._generation:
            return
        for key in keys:
            self._by_id.put(key.key_id, key, moment)
        for key_id in unknown:
            self._by_id.put(key_id, None, moment)

    def forget_all(self) -> None:
        """Hold nothing, not even what is being asked for now."""
        self._generation += 1
        self._by_subject.clear()
        self._by_id.clear()

    def _oldest(self) -> float:
        return self._clock.monotonic() - KEY_AGE_SECONDS_MAX

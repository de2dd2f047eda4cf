"""Seals what is appended and opens what is read, with keys that are asked for when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import inf
from typing import Final, NamedTuple, Protocol, TypeAlias
from uuid import UUID

import orjson
from pydantic import BaseModel

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import SealBroken
from headwater.messages import (
    SEALED_FIELDS,
    Event,
    EventRegistry,
    NewEvent,
    RecordedEvent,
    are_events_personal,
    personal_fields_by_type,
)
from headwater.personal import PersonalFields, personal_fields_of
from headwater.privacy.keys import ForgottenSubject, KeyCache, KeySource, SubjectKey, SubjectKeys
from headwater.privacy.sealing import AnyKeys, OpeningPlan, SealingPlan, is_sealed, sealed_names
from headwater.telemetry import logger

Opener: TypeAlias = Callable[[RecordedEvent], RecordedEvent]
"""Opens one event with keys that are at hand; raises SealBroken."""
FORGOTTEN_LISTED_MAX: Final = 100_000
"""Forgotten subjects listed at once."""

_log = logger("privacy")
_NO_KEYS: Final[Mapping[UUID, SubjectKey | None]] = {}


class OpensEvents(Protocol):
    """What a reader needs of `PersonalData`."""

    async def opener(self, events: Sequence[RecordedEvent]) -> Opener:
        """Fetch the keys of these events, and return what opens them.

        Raises:
            StorageUnavailable: the keys cannot be asked for; try again.
        """
        ...


class OpenedState(NamedTuple):
    """A state's JSON text without its seals."""

    text: str
    keys_asked_at: float | None = None
    """When the keys were asked for, as `RecordedEvent.keys_asked_at` says it."""
    is_redacted: bool = False
    """Whether a subject was forgotten since it was sealed."""


class SealsStates(Protocol):
    """What a keeper of states needs of `PersonalData`."""

    async def seal_state(self, model_class: type[BaseModel], text: str) -> str:
        """Seal the personal fields; see `PersonalData.seal_state`."""
        ...

    async def open_state(self, model_class: type[BaseModel], text: str) -> OpenedState:
        """Open what was sealed; see `PersonalData.open_state`."""
        ...


class Redacting:
    """`OpensEvents` without any key: every sealed field comes out redacted."""

    async def opener(self, events: Sequence[RecordedEvent]) -> Opener:  # noqa: ARG002 - there is nothing to fetch
        """What redacts."""
        return lambda event: open_event(event, _NO_KEYS)


REDACTING: Final = Redacting()
"""For who has no keys."""


class PersonalData:
    """Seals and opens personal fields of events and of states, and forgets subjects."""

    def __init__(
        self,
        keys: SubjectKeys,
        registry: EventRegistry | None = None,
        *,
        key_source: KeySource | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Keep keys in `keys`.

        Args:
            registry: says which class a name means, for events that come as JSON.
            key_source: asked for keys that `keys` does not know: those of another service whose events are read here.
        """
        self._keys, self._registry, self._key_source = keys, registry or EventRegistry(), key_source
        self._cache = KeyCache(clock)

    # -- sealing ------------------------------------------------------------------------------------------------------

    async def seal(self, events: Sequence[Event | NewEvent]) -> Sequence[Event | NewEvent]:
        """The events with their personal fields sealed; those without any, and those sealed already, as they came.

        Keys that are missing are made and committed first, on a connection of their own: an append that fails afterwards leaves an unused key.

        Raises:
            SubjectForgotten: there is personal data of a forgotten subject.
            InvalidEvent: there is personal data without a subject, or sealed data that cannot be opened.
            StorageUnavailable: the keys cannot be asked for.
        """
        if not are_events_personal() or not isinstance(events, (list, tuple)):
            return events
        plans = {index: plan for index, event in enumerate(events) if (plan := self._plan(event)) is not None}
        if not plans:
            return events
        await self._verify([plan.already for _, plan in plans.values() if plan.already.values])
        keys = await self._obtain({subject for _, plan in plans.values() for subject in plan.to_seal.subjects})
        return [_sealed(*plans[index], keys) if index in plans else event for index, event in enumerate(events)]

    async def seal_state(self, model_class: type[BaseModel], text: str) -> str:
        """The JSON text of a state, a snapshot for instance, with the personal fields of its class sealed.

        Raises:
            SubjectForgotten: the state holds personal data of a forgotten subject; do not keep it.
            InvalidEvent: it holds personal data without a subject.
            StorageUnavailable: the keys cannot be asked for.
        """
        if (fields := personal_fields_of(model_class)) is None:
            return text
        plan = SealingPlan.of(fields.owner, text, fields)
        return plan.sealed(await self._obtain(plan.subjects))[0]

    def _plan(self, event: object) -> tuple[NewEvent, _Plan] | None:
        """What is to be done with one event of an append; None where it goes on as it came, also where it is none."""
        if isinstance(event, Event):
            event = NewEvent.of(event) if personal_fields_of(type(event)) is not None else None
        if not isinstance(event, NewEvent):
            return None
        fields = event.personal or personal_fields_by_type(event.type, self._registry)
        if fields is None:
            return None
        names = sealed_names(event.type, event.metadata) if SEALED_FIELDS in event.metadata else ()
        already = OpeningPlan.of(event.type, event.data, names)
        to_seal = PersonalFields(fields.owner, {name: field for name, field in fields.by_name.items() if name not in already.names})
        return event, _Plan(SealingPlan.of(event.type, event.data, to_seal), already)

    async def _verify(self, plans: Sequence[OpeningPlan]) -> None:
        """What comes sealed must open, as far as its keys are known."""
        keys, _ = await self._find({key_id for plan in plans for key_id in plan.key_ids})
        for plan in plans:
            plan.opened(keys)

    # -- opening ------------------------------------------------------------------------------------------------------

    async def open(self, events: Sequence[RecordedEvent]) -> Sequence[RecordedEvent]:
        """The events with their sealed fields open, or redacted where there is no key; those without any as they came.

        One that was altered stays sealed, and is refused by whoever decodes it: nobody else stops for it.

        Raises:
            StorageUnavailable: the keys cannot be asked for.
        """
        if not any(is_sealed(event) for event in events):
            return events
        plans = [_opening_or_none(event) for event in events]
        found = await self._find({key_id for plan in plans if plan is not None for key_id in plan.key_ids})
        return [event if plan is None else _opened_or_sealed(event, plan, found) for event, plan in zip(events, plans, strict=True)]

    async def opener(self, events: Sequence[RecordedEvent]) -> Opener:
        """Fetch the keys of these events, and return what opens them; see `OpensEvents`."""
        key_ids: set[UUID] = set()
        for event in events:
            if is_sealed(event):
                # What is broken is told when it is opened, of that event alone.
                with suppress(SealBroken):
                    key_ids |= _opening(event).key_ids
        keys, asked_at = await self._find(key_ids)
        return lambda event: open_event(event, keys, asked_at=asked_at)

    async def open_state(self, model_class: type[BaseModel], text: str) -> OpenedState:
        """What `seal_state` was given, redacted where there is no key.

        Raises:
            SealBroken: a sealed value was altered.
            StorageUnavailable: the keys cannot be asked for.
        """
        if (fields := personal_fields_of(model_class)) is None:
            return OpenedState(text)
        plan = OpeningPlan.of(fields.owner, text, fields.by_name)
        keys, asked_at = await self._find(plan.key_ids)
        return OpenedState(plan.opened(keys), asked_at, plan.is_redacted(keys))

    # -- forgetting ---------------------------------------------------------------------------------------------------

    async def forget(self, subject: str) -> ForgottenSubject | None:
        """Destroy a subject's key: at once in this process, within `KEY_AGE_SECONDS_MAX` in others. None when it never had one.

        Raises:
            StorageUnavailable: outcome unknown; repeat.
        """
        try:
            return await self._keys.forget(subject)
        finally:
            self._cache.forget_all()

    async def forgotten(self, *, limit: int = FORGOTTEN_LISTED_MAX) -> Sequence[ForgottenSubject]:
        """Forgotten subjects, the latest first."""
        return await self._keys.forgotten(limit)

    async def close(self) -> None:
        """Let go of connections and keys; harmless twice."""
        self._cache.forget_all()
        await self._keys.close()

    # -- keys ---------------------------------------------------------------------------------------------------------

    async def _obtain(self, subjects: Iterable[str]) -> Mapping[str, SubjectKey]:
        found, missing = self._cache.of_subjects(subjects)
        keys = {subject: key for subject, key in found.items() if key is not None}
        if missing:
            begun = self._cache.begin()
            obtained = await self._keys.obtain(missing)
            self._cache.keep_own(begun, obtained.values())
            keys |= obtained
        return keys

    async def _find(self, key_ids: Iterable[UUID]) -> _Found:
        found, missing, asked_at = self._cache.of_ids(key_ids)
        if not missing:
            return _Found(found, asked_at)
        begun = self._cache.begin()
        asked = dict(await self._keys.find(missing))
        if self._key_source is not None and (elsewhere := [key_id for key_id in missing if key_id not in asked]):
            asked |= await self._key_source.find(elsewhere)
        self._cache.keep(begun, asked.values(), unknown=[key_id for key_id in missing if key_id not in asked])
        _, now = begun
        return _Found({**found, **asked}, min(asked_at, now))


class _Found(NamedTuple):
    """Keys, and when the oldest of them was asked for."""

    keys: Mapping[UUID, SubjectKey | None]
    asked_at: float


class _Plan(NamedTuple):
    """One event of an append: what is to be sealed, and what is already."""

    to_seal: SealingPlan
    already: OpeningPlan


def _sealed(event: NewEvent, plan: _Plan, keys: Mapping[str, SubjectKey]) -> NewEvent:
    data, names = plan.to_seal.sealed(keys)
    metadata = {name: value for name, value in event.metadata.items() if name != SEALED_FIELDS}
    if sealed := sorted({*names, *plan.already.names}):
        metadata[SEALED_FIELDS] = orjson.dumps(sealed).decode()
    return replace(event, data=data, metadata=metadata, personal=None)


def open_event(event: RecordedEvent, keys: AnyKeys, *, asked_at: float = -inf) -> RecordedEvent:
    """The event without its seals, and without the metadata that names them; redacted where the key is not among these.

    Args:
        asked_at: when the keys were asked for; by default too long ago for anybody to keep what they opened.
    Raises:
        SealBroken: a sealed value was altered; names the event.
    """
    return _with_plan(event, _opening(event), keys, asked_at) if is_sealed(event) else event


def _opening(event: RecordedEvent) -> OpeningPlan:
    with _naming(event):
        return OpeningPlan.of(event.type, event.data, sealed_names(event.type, event.metadata))


def _opening_or_none(event: RecordedEvent) -> OpeningPlan | None:
    if not is_sealed(event):
        return None
    try:
        return _opening(event)
    except SealBroken as error:
        _log.error("sealed_value_altered", error=str(error))
        return None


def _opened_or_sealed(event: RecordedEvent, plan: OpeningPlan, found: _Found) -> RecordedEvent:
    try:
        return _with_plan(event, plan, found.keys, found.asked_at)
    except SealBroken as error:
        _log.error("sealed_value_altered", error=str(error))
        return event


def _with_plan(event: RecordedEvent, plan: OpeningPlan, keys: AnyKeys, asked_at: float) -> RecordedEvent:
    metadata = {name: value for name, value in event.metadata.items() if name != SEALED_FIELDS}
    with _naming(event):
        return replace(event, data=plan.opened(keys), metadata=metadata, keys_asked_at=asked_at)


@contextmanager
def _naming(event: RecordedEvent) -> Generator[None]:
    """Say which event it is that was altered."""
    try:
        yield
    except SealBroken as error:
        raise SealBroken(f"{error} ({event.type} at position {event.global_position} of {event.stream_name!r})") from None

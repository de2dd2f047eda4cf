"""From marked fields to sealed values and back, in JSON text. Pure, but for the nonces: whoever calls brings the keys.

A sealed value is a JSON string, `headwater:sealed:1:ENCRYPTED:REDACTION`, its last two parts in base64: key id (16 bytes), nonce (12), ciphertext
with tag; and the redaction's JSON. What is encrypted is the field's JSON; subject, owner (event type or state class), field and redaction are
authenticated with it. The redaction travels along so that every reader has one, also a service whose classes know nothing of the mark.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias, cast
from uuid import UUID

from headwater.checks import has_nul
from headwater.errors import InvalidEvent, SealBroken, SubjectForgotten
from headwater.messages import SEALED_FIELDS, RecordedEvent
from headwater.personal import PersonalField, PersonalFields
from headwater.privacy.cipher import Cipher, NotAuthentic
from headwater.privacy.json_text import members, with_values
from headwater.privacy.keys import SUBJECT_CHARACTERS_MAX, SubjectKey

PREFIX: Final = "headwater:sealed:1:"
_KEY_ID_BYTES: Final = 16
_NULL: Final = "null"

AnyKeys: TypeAlias = Mapping[UUID, SubjectKey] | Mapping[UUID, SubjectKey | None]
"""Keys by their ids; one that is missing or None opens nothing."""


def is_sealed(event: RecordedEvent) -> bool:
    """Whether fields of this event are sealed."""
    return SEALED_FIELDS in event.metadata


# -- sealing ----------------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """A personal value in the text, and whose it is."""

    field: PersonalField
    subject: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class SealingPlan:
    """What is to be sealed in one JSON text."""

    owner: str
    text: str
    places: Sequence[_Place]

    @classmethod
    def of(cls, owner: str, text: str, fields: PersonalFields) -> SealingPlan:
        """Find the personal values and their subjects. What is null tells nothing, and stays.

        Raises:
            InvalidEvent: a subject is missing where there is personal data.
        """
        found = members(text)
        by_name = {member.name: member for member in found}
        places: list[_Place] = []
        for member in found:
            field = fields.by_name.get(member.name)
            if field is None or text[member.start : member.end] == _NULL:
                continue
            subject = by_name.get(field.subject_name)
            name = _subject_of(owner, field, None if subject is None else text[subject.start : subject.end])
            places.append(_Place(field, name, member.start, member.end))
        return cls(owner, text, places)

    @property
    def subjects(self) -> set[str]:
        """Those whose keys are needed."""
        return {place.subject for place in self.places}

    def sealed(self, keys: Mapping[str, SubjectKey]) -> tuple[str, list[str]]:
        """The text with its personal values sealed, and the names of the fields that are.

        Raises:
            SubjectForgotten: there is personal data of a forgotten subject; its redaction is let through, for it tells nothing.
        """
        values: dict[tuple[int, int], str] = {}
        for place in self.places:
            value, key = self.text[place.start : place.end], keys[place.subject]
            if key.cipher is not None:
                values[place.start, place.end] = _seal(key.key_id, key.cipher, self.owner, place, value)
            elif value != place.field.redacted:
                assert key.forgotten_at is not None, "a key without its secret was forgotten"
                raise SubjectForgotten(subject=place.subject, owner=self.owner, field=place.field.name, forgotten_at=key.forgotten_at)
        return with_values(self.text, values), sorted({place.field.name for place in self.places if (place.start, place.end) in values})


_SUBJECT: Final = json.JSONDecoder(parse_int=str, parse_float=float)


def _subject_of(owner: str, field: PersonalField, value: str | None) -> str:
    subject: object = None if value is None else _SUBJECT.decode(value)
    if not isinstance(subject, str) or not subject or len(subject) > SUBJECT_CHARACTERS_MAX or "\x00" in subject:
        raise InvalidEvent(
            f"{owner} has personal data in {field.name!r}, but its {field.subject_name!r} does not say whose: give text of 1 to "
            f"{SUBJECT_CHARACTERS_MAX} characters, or a whole number"
        )
    return subject


def _seal(key_id: UUID, cipher: Cipher, owner: str, place: _Place, value: str) -> str:
    redacted = place.field.redacted
    if has_nul(value):
        raise InvalidEvent(f"{owner} has a NUL character (U+0000) in {place.field.name!r}, which PostgreSQL cannot keep in text: remove it")
    try:
        plain = value.encode()
    except UnicodeEncodeError:
        raise InvalidEvent(f"{owner} has half a surrogate pair in {place.field.name!r}; remove it") from None
    encrypted = cipher.encrypt(plain, _belongs_to(place.subject, owner, place.field.name, redacted))
    return f'"{PREFIX}{_to_text(key_id.bytes + encrypted)}:{_to_text(redacted.encode())}"'


def _belongs_to(subject: str, owner: str, field_name: str, redacted: str) -> bytes:
    return json.dumps([PREFIX, subject, owner, field_name, redacted]).encode()


# -- opening ----------------------------------------------------------------------------------------------------------


class _SealedValue(NamedTuple):
    """A sealed value, taken apart."""

    name: str
    start: int
    end: int
    key_id: UUID
    encrypted: bytes
    redacted: str


@dataclass(frozen=True, slots=True)
class OpeningPlan:
    """What is to be opened in one JSON text."""

    owner: str
    text: str
    values: Sequence[_SealedValue]

    @classmethod
    def of(cls, owner: str, text: str, names: Iterable[str]) -> OpeningPlan:
        """Take the sealed values of these fields apart; a field that is not there, or not sealed, stays as it is.

        Raises:
            SealBroken: a sealed value was altered.
        """
        if not (wanted := set(names)):
            return cls(owner, text, ())
        found = [
            _take_apart(owner, member.name, member.start, member.end, text)
            for member in members(text)
            if member.name in wanted and text.startswith(PREFIX, member.start + 1)
        ]
        return cls(owner, text, found)

    @property
    def names(self) -> set[str]:
        """The fields that are sealed."""
        return {value.name for value in self.values}

    @property
    def key_ids(self) -> set[UUID]:
        """The keys that are needed."""
        return {value.key_id for value in self.values}

    def is_redacted(self, keys: AnyKeys) -> bool:
        """Whether a key is not among these."""
        return any((key := keys.get(key_id)) is None or key.cipher is None for key_id in self.key_ids)

    def opened(self, keys: AnyKeys) -> str:
        """The text as it was before it was sealed, redacted where there is no key any more.

        Raises:
            SealBroken: a value was not sealed for its place, or was altered.
        """
        return with_values(self.text, {(value.start, value.end): self._open(value, keys.get(value.key_id)) for value in self.values})

    def _open(self, value: _SealedValue, key: SubjectKey | None) -> str:
        if key is None or key.cipher is None:
            return value.redacted
        belongs_to = _belongs_to(key.subject, self.owner, value.name, value.redacted)
        try:
            return key.cipher.decrypt(value.encrypted, belongs_to).decode()
        except NotAuthentic:
            raise SealBroken(
                f"the sealed value of {value.name!r} in {self.owner} was altered, or was sealed for another place; restore it from where it is whole"
            ) from None


def sealed_names(owner: str, metadata: Mapping[str, str]) -> list[str]:
    """The fields that an event's metadata calls sealed.

    Raises:
        SealBroken: it cannot be read.
    """
    try:
        names: object = json.loads(metadata[SEALED_FIELDS])
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in cast("list[object]", names)):
        raise SealBroken(f"{owner} has metadata {SEALED_FIELDS!r} that names no fields; only the store that seals writes it")
    return cast("list[str]", names)


def _take_apart(owner: str, name: str, start: int, end: int, text: str) -> _SealedValue:
    try:
        encrypted, redacted = text[start + 1 + len(PREFIX) : end - 1].split(":")
        body = _from_text(encrypted)
        return _SealedValue(name, start, end, UUID(bytes=body[:_KEY_ID_BYTES]), body[_KEY_ID_BYTES:], _redaction(redacted))
    except (ValueError, RecursionError):
        raise SealBroken(f"the sealed value of {name!r} in {owner} was cut off or altered; restore it from where it is whole") from None


@lru_cache(maxsize=1_000)
def _redaction(text: str) -> str:
    """JSON that is one whole value: it is put into an event's JSON as it is."""
    redacted = _from_text(text).decode()
    _ONE_VALUE.decode(redacted)
    return redacted


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


_ONE_VALUE: Final = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse)


def _to_text(content: bytes) -> str:
    return binascii.b2a_base64(content, newline=False).decode()


def _from_text(text: str) -> bytes:
    return binascii.a2b_base64(text, strict_mode=True)

"""Ids for schemas: who gives them, and where others find what they mean."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from headwater.errors import SchemaError

ID_ATTEMPTS_MAX: Final = 8
"""How many ids a schema may try when others are taken; one of 2^31 is taken about never."""
_ID_MASK: Final = 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class RegisteredSchema:
    """A schema with its id, and its version in the subject it was registered for."""

    schema_id: int
    subject: str
    version: int
    schema_text: str


class SchemaRegistry(Protocol):
    """Gives ids to schemas. The same schema has the same id in every subject."""

    async def register(self, subject: str, schema_text: str) -> RegisteredSchema:
        """The schema with its id; a new version of the subject, or the one that had this very text. Repeating it changes nothing.

        Raises:
            SchemaError: no id is free for it.
            StorageUnavailable: try again.
        """
        ...

    async def find(self, schema_id: int) -> str | None:
        """The text of the schema with this id, or None when it was never registered here."""
        ...


class SchemaBoard(Protocol):
    """Where writers show their schemas to readers that have another database."""

    async def publish(self, schema_texts: Mapping[int, str]) -> Mapping[int, SchemaError]:
        """Return when every reader can find them, by their ids; those whose id means another schema there are answered with an error.

        Repeating it is harmless.

        Raises:
            BrokerUnavailable: try again.
        """
        ...

    async def refresh(self) -> None:
        """See everything that was published before this call.

        Raises:
            BrokerUnavailable: try again.
        """
        ...

    def find(self, schema_id: int) -> str | None:
        """The text of the schema with this id, as far as was seen.

        Raises:
            SchemaError: two schemas were published with this id.
        """
        ...


class PublishedSchemas:
    """What was read from a board so far."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        self._ambiguous: set[int] = set()

    def add(self, schema_id: int, schema_text: str) -> None:
        """One more publication."""
        if self._texts.setdefault(schema_id, schema_text) != schema_text:
            self._ambiguous.add(schema_id)

    def find(self, schema_id: int) -> str | None:
        """See `SchemaBoard.find`."""
        if schema_id in self._ambiguous:
            raise SchemaError(
                f"two different schemas were published with the id {schema_id}; what was written with it cannot be told apart"
            )
        return self._texts.get(schema_id)

    def missing(self, schema_texts: Mapping[int, str]) -> dict[int, str]:
        """Those of the schemas that are not there, under ids that are free."""
        return {schema_id: text for schema_id, text in schema_texts.items() if schema_id not in self._texts}

    def clashes(self, schema_texts: Mapping[int, str]) -> dict[int, SchemaError]:
        """Those of the schemas whose id means another one."""
        return {
            schema_id: SchemaError(
                f"the id {schema_id} means another schema in this Kafka cluster already; change the class's docstring, and its schema gets another id"
            )
            for schema_id, text in schema_texts.items()
            if schema_id in self._ambiguous or self._texts.get(schema_id, text) != text
        }


def fingerprint_of(schema_text: str) -> bytes:
    """SHA-256 of the schema's text."""
    return hashlib.sha256(schema_text.encode()).digest()


def candidate_ids(fingerprint: bytes) -> Iterator[int]:
    """Ids for a schema, in the order in which they are tried: the same in every database."""
    for attempt in range(ID_ATTEMPTS_MAX):
        digest = fingerprint if attempt == 0 else hashlib.sha256(fingerprint + bytes([attempt])).digest()
        if schema_id := int.from_bytes(digest[:4], "big") & _ID_MASK:
            yield schema_id


def no_id_left(subject: str) -> SchemaError:
    """What is raised when every candidate is taken."""
    return SchemaError(f"no schema id is free for {subject}; change the class's docstring, and its schema gets other candidates")

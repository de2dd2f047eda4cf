"""Schema ids and the board without servers."""

from __future__ import annotations

from collections.abc import Mapping

from headwater.errors import SchemaError
from headwater.schemas import PublishedSchemas, RegisteredSchema, candidate_ids, fingerprint_of, no_id_left


class MemorySchemas:
    """A `SchemaRegistry` in memory."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        self._versions: dict[str, list[int]] = {}

    async def register(self, subject: str, schema_text: str) -> RegisteredSchema:
        """The schema with its id; see `SchemaRegistry.register`."""
        for schema_id in candidate_ids(fingerprint_of(schema_text)):
            if self._texts.setdefault(schema_id, schema_text) == schema_text:
                versions = self._versions.setdefault(subject, [])
                if schema_id not in versions:
                    versions.append(schema_id)
                return RegisteredSchema(schema_id, subject, versions.index(schema_id) + 1, schema_text)
        raise no_id_left(subject)

    async def find(self, schema_id: int) -> str | None:
        """The text of the schema with this id; see `SchemaRegistry.find`."""
        return self._texts.get(schema_id)


class MemorySchemaBoard:
    """A `SchemaBoard` in memory; those made with the same `topic` see each other's schemas."""

    def __init__(self, topic: list[tuple[int, str]] | None = None) -> None:
        self.topic: list[tuple[int, str]] = [] if topic is None else topic
        self.refresh_count = 0
        self._published = PublishedSchemas()
        self._read_to = 0

    async def publish(self, schema_texts: Mapping[int, str]) -> Mapping[int, SchemaError]:
        """Return when every reader can find them; see `SchemaBoard.publish`."""
        await self.refresh()
        self.topic += self._published.missing(schema_texts).items()
        await self.refresh()
        return self._published.clashes(schema_texts)

    async def refresh(self) -> None:
        """See everything that was published before this call; see `SchemaBoard.refresh`."""
        self.refresh_count += 1
        for schema_id, schema_text in self.topic[self._read_to :]:
            self._published.add(schema_id, schema_text)
        self._read_to = len(self.topic)

    def find(self, schema_id: int) -> str | None:
        """The text of the schema with this id; see `SchemaBoard.find`."""
        return self._published.find(schema_id)

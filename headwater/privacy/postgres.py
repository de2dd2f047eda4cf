"""Subject keys in PostgreSQL, on a connection of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

import asyncpg

from headwater.errors import ConfigurationError
from headwater.postgres import Connection, Database, sql_file, translate_errors
from headwater.privacy.cipher import MasterKey, NotAuthentic, new_key
from headwater.privacy.keys import ForgottenSubject, SubjectKey
from headwater.randomness import uuid7

_PACKAGE: Final = "headwater.privacy"
_FIND_BY_SUBJECT = sql_file(_PACKAGE, "find_keys_by_subject")
_FIND_BY_ID = sql_file(_PACKAGE, "find_keys_by_id")
_INSERT_KEYS = sql_file(_PACKAGE, "insert_keys")
_FORGET_SUBJECT = sql_file(_PACKAGE, "forget_subject")
_LIST_FORGOTTEN = sql_file(_PACKAGE, "list_forgotten")


class PostgresSubjectKeys:
    """`SubjectKeys` in `headwater.subject_keys` of a database that somebody else opens and closes.

    Keys are asked for while callers hold connections of the pool with open transactions; waiting for the pool could wait for themselves. So
    there is one connection beside the pool, opened when it is needed, for one question at a time.
    """

    def __init__(self, database: Database, *, master_key: MasterKey | None = None) -> None:
        """Keep keys there, wrapped under the master key if one is given; keys that were stored without stay readable."""
        self._database, self._master_key = database, master_key
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._turn = asyncio.Lock()

    async def obtain(self, subjects: Sequence[str]) -> Mapping[str, SubjectKey]:
        """The key of every one of these subjects, made where there was none; see `SubjectKeys.obtain`."""
        async with self._asking() as connection:
            rows = await connection.fetch(_FIND_BY_SUBJECT, list(subjects))
            # In one order everywhere, so that two who make several keys cannot wait for each other.
            if missing := sorted(set(subjects) - {row["subject"] for row in rows}):
                made = [self._new_row(subject) for subject in missing]
                await connection.execute(
                    _INSERT_KEYS,
                    missing,
                    [key_id for key_id, _ in made],
                    [key for _, key in made],
                    self._master_key and self._master_key.name,
                )
                rows = await connection.fetch(_FIND_BY_SUBJECT, list(subjects))
        return {row["subject"]: self._key(row) for row in rows}

    async def find(self, key_ids: Sequence[UUID]) -> Mapping[UUID, SubjectKey]:
        """Those of the keys that are known; see `KeySource.find`."""
        async with self._asking() as connection:
            rows = await connection.fetch(_FIND_BY_ID, list(key_ids))
        return {row["key_id"]: self._key(row) for row in rows}

    async def forget(self, subject: str) -> ForgottenSubject | None:
        """Destroy the subject's key; see `SubjectKeys.forget`."""
        async with self._asking() as connection:
            row = await connection.fetchrow(_FORGET_SUBJECT, subject)
        return None if row is None else ForgottenSubject(*row.values())

    async def forgotten(self, limit: int) -> Sequence[ForgottenSubject]:
        """Forgotten subjects, the latest first."""
        async with self._asking() as connection:
            return [ForgottenSubject(*row.values()) for row in await connection.fetch(_LIST_FORGOTTEN, limit)]

    async def close(self) -> None:
        """Close the connection; a second call does nothing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # Every statement commits by itself; nothing is open that could be lost.
            connection.terminate()

    @asynccontextmanager
    async def _asking(self) -> AsyncGenerator[Connection]:
        async with self._turn:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._database.connect()
            with translate_errors():
                yield self._connection

    def _new_row(self, subject: str) -> tuple[UUID, bytes]:
        key_id, key = uuid7(), new_key()
        return key_id, key if self._master_key is None else self._master_key.wrap(key, _belongs_to(subject, key_id))

    def _key(self, row: asyncpg.Record) -> SubjectKey:
        return SubjectKey(row["subject"], row["key_id"], self._unwrapped(row), row["forgotten_at"])

    def _unwrapped(self, row: asyncpg.Record) -> bytes | None:
        wrapped: bytes | None = row["wrapped_key"]
        wrapped_by: str | None = row["wrapped_by"]
        if wrapped is None or wrapped_by is None:
            return wrapped
        if self._master_key is None or self._master_key.name != wrapped_by:
            given = "is not set" if self._master_key is None else f"is {self._master_key.name}"
            raise ConfigurationError(
                f"the keys of personal data are wrapped under the master key {wrapped_by}, but HEADWATER_MASTER_KEY {given}; give the right one"
            )
        try:
            return self._master_key.unwrap(wrapped, _belongs_to(row["subject"], row["key_id"]))
        except NotAuthentic:
            raise ConfigurationError(f"the key of {row['subject']!r} in headwater.subject_keys was altered; restore the row") from None


def _belongs_to(subject: str, key_id: UUID) -> bytes:
    return key_id.bytes + subject.encode()

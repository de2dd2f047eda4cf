"""Driver errors become Headwater's here, once, recognised by SQLSTATE and constraint name."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from headwater.errors import (
    ConditionFailed,
    DuplicateEvent,
    HeadwaterError,
    HorizonUnavailable,
    InvalidEvent,
    LockTimeout,
    MigrationNeeded,
    StorageError,
    StorageUnavailable,
    StreamClosed,
    TransactionConflict,
    UsageError,
    WrongExpectedVersion,
)
from headwater.postgres.statements import names_log_schema

# Connection-level failures: nothing can be known of a transaction they cut off.
_UNAVAILABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    ConnectionError,
    TimeoutError,
    OSError,
)
# The last is what a pool says of a connection that the server cut while it was borrowed.
_CLOSED = ("connection is closed", "connection was closed", "pool is closed", "pool is closing", "released back to the pool")
_INVALID_DATA = {
    "22P05": "a text in it holds a NUL character (U+0000), which PostgreSQL cannot store: remove it",
    "22021": "a text in it holds a character that is not valid in UTF-8: remove it",
    "22P02": "it is not valid JSON",
    "22003": "a number in it is out of PostgreSQL's range",
    "22000": "the driver cannot encode it",
    "22030": "it repeats a key",
    "54001": "it is nested too deeply: flatten it",
}


def _wrong_version(facts: dict[str, Any], _message: str) -> HeadwaterError:
    return WrongExpectedVersion(stream_name=facts["stream_name"], expected=facts["expected"], actual_version=facts["actual_version"])


def _duplicate(facts: dict[str, Any], message: str) -> HeadwaterError:
    event_id = facts.get("event_id")
    return DuplicateEvent(message, event_id=UUID(event_id) if event_id else None)


def _condition_failed(facts: dict[str, Any], message: str) -> HeadwaterError:
    return ConditionFailed(
        f"{message}; nothing was stored: read again and decide again",
        event_id=UUID(facts["event_id"]),
        global_position=facts["global_position"],
    )


def _closed(facts: dict[str, Any], message: str) -> HeadwaterError:
    return StreamClosed(message, stream_name=facts["stream_name"], closed_at=datetime.fromisoformat(facts["closed_at"]))


# SQLSTATEs that our own functions raise; the first is listed in docs/sql-append.md for other drivers.
_OURS: dict[str, Callable[[dict[str, Any], str], HeadwaterError]] = {
    "HW001": _wrong_version,
    "HW002": _duplicate,
    "HW003": lambda _, message: InvalidEvent(message),
    "HW004": lambda _, message: HorizonUnavailable(message),
    "HW005": _condition_failed,
    "HW010": _closed,
}


def _ended(message: str) -> HeadwaterError:
    return TransactionConflict(f"PostgreSQL ended the transaction ({message}); repeat the whole transaction")


_CONFLICTS: dict[str, Callable[[str], HeadwaterError]] = {
    "40001": _ended,
    "40P01": _ended,
    "55P03": lambda message: LockTimeout(
        f"another open transaction holds what this one needs ({message}); repeat it, or end that transaction"
    ),
}


def translate(error: BaseException, *, is_connecting: bool = True) -> HeadwaterError | None:
    """Headwater's error for a driver's, or None where it is none of ours to translate.

    Args:
        is_connecting: whether a bare OSError or TimeoutError can only come from the server's address; in a user's own block it may be anything's.
    """
    if isinstance(error, HeadwaterError):
        return None
    if isinstance(error, asyncpg.PostgresError):
        return _translate_sqlstate(error)
    if isinstance(error, asyncpg.InternalClientError):
        # Raised when the server ends a connection at the moment it goes back to the pool.
        return StorageUnavailable(f"the connection to PostgreSQL broke ({error}); repeat the call")
    if isinstance(error, asyncpg.InterfaceError):
        if any(text in str(error) for text in _CLOSED):
            return StorageUnavailable(f"the connection to PostgreSQL is gone ({error}); repeat the call")
        return None
    if is_connecting and isinstance(error, ssl.SSLError):
        return StorageUnavailable(
            f"PostgreSQL was reached, but TLS failed ({error}); see sslmode, sslrootcert and the host's name in HEADWATER_POSTGRES"
        )
    if is_connecting and isinstance(error, _UNAVAILABLE):
        return StorageUnavailable(
            f"PostgreSQL cannot be reached ({type(error).__name__}: {error}); is it running, and is HEADWATER_POSTGRES right?"
        )
    return None


def _translate_sqlstate(error: asyncpg.PostgresError) -> HeadwaterError | None:
    sqlstate: str = error.sqlstate or ""
    message, detail = str(getattr(error, "message", error)), getattr(error, "detail", None)
    if sqlstate in _OURS:
        return _OURS[sqlstate](json.loads(detail) if detail else {}, message)
    if sqlstate in ("26000", "42P05") or (sqlstate == "08P01" and "startup parameter" in message):
        return UsageError(
            f"a connection pooler stands between ({message}); if it hands out connections by transaction, as PgBouncer may, set "
            "HEADWATER_POSTGRES_POOLING=transaction"
        )
    if isinstance(error, _UNAVAILABLE):
        return StorageUnavailable(f"PostgreSQL went away or takes no connections now ({message}); repeat the call")
    if (conflict := _CONFLICTS.get(sqlstate)) is not None:
        return conflict(message)
    if sqlstate == "23505":
        return _unique_violation(str(getattr(error, "constraint_name", "")), str(detail or ""))
    if sqlstate in ("3F000", "42883", "42P01") and names_log_schema(message):
        return MigrationNeeded(f"the database lacks Headwater's schema ({message}); run: headwater migrate")
    if sqlstate == "42501":
        return StorageError(f"PostgreSQL refused: {message}. What the role of a service may do is set up by: headwater migrate --roles")
    if sqlstate == "3D000":
        return UsageError(f"{message}; create it, or correct HEADWATER_POSTGRES")
    if sqlstate in ("28000", "28P01"):
        return StorageError(f"PostgreSQL refused the login ({message}); correct the user or password in HEADWATER_POSTGRES")
    return None


def _unique_violation(constraint: str, detail: str) -> HeadwaterError | None:
    if constraint == "events_event_id_key":
        return DuplicateEvent(f"an event id of this append is stored already ({detail}); give new ids, or repeat the first append exactly")
    if constraint == "events_stream_id_version_key":
        # Only under an isolation level with an old snapshot: the version check could not see the event that took the place.
        return TransactionConflict("another append to the stream was first; repeat the whole transaction")
    return None


@contextmanager
def translate_errors(*, is_connecting: bool = True) -> Generator[None]:
    """Turn driver errors raised inside into Headwater's; others, and cancellation, pass through."""
    try:
        yield
    except Exception as error:
        translated = translate(error, is_connecting=is_connecting)
        if translated is None:
            raise
        raise translated from error


@contextmanager
def translate_data_errors() -> Generator[None]:
    """Turn what PostgreSQL says about data it cannot store into `InvalidEvent`; for appends alone, whose data are events."""
    try:
        yield
    except asyncpg.PostgresError as error:
        if (reason := _INVALID_DATA.get(error.sqlstate or "")) is None:
            raise
        # The driver's own message repeats the data, of any size; its cause says what is wrong with it.
        found = str(error.__cause__ or error)[:200]
        raise InvalidEvent(f"PostgreSQL cannot store an event of this append: {reason} ({found})") from error

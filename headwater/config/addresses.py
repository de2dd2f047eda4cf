"""Addresses fit to be shown."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

_UNPARSED: Final = "(an address that cannot be parsed)"
_SCHEMES: Final = ("postgres", "postgresql")
_SHOWN_PARAMETERS: Final = ("sslmode",)


def redact(dsn: str) -> str:
    """The address without its password, fit for a message or a log; of its parameters only `sslmode`."""
    try:
        parts = urlsplit(dsn)
        shown = urlencode([(name, value) for name, value in parse_qsl(parts.query) if name in _SHOWN_PARAMETERS])
        # An unescaped slash, question mark or hash in the password ends the part before it; the rest is then anywhere.
        if parts.scheme not in _SCHEMES or ("@" in dsn and "@" not in parts.netloc):
            return _UNPARSED
        login, at, host = parts.netloc.rpartition("@")
        user, colon, _ = login.partition(":")
        return urlunsplit((parts.scheme, f"{user}{':***' if colon else ''}{at}{host}", parts.path, shown, ""))
    except ValueError:
        return _UNPARSED

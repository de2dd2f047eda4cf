"""The address of PostgreSQL, looked at before anybody connects."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from headwater.config import redact
from headwater.errors import ConfigurationError, UsageError

_SCHEMES: Final = ("postgres", "postgresql")
_TLS_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")


def check_address(dsn: str) -> None:
    """Make sure that it is one, and that the files it names for TLS are there.

    Raises:
        UsageError: it cannot be an address.
        ConfigurationError: a file that it names is not there; a server is then not asked in vain, again and again.
    """
    try:
        parts = urlsplit(dsn)
        _ = parts.port
        parameters = parse_qsl(parts.query)
    except ValueError as error:
        raise unusable_address(dsn, error) from None
    if parts.scheme not in _SCHEMES:
        raise unusable_address(dsn, f"it begins with none of {', '.join(f'{scheme}://' for scheme in _SCHEMES)}")
    for name, path in parameters:
        if name in _TLS_FILES and not Path(path).is_file():
            raise ConfigurationError(
                f"the address {redact(dsn)!r} names {name}={path}, where there is no file (from the working directory {Path.cwd()})"
            )


def unusable_address(dsn: str, why: object) -> UsageError:
    """What is said of an address that is none."""
    return UsageError(f"the address {redact(dsn)!r} cannot be used: {why}; write postgresql://user:password@host:port/database")

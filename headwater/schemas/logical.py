"""Values that are text in JSON and a number or bytes in Avro. Each conversion is exact or refuses: `to_json(to_avro(text)) == text`."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any, Final

_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - moments are counted here, their zone is in the text
_EPOCH_DAY: Final = _EPOCH.toordinal()
_MICROSECOND: Final = timedelta(microseconds=1)
_SECOND_MICROS: Final = 1_000_000
_USUAL_UTC: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:\.[0-9]{6})?Z")


@dataclass(frozen=True, slots=True)
class TextConversion:
    """From JSON text to Avro's own value and back."""

    to_avro: Callable[[str], Any]
    """Raises ValueError where coming back would not give the same text."""
    to_json: Callable[[Any], str]


def _exactly(parse: Callable[[str], Any], write: Callable[[Any], str]) -> TextConversion:
    def to_avro(text: str) -> Any:
        native = parse(text)
        if write(native) != text:
            raise ValueError(f"{text[:60]!r} is not written in the usual way")
        return native

    return TextConversion(to_avro, write)


def _parse_moment(text: str) -> int:
    return (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND


def _write_moment(micros: int) -> str:
    return (_EPOCH + timedelta(microseconds=micros)).isoformat()


def _parse_utc(text: str) -> int:
    # Written back and compared like the others, this would take twice as long, and events have moments more often than anything else.
    if not _USUAL_UTC.fullmatch(text) or text[19:] == ".000000Z":
        raise ValueError(f"{text[:60]!r} is not a moment in UTC written in the usual way")
    return _parse_moment(text[:-1])


def _write_utc(micros: int) -> str:
    return _write_moment(micros) + "Z"


def _parse_time(text: str) -> int:
    found = time.fromisoformat(text)
    return ((found.hour * 60 + found.minute) * 60 + found.second) * _SECOND_MICROS + found.microsecond


def _write_time(micros: int) -> str:
    return (_EPOCH + timedelta(microseconds=micros)).time().isoformat()


def _parse_date(text: str) -> int:
    return date.fromisoformat(text).toordinal() - _EPOCH_DAY


def _write_date(days: int) -> str:
    return date.fromordinal(days + _EPOCH_DAY).isoformat()


def _write_bytes(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode()


def _decimal(kind: Mapping[str, Any]) -> TextConversion:
    precision, scale = int(kind["precision"]), int(kind.get("scale", 0))
    unscaled_max: Final = 10**precision - 1

    def parse(text: str) -> bytes:
        whole, dot, places = text.partition(".")
        if not text.isascii() or bool(dot) != bool(scale) or len(places) != scale:
            raise ValueError(f"not written with {scale} places")
        unscaled = int(whole + places)
        if abs(unscaled) > unscaled_max:
            raise ValueError(f"more than {precision} digits")
        return unscaled.to_bytes((unscaled.bit_length() + 8) // 8, "big", signed=True)

    def write(content: bytes) -> str:
        unscaled = int.from_bytes(content, "big", signed=True)
        digits = str(abs(unscaled)).rjust(scale + 1, "0")
        text = f"{digits[:-scale]}.{digits[-scale:]}" if scale else digits
        return f"-{text}" if unscaled < 0 else text

    return _exactly(parse, write)


_UTC: Final = TextConversion(_parse_utc, _write_utc)
_LOCAL: Final = _exactly(_parse_moment, _write_moment)
_TIME: Final = _exactly(_parse_time, _write_time)
_DATE: Final = _exactly(_parse_date, _write_date)
BYTES: Final = _exactly(base64.urlsafe_b64decode, _write_bytes)

LOGICAL: Final[Mapping[str, Callable[[Mapping[str, Any]], TextConversion]]] = {
    "timestamp-micros": lambda _: _UTC,
    "local-timestamp-micros": lambda _: _LOCAL,
    "time-micros": lambda _: _TIME,
    "date": lambda _: _DATE,
    "decimal": _decimal,
}
"""By Avro's name of the logical type."""

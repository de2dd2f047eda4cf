"""JSON as PostgreSQL's `jsonb` takes and prints it, so that the memory store refuses and returns the same."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Final, NoReturn, cast

from headwater.errors import InvalidEvent

NUMERIC_WEIGHT_MAX: Final = 131_071
"""The highest power of ten in a PostgreSQL numeric."""
NUMERIC_SCALE_MAX: Final = 16_383
"""The most digits after its point."""


def as_jsonb(text: str) -> str:
    """The JSON text as PostgreSQL would give it back: keys by length and then bytes, numbers written out, the last of equal keys.

    Raises:
        InvalidEvent: PostgreSQL would not store it.
    """
    try:
        text.encode()
        value = json.loads(text, parse_float=_number, parse_int=_number, parse_constant=_refuse_constant)
        printed = _print(value)
        printed.encode()
    except UnicodeEncodeError:
        raise InvalidEvent("the event's data has half a surrogate pair; remove it") from None
    except RecursionError:
        raise InvalidEvent("the event's data is nested too deeply; flatten it") from None
    except ValueError as error:
        raise InvalidEvent(f"the event's data is not valid JSON: {error}") from None
    return printed


def _number(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise InvalidEvent("a number in the event's data is out of PostgreSQL's range") from None
    exponent = cast("int", number.as_tuple().exponent)
    if -exponent > NUMERIC_SCALE_MAX or (number and number.adjusted() > NUMERIC_WEIGHT_MAX):
        raise InvalidEvent("a number in the event's data is out of PostgreSQL's range")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _print(value: object) -> str:
    match value:
        case dict():
            members = cast("dict[str, object]", value)
            ordered = sorted(members.items(), key=lambda member: (len(member[0].encode()), member[0].encode()))
            return "{" + ", ".join(f"{_print(key)}: {_print(item)}" for key, item in ordered) + "}"
        case list():
            items = cast("list[object]", value)
            return "[" + ", ".join(_print(item) for item in items) + "]"
        case Decimal():
            return format(value or value.copy_abs(), "f")
        case str():
            if "\x00" in value:
                raise InvalidEvent("a text in the event's data has a NUL character (U+0000), which PostgreSQL cannot store: remove it")
            return json.dumps(value, ensure_ascii=False)
        case _:
            return json.dumps(value)

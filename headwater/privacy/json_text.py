"""The values of a JSON object as the text they are written in, so that what is not personal stays untouched to the last digit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from headwater.errors import InvalidEvent

_OPENING = re.compile(r"[ \t\n\r]*\{[ \t\n\r]*")
_COLON = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")
_COMMA_OR_END = re.compile(r"[ \t\n\r]*(?:,[ \t\n\r]*|\})")
# Numbers stay text: none is too long, and none is rounded.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)


class Member(NamedTuple):
    """One member of an object, and where its value stands in the text."""

    name: str
    start: int
    end: int


def members(text: str) -> list[Member]:
    """The members of the object that the text is.

    Raises:
        InvalidEvent: it is no JSON object, or one nested too deeply.
    """
    try:
        return _members(text)
    except (ValueError, IndexError):
        raise InvalidEvent("an event with personal fields must be a JSON object") from None
    except RecursionError:
        raise InvalidEvent("the event's data is nested too deeply; flatten it") from None


def with_values(text: str, values: Mapping[tuple[int, int], str]) -> str:
    """The text with other values at these places."""
    parts: list[str] = []
    done = 0
    for (start, end), value in sorted(values.items()):
        parts += (text[done:start], value)
        done = end
    return "".join((*parts, text[done:]))


def _members(text: str) -> list[Member]:
    found: list[Member] = []
    at = _after(_OPENING, text, 0)
    is_last = text[at] == "}"
    while not is_last:
        if text[at] != '"':
            raise ValueError(at)
        name, at = _DECODER.raw_decode(text, at)
        start = _after(_COLON, text, at)
        _, end = _DECODER.raw_decode(text, start)
        found.append(Member(name, start, end))
        at = _after(_COMMA_OR_END, text, end)
        is_last = text[at - 1] == "}"
    return found


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    if (found := pattern.match(text, at)) is None:
        raise ValueError(at)
    return found.end()

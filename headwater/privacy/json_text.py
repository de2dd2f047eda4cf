"""The values of a JSON object as the text they are written in, so that what is not personal stays untouched to the last digit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from headwater.errors import InvalidEvent

_SPACE = " \t\n\r"
# Numbers stay text: none is too long, and none is rounded.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)


class Member(NamedTuple):
    """One member of an object, and where its value stands in the text."""

    name: str
    start: int
    end: int


def members(text: str) -> Iterator[Member]:
    """The members of the object that the text is.

    Raises:
        InvalidEvent: it is no JSON object, or one nested too deeply.
    """
    try:
        yield from _members(text)
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


def _members(text: str) -> Iterator[Member]:
    at = _skip(text, 0)
    _expect(text, at, "{")
    at = _skip(text, at + 1)
    if text[at] == "}":
        return
    while True:
        _expect(text, at, '"')
        name, at = _DECODER.raw_decode(text, at)
        at = _skip(text, at)
        _expect(text, at, ":")
        start = _skip(text, at + 1)
        _, end = _DECODER.raw_decode(text, start)
        yield Member(name, start, end)
        at = _skip(text, end)
        if text[at] == "}":
            return
        _expect(text, at, ",")
        at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at


def _expect(text: str, at: int, character: str) -> None:
    if text[at] != character:
        raise ValueError(character)

"""What can be said of an event's parts without knowing its class: limits that PostgreSQL and Kafka set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, cast

from pydantic import BaseModel

from headwater.errors import InvalidEvent

METADATA_BYTES_MAX: Final = 16 * 1024
"""The most an event's metadata may take, in bytes of UTF-8, names and values together."""
EVENT_TYPE_CHARACTERS_MAX: Final = 200
"""The longest event type."""
TAGS_PER_EVENT_MAX: Final = 20
"""The most tags one event may carry."""
TAG_CHARACTERS_MAX: Final = 200
"""The longest tag."""

TYPES_REMEMBERED_MAX: Final = 10_000
"""Event types that are known to be fine."""

CONTROL_CHARACTERS: Final = "\x00-\x1f\x7f\ud800-\udfff"
"""Control characters and halves of surrogate pairs, as they stand in a regular expression's brackets."""
CONTROL: Final = re.compile(f"[{CONTROL_CHARACTERS}]")
_ESCAPED_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


@lru_cache(maxsize=TYPES_REMEMBERED_MAX)
def check_type(event_type: str) -> str:
    """Return the type; refuse those that Kafka's headers cannot carry."""
    if not 1 <= len(event_type) <= EVENT_TYPE_CHARACTERS_MAX or CONTROL.search(event_type):
        raise InvalidEvent(
            f"the event type {event_type[:60]!r} must have 1 to {EVENT_TYPE_CHARACTERS_MAX} characters and no control characters"
        )
    return event_type


def check_metadata(event_type: str, metadata: Mapping[Any, Any]) -> None:
    """Refuse metadata that PostgreSQL or Kafka's headers cannot carry; callers without a type checker give anything."""
    try:
        text = "".join((*metadata, *metadata.values()))
    except TypeError:
        text = "\x00"
    if text.isascii() and "\x00" not in text and len(text) <= METADATA_BYTES_MAX:
        return  # as nearly always
    size = 0
    for name, value in metadata.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise InvalidEvent(f"the metadata of {event_type} has {name!r}: {value!r}; names and values must be text")
        if "\x00" in name or "\x00" in value:
            raise InvalidEvent(f"the metadata of {event_type} has a NUL character in {name!r}; remove it")
        try:
            size += len(name.encode()) + len(value.encode())
        except UnicodeEncodeError:
            raise InvalidEvent(f"the metadata of {event_type} has text in {name!r} that is not Unicode; remove it") from None
    if size > METADATA_BYTES_MAX:
        raise InvalidEvent(f"the metadata of {event_type} takes {size:,} bytes; at most {METADATA_BYTES_MAX:,} are allowed")


def check_tags(owner: str, tags: Iterable[object]) -> None:
    """Refuse tags that cannot be stored or asked for."""
    found = tuple(tags)
    if len(found) > TAGS_PER_EVENT_MAX:
        raise InvalidEvent(f"{owner} has {len(found)} tags; at most {TAGS_PER_EVENT_MAX} are allowed")
    for tag in found:
        if not isinstance(tag, str) or not 1 <= len(tag) <= TAG_CHARACTERS_MAX or CONTROL.search(tag):
            raise InvalidEvent(
                f"{owner} has the tag {str(tag)[:60]!r}; a tag is text of 1 to {TAG_CHARACTERS_MAX} characters without control characters"
            )


def has_nul(json_text: str) -> bool:
    """Whether a text inside the JSON has a NUL character."""
    return "\\u0000" in json_text and _ESCAPED_NUL.search(json_text) is not None


def field_with_nul(model: BaseModel, name: str) -> str:
    """Which field of it holds a NUL character, as a path that begins with the name."""

    def search(value: object, path: str) -> str | None:
        if isinstance(value, str):
            return path if "\x00" in value else None
        items: Iterable[tuple[str, object]] = ()
        if isinstance(value, BaseModel):
            items = ((f"{path}.{name}", getattr(value, name)) for name in type(value).model_fields)
        elif isinstance(value, Mapping):
            mapping = cast("Mapping[object, object]", value)
            items = ((f"{path}[{key!r}]", part) for key, item in mapping.items() for part in (key, item))
        elif isinstance(value, (list, tuple, set, frozenset)):
            items = ((f"{path}[{index}]", item) for index, item in enumerate(cast("Iterable[object]", value)))
        return next((found for name, item in items if (found := search(item, name)) is not None), None)

    return search(model, name) or "one of its fields"

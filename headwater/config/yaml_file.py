"""The configuration file's text: names with values, each with its line; every fault with line and column.

Only plain values are taken: no nesting, no tags, no anchors. So nothing is constructed but text, numbers, truth values and nothing, and a
small file cannot become a large value. Faults never repeat a value, which may be a secret.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from headwater.errors import ConfigurationError

CONFIG_FILE: Final = "headwater.yaml"
"""Read in the working directory, if it is there."""
CONFIG_VARIABLE: Final = "HEADWATER_CONFIG"
"""Names another file, which must be there."""
FILE_BYTES_MAX: Final = 64 * 1024
"""A larger file is refused unread: it is none of ours."""
NAME_CHARACTERS_MAX: Final = 60
"""A longer name is cut in messages."""
_PLAIN_TAGS: Final = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp"))

Value = object


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong at one place of the file."""

    line: int
    column: int
    what: str

    def at(self, path: Path) -> str:
        """As compilers write it, so that editors find the place."""
        return f"{path}:{self.line}:{self.column}: {self.what}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One `name: value` of the file; lines and columns count from 1."""

    name: str
    value: Value
    line: int
    column: int
    value_line: int
    value_column: int


class _Faulty(Exception):
    """The text cannot be read on from here."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.what)
        self.fault = fault


def config_path() -> Path | None:
    """The file that counts here and now, or None where there is none.

    Raises:
        ConfigurationError: HEADWATER_CONFIG names a file that is not there.
    """
    if named := os.environ.get(CONFIG_VARIABLE):
        path = Path(named)
        if not _is_file(path):
            raise ConfigurationError(f"{CONFIG_VARIABLE} names {named}, where no file can be read; correct it, or unset it")
        return path
    default = Path(CONFIG_FILE)
    return default if _exists(default) else None


def read_entries(path: Path) -> tuple[list[Entry], list[Fault]]:
    """What the file says, in its order, and what is wrong with its text. After a fault of syntax nothing more is read.

    Raises:
        ConfigurationError: it is no file, cannot be read, or is larger than FILE_BYTES_MAX.
    """
    content = _read(path)
    entries: dict[str, Entry] = {}
    faults: list[Fault] = []
    try:
        for entry in _entries(_decode(content)):
            if (first := entries.setdefault(entry.name, entry)) is not entry:
                what = f"{printable_name(entry.name)} is set twice, first in line {first.line}; keep one"
                faults.append(Fault(entry.line, entry.column, what))
    except _Faulty as stop:
        faults.append(stop.fault)
    return list(entries.values()), faults


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _read(path: Path) -> bytes:
    if not _is_file(path):
        raise ConfigurationError(f"{path} is no file; a file with the settings is wanted there")
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error.strerror}); mend its permissions, or name another in {CONFIG_VARIABLE}"
        ) from error
    if len(content) > FILE_BYTES_MAX:
        raise ConfigurationError(
            f"{path} has more than {FILE_BYTES_MAX // 1024} KiB, which no configuration of Headwater needs; is it the right file?"
        )
    return content


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _place(content[: error.start].decode("utf-8", errors="replace"))
        raise _Faulty(Fault(line, column, "this is not UTF-8; save the file as UTF-8")) from None


def _place(before: str) -> tuple[int, int]:
    """Line and column of what follows this text."""
    lines = before.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return len(lines), len(lines[-1]) + 1


def _entries(text: str) -> Iterator[Entry]:
    try:
        loader: Any = yaml.SafeLoader(text)  # its stubs lack types for the parser's events
    except yaml.reader.ReaderError as error:
        line, column = _place(text[: error.position])
        raise _Faulty(Fault(line, column, "a control character stands here; remove it")) from None
    try:
        yield from _mapping(loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _Faulty(_fault(mark, f"this is no YAML: {error.problem or error.context}")) from None
    finally:
        loader.dispose()


def _mapping(loader: Any) -> Iterator[Entry]:
    """Walk through the parser's events: what may not be there is refused where it begins, however deep it would go."""
    loader.get_event()
    if loader.check_event(yaml.StreamEndEvent):
        return
    loader.get_event()
    if loader.check_event(yaml.ScalarEvent):
        alone = loader.get_event()
        if alone.value:
            raise _Faulty(
                _fault(alone.start_mark, "a line of the form `name: value` is wanted; is the colon missing, or the space after it?")
            )
    elif loader.check_event(yaml.MappingStartEvent):
        opening = loader.get_event()
        _refuse_decoration(opening)
        while not loader.check_event(yaml.MappingEndEvent):
            yield _entry(loader)
        loader.get_event()
    else:
        raise _Faulty(_fault(loader.get_event().start_mark, "lines of the form `name: value` are wanted, nothing else"))
    loader.get_event()
    if not loader.check_event(yaml.StreamEndEvent):
        raise _Faulty(_fault(loader.get_event().start_mark, "a second document begins here; the file holds one"))


def _entry(loader: Any) -> Entry:
    name_event: Any = loader.get_event()
    if not isinstance(name_event, yaml.ScalarEvent):
        raise _Faulty(_fault(name_event.start_mark, "the name of a setting is wanted here"))
    _refuse_decoration(name_event)
    value_event: Any = loader.get_event()
    if not isinstance(value_event, yaml.ScalarEvent):
        raise _Faulty(
            _fault(
                value_event.start_mark, f"{printable_name(name_event.value)} takes one plain value: no list, no nested settings, no alias"
            )
        )
    _refuse_decoration(value_event)
    return Entry(
        name_event.value,
        _value(loader, value_event),
        *_line_and_column(name_event.start_mark),
        *_line_and_column(value_event.start_mark),
    )


def _refuse_decoration(event: Any) -> None:
    if event.anchor is not None:
        raise _Faulty(_fault(event.start_mark, "anchors (&name) are not used here; write the value itself"))
    if event.tag is not None:
        raise _Faulty(_fault(event.start_mark, "tags (!name) are not used here; write the value itself"))


def _value(loader: Any, event: Any) -> Value:
    tag = loader.resolve(yaml.ScalarNode, event.value, event.implicit)
    if tag not in _PLAIN_TAGS:
        return event.value
    try:
        return loader.construct_object(yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark))
    except (ValueError, OverflowError):
        raise _Faulty(_fault(event.start_mark, "this looks like a number or a date, but is none; put it in quotes if it is text")) from None


def _fault(mark: Any, what: str) -> Fault:
    return Fault(*(_line_and_column(mark) if mark is not None else (1, 1)), what)


def _line_and_column(mark: Any) -> tuple[int, int]:
    return mark.line + 1, mark.column + 1


def printable_name(name: str) -> str:
    """A name as the file has it, cut and escaped where it could not stand in a message."""
    cut = name if len(name) <= NAME_CHARACTERS_MAX else f"{name[:NAME_CHARACTERS_MAX]}…"
    return cut if cut.isprintable() and cut else repr(cut)

"""Frozen dataclasses at the price of ordinary ones, for the few that are made for every event.

The constructor of a frozen dataclass goes around its own `__setattr__`, which costs more than all the rest. A maker fills an ordinary twin with the
same slots, and then makes it one of the frozen class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

Fields = ParamSpec("Fields")
Made = TypeVar("Made")


def maker(frozen_class: Callable[Fields, Made]) -> Callable[Fields, Made]:
    """What makes instances of this frozen dataclass with slots and without `__post_init__`; arguments go by position."""
    target: Any = frozen_class
    twin: Any = dataclasses.make_dataclass(
        target.__name__,
        [(f.name, f.type, dataclasses.field(default=f.default, default_factory=f.default_factory)) for f in dataclasses.fields(target)],
        slots=True,
    )

    def make(*values: Any) -> Any:
        made = twin(*values)
        made.__class__ = target
        return made

    return cast("Callable[Fields, Made]", make)

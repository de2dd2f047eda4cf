"""Names that Avro allows: letters, digits and underscores, not starting with a digit."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

AVRO_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def avro_name(text: str, taken: Collection[str] = ()) -> str:
    """The text as an Avro name; other characters become their code point, and a number is added where the name is taken."""
    name = text if AVRO_NAME.fullmatch(text) else _spelled(text)
    wanted, number = name, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    return name


def avro_namespace(category: str) -> str:
    """The category as a namespace."""
    return ".".join(avro_name(part) for part in category.split("."))


def _spelled(text: str) -> str:
    spelled = "".join(c if c.isascii() and (c.isalnum() or c == "_") else f"_u{ord(c):04x}_" for c in text)
    return spelled if spelled and not spelled[0].isdigit() else f"_{spelled}"

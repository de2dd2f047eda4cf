"""Unions that Avro allows: at most one branch of each kind, so that a JSON value finds its branch and the branch its JSON value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeGuard

JSON_TEXT: Final = {"type": "string", "logicalType": "json"}
_INTEGERS: Final = ("int", "long")
_DOUBLES: Final = ("float", "double")


def is_union(kind: Any) -> TypeGuard[list[Any]]:
    """Avro writes a union as a list of its branches."""
    return isinstance(kind, list)


def union_of(members: Iterable[Any]) -> Any:
    """One type that carries whatever any member carries, as exactly as that member did."""
    flat = _flatten(members)
    if JSON_TEXT in flat:
        return ["null", JSON_TEXT] if "null" in flat else JSON_TEXT
    if len(flat) == 1:
        return flat[0]
    maps = [one for one in flat if kind_of(one) == "map"]
    if maps and any(kind_of(one) == "named" for one in flat):
        return JSON_TEXT  # a JSON object would not know where it belongs
    merged: list[Any] = []
    needs_text = False
    for kind in dict.fromkeys(kind_of(one) for one in flat):
        alike = [one for one in flat if kind_of(one) == kind]
        if kind == "named":
            merged += alike
        elif kind in {"array", "map"}:
            inside = "items" if kind == "array" else "values"
            merged.append({"type": kind, inside: union_of(one[inside] for one in alike)})
        else:
            chosen = next((one for one in alike if isinstance(one, str)), alike[0]) if kind != "string" else _text(alike)
            merged.append(chosen)
            # What is left out here is written as text in JSON (dates, bytes in base64).
            needs_text |= kind in {"integer", "bytes"} and any(one not in (chosen, "int", "long") for one in alike)
    return _with_text(merged, needs_text=needs_text)


def kind_of(member: Any) -> str:
    """What tells branches of a union apart: the JSON value's own kind."""
    name = member if isinstance(member, str) else member["type"]
    if name in _INTEGERS:
        return "integer"
    if name in _DOUBLES:
        return "double"
    if name in {"record", "enum"} or name not in {"null", "boolean", "string", "bytes", "array", "map", "fixed"}:
        return "named"
    return "bytes" if name == "fixed" else str(name)


def _flatten(members: Iterable[Any]) -> list[Any]:
    flat: list[Any] = []
    for member in members:
        for one in member if is_union(member) else [member]:
            if one not in flat:
                flat.append(one)
    return flat


def _text(alike: list[Any]) -> Any:
    return alike[0] if len(alike) == 1 else "string"


def _with_text(merged: list[Any], *, needs_text: bool) -> Any:
    has_text = any(kind_of(one) == "string" for one in merged)
    if has_text and "bytes" in merged:
        merged.remove("bytes")  # in JSON it is text like the other
    if has_text or needs_text:
        # A string with a meaning would claim every text for it.
        merged = ["string" if kind_of(one) == "string" and len(merged) > 1 and _is_shared(merged) else one for one in merged]
    if needs_text and not has_text:
        merged.append("string")
    return merged[0] if len(merged) == 1 else merged


def _is_shared(merged: list[Any]) -> bool:
    return any(kind_of(one) in {"integer", "bytes"} and isinstance(one, dict) for one in merged)

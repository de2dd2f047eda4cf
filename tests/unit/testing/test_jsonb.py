"""JSON as jsonb prints it; the same table is held against PostgreSQL in tests/integration/eventstore/test_jsonb.py."""

from __future__ import annotations

import pytest

from headwater.testing.jsonb import as_jsonb

PRINTED = [
    ('{"b": 1, "aa": 2, "a": 3}', '{"a": 3, "b": 1, "aa": 2}'),
    ('{"a": 1, "a": 2}', '{"a": 2}'),
    ('{"é": 1, "zz": 2}', None),
    ("[1.50, 1e2, 1E-3, -0, -0.0, 1.0E+2, 123456789012345678901234567890.5]", None),
    ("[1e-16383, 1e400]", None),
    ('["\\u00e9", "\\ud83d\\ude00", "\\/", "\\t\\n\\u0001\\u007f", "\\u2028", "\\"\\\\"]', None),
    (" [ true , false , null , [ ] , { } ] ", "[true, false, null, [], {}]"),
    ('"text"', '"text"'),
    ("1", "1"),
]


@pytest.mark.parametrize(("text", "printed"), [pair for pair in PRINTED if pair[1] is not None])
def test_json_is_printed_as_jsonb(text: str, printed: str) -> None:
    assert as_jsonb(text) == printed

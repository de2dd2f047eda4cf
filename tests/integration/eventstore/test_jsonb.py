"""The memory store's JSON is PostgreSQL's."""

from __future__ import annotations

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.errors import InvalidEvent
from headwater.testing.jsonb import as_jsonb
from tests.unit.testing.test_jsonb import PRINTED

TEXTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("text", [text for text, _ in PRINTED])
async def test_postgres_prints_the_same(other: asyncpg.Connection, text: str) -> None:
    assert await other.fetchval("SELECT $1::jsonb::text", text) == as_jsonb(text)


@given(value=TEXTS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_postgres_prints_the_same_whatever_it_is(other: asyncpg.Connection, value: object) -> None:
    import json

    text = json.dumps(value)
    try:
        ours = as_jsonb(text)
    except InvalidEvent:
        with pytest.raises(asyncpg.PostgresError):
            await other.fetchval("SELECT $1::jsonb::text", text)
        return
    assert await other.fetchval("SELECT $1::jsonb::text", text) == ours

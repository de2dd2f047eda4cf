"""Whatever an event class holds, its JSON in the log comes back from Avro as the same typed event."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from pydantic import create_model

from headwater import Event
from headwater.errors import SchemaMismatch
from headwater.schemas import AvroCodec
from headwater.testing.jsonb import as_jsonb
from tests.support import full_count
from tests.unit.schemas.made_classes import HASHABLE, LEAVES, events, exactly

EXAMPLES = full_count(default=250, full=3_000)
EXAMPLES_OF_A_KIND = full_count(default=40, full=500)
KINDS = LEAVES + HASHABLE


def check_nothing_is_lost(event: Event) -> None:
    """Compared with what the log gives, for the log itself has no -0.0 and writes 1e22 as an integer."""
    text = as_jsonb(event.model_dump_json())
    from_log = type(event).model_validate_json(text, extra="ignore")
    codec = AvroCodec(type(event))
    try:
        content = codec.encode_json(text)
    except SchemaMismatch:
        assert has_a_giant(json.loads(text)), text
        return
    assert exactly(codec.decode(content)) == exactly(from_log)
    assert AvroCodec(type(event)).schema_text == codec.schema_text


def has_a_giant(value: object) -> bool:
    """An integer that Avro's long cannot hold: it travels as JSON instead (see test_values)."""
    if isinstance(value, dict):
        return any(map(has_a_giant, value.values()))
    if isinstance(value, list):
        return any(map(has_a_giant, value))
    return isinstance(value, int) and not -(2**63) <= value < 2**63


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(events())
def test_avro_gives_the_same_typed_event_as_the_log(event: Event) -> None:
    check_nothing_is_lost(event)


@pytest.mark.parametrize("number", range(len(KINDS)), ids=[str(kind)[:40] for kind, _ in KINDS])
def test_every_kind_of_field_alone(number: int) -> None:
    """Each on every run; drawn at random, a rare kind with a rare value would be met once in many."""
    kind, values = KINDS[number]
    made: type[Event] = create_model("ThingMade", __base__=Event, __module__=__name__, field=(kind, ...))

    @settings(max_examples=EXAMPLES_OF_A_KIND, deadline=None, suppress_health_check=list(HealthCheck))
    @given(values)
    def check(value: Any) -> None:
        check_nothing_is_lost(made(field=value))

    check()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 5e-324, 1.7976931348623157e308, 0.1, 1e22, 2.0])
def test_floats_at_their_ends(value: float) -> None:
    made: type[Event] = create_model("ThingMade", __base__=Event, __module__=__name__, one=(float, ...), several=(list[float | None], ...))
    check_nothing_is_lost(made(one=value, several=[value, None]))


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**22, 2**100])
def test_giant_beside_floats_never_becomes_one(value: int) -> None:
    made: type[Event] = create_model("ThingMade", __base__=Event, __module__=__name__, field=(int | float | str, ...))
    with pytest.raises(SchemaMismatch):
        AvroCodec(made).encode_json(made(field=value).model_dump_json())

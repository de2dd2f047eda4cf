"""Whatever an event class holds, its JSON in the log comes back from Avro as the same typed event."""

from __future__ import annotations

import json


from hypothesis import HealthCheck, given, settings
from pydantic import ValidationError

from headwater import Event
from headwater.errors import SchemaMismatch
from headwater.schemas import AvroCodec
from headwater.testing.jsonb import as_jsonb
from tests.support import full_count
from tests.unit.schemas.made_classes import events, exactly

EXAMPLES = full_count(default=250, full=3_000)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(events())
def test_avro_gives_the_same_typed_event_as_the_log(event: Event) -> None:
    text = as_jsonb(event.model_dump_json())
    try:
        from_log = type(event).model_validate_json(text, extra="ignore")
    except ValidationError:
        return  # the class cannot read its own JSON; see test_most_values_are_put_to_the_test
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

"""A service as an AsyncAPI 3 document: what it receives and sends, on which topics, in which shape."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import models_json_schema

from headwater.errors import SchemaError
from headwater.kafka import AVRO_CONTENT, JSON_CONTENT, topic_of
from headwater.messages import CAUSATION_ID, CORRELATION_ID, TRACEPARENT, Event
from headwater.postgres import topic_prefix
from headwater.projections import definition_of

if TYPE_CHECKING:
    from headwater.service.service import Service

ASYNCAPI_VERSION: Final = "3.0.0"
KAFKA_BINDING_VERSION: Final = "0.5.0"
API_VERSION_DEFAULT: Final = "1.0.0"
_HEADERS_NAME: Final = "HeadwaterHeaders"
_UUID: Final = {"type": "string", "format": "uuid"}
_POSITION: Final = {"type": "string", "pattern": "^[0-9]+:[0-9]+$"}
_HEADERS: Final = {
    "type": "object",
    "description": "CloudEvents 1.0 in binary mode, and where the event stands in the log that it comes from.",
    "required": ["ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time", "ce_subject", "content-type"],
    "properties": {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_id": {**_UUID, "description": "The event's id: the same for every delivery."},
        "ce_type": {"type": "string", "description": "The event's type, which is the message's name here."},
        "ce_source": {"type": "string", "format": "uri-reference", "description": "The service that wrote it, like /services/shop."},
        "ce_time": {"type": "string", "format": "date-time", "description": "When it was recorded."},
        "ce_subject": {"type": "string", "description": "The stream's name, which is the record's key, too."},
        "content-type": {"type": "string"},
        "headwater-log": {**_UUID, "description": "Which log the positions belong to."},
        "headwater-position": {**_POSITION, "description": "Epoch and position: within a partition those of one log only grow."},
        "headwater-previous": {**_POSITION, "description": "The position before it in this partition, so that a hole is noticed."},
        "headwater-version": {"type": "string", "pattern": "^[0-9]+$", "description": "Its place in its stream, from 1."},
        CORRELATION_ID: {"type": "string", "description": "The story that it belongs to."},
        CAUSATION_ID: {"type": "string", "description": "The message that caused it."},
        TRACEPARENT: {"type": "string", "description": "W3C trace context of its producer."},
    },
}


def asyncapi_document(service: Service, *, api_version: str = API_VERSION_DEFAULT) -> dict[str, Any]:
    """The AsyncAPI 3 document of a service, as values for JSON or YAML. Nothing is connected.

    It receives what its handlers and sagas take. It sends the classes of its projections, which are fed from its own log, and registered classes
    that it does not take; what else it appends nobody can know before it does: register it (`service.events.register`).

    Raises:
        SchemaError: an event class has a field that JSON Schema cannot describe.
    """
    carried = _carried(service)
    received = set(service.subscriptions.event_classes)
    own = {event_class for each in service.projections.values() for event_class in definition_of(each).event_classes}
    by_topic = _by_topic(service, carried)
    sent = {
        topic: leaving
        for topic, members in sorted(by_topic.items())
        if (leaving := [each for each in members if not each.is_foreign and (each.event_class in own or each.event_class not in received)])
    }
    schemas, references = _schemas([each.event_class for each in carried.values()])
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {"title": service.name, "version": api_version},
        "defaultContentType": _content_type(service.values),
        "channels": {topic: _channel(topic, members) for topic, members in sorted(by_topic.items())},
        "operations": {
            **_receiving(service, carried, by_topic),
            **{f"send.{topic}": _operation("send", topic, leaving) for topic, leaving in sent.items()},
        },
        "components": {
            "messages": {each.name: _message(each, references[each.event_class]) for each in carried.values()},
            "schemas": {_HEADERS_NAME: _HEADERS, **schemas},
        },
    }


@dataclass(frozen=True, slots=True)
class _Carried:
    """One kind of message on its topic."""

    name: str
    event_class: type[Event]
    topic: str
    content_type: str
    is_foreign: bool = False
    """Another producer's, without Headwater's headers."""


def _carried(service: Service) -> dict[str, _Carried]:
    """Every kind of message, by what its route is called."""
    prefix = topic_prefix(service.current_settings().log_schema)
    own = {event_class for each in service.projections.values() for event_class in definition_of(each).event_classes}
    classes = {*service.subscriptions.event_classes, *service.events.registry, *own}
    found = {
        each.event_type: _Carried(
            each.event_type,
            each,
            topic_of(each.event_category, prefix),
            _content_type(service.formats.get(each.event_category, service.values)),
        )
        for each in sorted(classes, key=lambda each: each.event_type)
    }
    for foreign in service.subscriptions.foreign.values():
        name = _identifier(f"{foreign.event_class.event_type}.{foreign.name}")
        found[foreign.event_type] = _Carried(name, foreign.event_class, foreign.name, _content_type(foreign.format), is_foreign=True)
    return found


def _by_topic(service: Service, carried: Mapping[str, _Carried]) -> dict[str, list[_Carried]]:
    """The messages of each topic; none where a handler takes everything of a category whose classes nobody registered."""
    prefix = topic_prefix(service.current_settings().log_schema)
    by_topic: dict[str, list[_Carried]] = {
        topic_of(handler.category, prefix): [] for handler in service.subscriptions if handler.category is not None
    }
    for each in carried.values():
        by_topic.setdefault(each.topic, []).append(each)
    return by_topic


def _content_type(values: str) -> str:
    return (AVRO_CONTENT if values == "avro" else JSON_CONTENT).decode()


def _channel(topic: str, members: Iterable[_Carried]) -> dict[str, Any]:
    return {
        "address": topic,
        "messages": {each.name: {"$ref": f"#/components/messages/{each.name}"} for each in members},
        "bindings": {"kafka": {"topic": topic, "bindingVersion": KAFKA_BINDING_VERSION}},
    }


def _receiving(service: Service, carried: Mapping[str, _Carried], members_of: Mapping[str, list[_Carried]]) -> dict[str, Any]:
    """An operation for each handler on each of its topics."""
    prefix = topic_prefix(service.current_settings().log_schema)
    group = prefix + service.name
    by_handler: dict[str, dict[str, list[_Carried]]] = {handler.name: {} for handler in service.subscriptions.handlers}
    for route_name, route in service.subscriptions.routes.items():
        for handler in route.handlers:
            taken = carried[route_name]
            by_handler[handler.name].setdefault(taken.topic, []).append(taken)
    for handler in service.subscriptions.handlers:
        if handler.category is not None:
            topic = topic_of(handler.category, prefix)
            by_handler[handler.name][topic] = [each for each in members_of[topic] if not each.is_foreign]
    operations: dict[str, Any] = {}
    for handler in service.subscriptions.handlers:
        by_topic = by_handler[handler.name]
        for topic, members in by_topic.items():
            operation = _operation("receive", topic, members)
            operation["bindings"] = {
                "kafka": {"groupId": {"type": "string", "enum": [group]}, "bindingVersion": KAFKA_BINDING_VERSION},
            }
            if summary := _first_line(handler.function):
                operation["summary"] = summary
            name = f"receive.{_identifier(handler.name)}"
            operations[name if len(by_topic) == 1 else f"{name}.{topic}"] = operation
    return operations


def _operation(action: str, topic: str, members: Iterable[_Carried]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{topic}"},
        "messages": [{"$ref": f"#/channels/{topic}/messages/{each.name}"} for each in members],
    }


def _message(carried: _Carried, payload: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"name": carried.event_class.event_type, "title": carried.event_class.event_type}
    if summary := _first_line(carried.event_class):
        message["summary"] = summary
    message |= {"contentType": carried.content_type, "payload": payload}
    if carried.is_foreign:
        return message
    return {
        **message,
        "headers": {"$ref": f"#/components/schemas/{_HEADERS_NAME}"},
        "correlationId": {"location": f"$message.header#/{CORRELATION_ID}"},
        "bindings": {
            "kafka": {"key": {"type": "string", "description": "The stream's name."}, "bindingVersion": KAFKA_BINDING_VERSION},
        },
    }


def _schemas(classes: Iterable[type[Event]]) -> tuple[dict[str, Any], dict[type[Event], dict[str, Any]]]:
    """Every schema by its name, and for each class where its own is."""
    classes = list(dict.fromkeys(classes))
    try:
        found, whole = models_json_schema([(each, "serialization") for each in classes], ref_template="#/components/schemas/{model}")
    except PydanticInvalidForJsonSchema as error:
        raise SchemaError(f"an event of this service has a field that JSON Schema cannot describe: {error}") from error
    return whole.get("$defs", {}), {each: found[each, "serialization"] for each in classes}


def _first_line(documented: object) -> str | None:
    text = (getattr(documented, "__doc__", None) or "").strip()
    return inspect.cleandoc(text).splitlines()[0] if text else None


def _identifier(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name.replace(".<locals>", ""))

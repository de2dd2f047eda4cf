"""What a service reads from topics of other producers, and writes for other consumers."""

from __future__ import annotations

from typing import TypeVar

from headwater.bus import FindsSchemas, ForeignFormat, HandlerDecorator, Subscriptions
from headwater.messages import Event

EventT = TypeVar("EventT", bound=Event)


class ReadsForeignTopics:
    """The part of a service that handles records of other producers."""

    subscriptions: Subscriptions

    def on_topic(
        self,
        topic: str,
        event_class: type[EventT],
        *,
        format: ForeignFormat = "json",  # noqa: A002 - the user's word
        schemas: FindsSchemas | None = None,
    ) -> HandlerDecorator[EventT]:
        """Register a handler of a topic that is not Headwater's: each record's value is read as this class, fields that it lacks are passed over.

        Handled as what `on` registers: effects and offset commit together, so each record takes effect once, in the order of its key. What cannot be read
        becomes a dead letter with its cause, and nothing stops. `context.stream_name` has the record's key, `context.metadata` its headers, as far as
        they are text.

        Args:
            topic: the topic's whole name; one topic has one class and one format.
            format: `json`: UTF-8 text; `avro`: the Confluent wire format.
            schemas: the registry that knows the ids in Avro values: an object with `async def find(schema_id) -> str | None`. Without one, the schemas
                that Headwater's services publish in the cluster.
        Raises:
            UsageError: at import, when the function cannot be a handler of these records, or the topic was declared otherwise before.
        """
        return self.subscriptions.on_topic(topic, event_class, format=format, schemas=schemas)

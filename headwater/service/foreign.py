"""What a service reads from topics of other producers, and writes for other consumers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeAlias, TypeVar, Unpack, get_args

from headwater.bus import FindsSchemas, ForeignFormat, HandlerDecorator, HandlerOptions, Subscriptions
from headwater.errors import UsageError
from headwater.kafka import JSON_ENCODER, EncodedValue, ValueEncoder
from headwater.messages import Event, RecordedEvent, category_of, check_category
from headwater.service.events import ServiceEvents

EventT = TypeVar("EventT", bound=Event)


Values: TypeAlias = Literal["avro", "json"]
"""How a service writes its events to Kafka; it reads both."""


class ForeignTopics:
    """The part of a service that deals with other producers and consumers."""

    subscriptions: Subscriptions
    events: ServiceEvents

    def __init__(self) -> None:
        super().__init__()
        self.formats: dict[str, Values] = {}
        """By category, where it is written otherwise than the service's events are."""

    def write_as(self, values: Values, *categories: str) -> None:
        """Write the messages of these categories in this format, whatever the service writes otherwise: for consumers that know no Headwater.

        A category is its topic's name. Such consumers find the event's JSON, or Avro in the Confluent wire format, as the value, the rest in CloudEvents
        headers (`ce_type`, `ce_id`, …), and the stream as the key; what is published with one key is in one stream.

        Raises:
            UsageError: there is no such format, or a category cannot name a topic.
        """
        if values not in get_args(Values):
            raise UsageError(f"write_as({values!r}, …): values are 'json' or 'avro'")
        if not categories:
            raise UsageError(f'write_as({values!r}) names no category; write service.write_as({values!r}, "billing")')
        for category in categories:
            self.formats[check_category(category, owner="write_as(…)")] = values

    def on_topic(
        self,
        topic: str,
        event_class: type[EventT],
        *,
        format: ForeignFormat = "json",  # noqa: A002 - the user's word
        schemas: FindsSchemas | None = None,
        **options: Unpack[HandlerOptions],
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
            options: as of `on`: `retry`, `on_error`, `copy_dead_letters_to`, and `lanes`, which run so many record keys at once.
        Raises:
            UsageError: at import, when the function cannot be a handler of these records, or the topic was declared otherwise before.
        """
        decorator = self.subscriptions.on_topic(topic, event_class, format=format, schemas=schemas, **options)
        if copy_class := options.get("copy_dead_letters_to"):
            self.events.register(copy_class)
        return decorator


def encoder_by_category(values: Values, formats: Mapping[str, Values], make_avro: Callable[[], ValueEncoder]) -> ValueEncoder:
    """What writes events in the service's format, and those of some categories in theirs."""
    wanted = {values, *formats.values()}
    encoders: dict[Values, ValueEncoder] = {"json": JSON_ENCODER}
    if "avro" in wanted:
        encoders["avro"] = make_avro()
    others = {category: encoders[chosen] for category, chosen in formats.items() if chosen != values}
    return CategoryEncoder(encoders[values], others) if others else encoders[values]


class CategoryEncoder:
    """A `ValueEncoder` that asks another one for the events of some categories."""

    def __init__(self, usual: ValueEncoder, by_category: Mapping[str, ValueEncoder]) -> None:
        self._usual, self._by_category = usual, by_category

    async def prepare(self, event_types: Iterable[str]) -> None:
        """Prepare all of them: a type's category is known only with the event."""
        wanted = list(event_types)
        for encoder in {id(each): each for each in (self._usual, *self._by_category.values())}.values():
            await encoder.prepare(wanted)

    def encode(self, event: RecordedEvent) -> EncodedValue:
        """The value and its content type."""
        return self._by_category.get(category_of(event.stream_name), self._usual).encode(event)

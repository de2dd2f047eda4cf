"""Spans of OpenTelemetry, where an application has set it up: a producer span for an append, a consumer span for a handler's call.

The context of the producer span is kept in the event's metadata as a W3C `traceparent` and travels to Kafka in the header of that name. A handler's
span begins a trace of its own and is linked to that context: it works in a batch, maybe days later, so it is no part of the writer's request.
Where opentelemetry-api is not installed, or no tracer provider was set, nothing of this happens.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Tracer
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    from headwater.messages import RecordedEvent

    _is_installed = True
else:
    try:
        from opentelemetry import trace
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ModuleNotFoundError:
        _is_installed = False
    else:
        _is_installed = True

_RECORDING_NOTHING: Final = (trace.ProxyTracerProvider, trace.NoOpTracerProvider) if _is_installed else ()
TRACER_NAME: Final = "headwater"
LINKS_MAX: Final = 128
"""What OpenTelemetry's SDK keeps unless told otherwise."""
NO_SPAN: Final = nullcontext()
_produced_under: ContextVar[str | None] = ContextVar("headwater_produced_under", default=None)


def is_on() -> bool:
    """Whether spans are recorded: a tracer provider was set. Cheap, since every append asks."""
    # The public way looks into the environment each time while none is set, which takes longer than the rest of it; where the library
    # keeps the provider elsewhere one day, that is what is left.
    if not _is_installed or getattr(trace, "_TRACER_PROVIDER", trace) is None:
        return False
    return not isinstance(trace.get_tracer_provider(), _RECORDING_NOTHING)


def produced_under() -> str | None:
    """The `traceparent` that events made now carry: of the producer span around, if there is one."""
    return _produced_under.get()


def producer_span(operation: str, destination: str, messages: object = None) -> AbstractContextManager[None]:
    """A span around the storing of events, whose context they carry. Inside another producer span it is that one.

    Args:
        operation: `append` or `publish`.
        destination: the stream, or the type; only a stream's category stands in the span's name, for names must be few.
        messages: what is stored, to be counted; one where nothing is given.
    """
    if not is_on() or _produced_under.get() is not None:
        return NO_SPAN
    return _producer_span(operation, destination, len(messages) if isinstance(messages, Sized) else 1)


def consumer_span(handler_name: str, events: Sequence[RecordedEvent], *, group: str, topic: str) -> AbstractContextManager[None]:
    """A span around one call of a handler, linked to the context that each of its events carries. Only where `is_on()`."""
    attributes: dict[str, str | int] = {
        "messaging.system": "kafka",
        "messaging.operation.type": "process",
        "messaging.destination.name": topic,
        "messaging.consumer.group.name": group,
        "headwater.handler": handler_name,
    }
    if len(events) == 1:
        attributes |= {"messaging.message.id": str(events[0].event_id), "headwater.event_type": events[0].type}
    else:
        attributes["messaging.batch.message_count"] = len(events)
    return _consumer_span(handler_name, attributes, _links(events))


@contextmanager
def _producer_span(operation: str, destination: str, event_count: int) -> Generator[None]:
    category = destination.partition("-")[0]
    attributes: dict[str, str | int] = {
        "messaging.system": "headwater",
        "messaging.operation.type": "send",
        "messaging.destination.name": category,
        "messaging.batch.message_count": event_count,
        "headwater.stream_name": destination,
    }
    with _tracer().start_as_current_span(f"{operation} {category}", kind=trace.SpanKind.PRODUCER, attributes=attributes):
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        token = _produced_under.set(carrier.get("traceparent"))
        try:
            yield
        finally:
            _produced_under.reset(token)


@contextmanager
def _consumer_span(handler_name: str, attributes: Mapping[str, str | int], links: Sequence[Link]) -> Generator[None]:
    # What a handler appends belongs to the handler's span, even where an append around the consumer runs under another.
    token = _produced_under.set(None)
    try:
        with _tracer().start_as_current_span(
            f"process {handler_name}", context=Context(), kind=trace.SpanKind.CONSUMER, attributes=attributes, links=links
        ):
            yield
    finally:
        _produced_under.reset(token)


def _links(events: Sequence[RecordedEvent]) -> list[Link]:
    """To each context once; as many as a span keeps."""
    found: dict[str, Link] = {}
    propagator = TraceContextTextMapPropagator()
    for event in events:
        carried = event.metadata.get("traceparent")
        if carried is not None and carried not in found and len(found) < LINKS_MAX:
            context = trace.get_current_span(propagator.extract({"traceparent": carried}, context=Context())).get_span_context()
            if context.is_valid:
                found[carried] = trace.Link(context)
    return list(found.values())


def _tracer() -> Tracer:
    return trace.get_tracer(TRACER_NAME)

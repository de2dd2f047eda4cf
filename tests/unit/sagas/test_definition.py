"""Every mistake that can be seen at import is refused there, and the message says what to write."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from headwater.bus import Subscriptions
from headwater.errors import UsageError
from headwater.messages import Event
from headwater.sagas import Choreography, Saga, SagaContext, Step, definition_of, key_text, on, on_deadline, starts_on, when_compensated
from tests.unit.sagas.orders import OrderFulfilment, OrderPlaced, PaymentTaken, StockReleased, StockReserved


class Unrelated(Event, category="other"):
    other_id: str


async def _event(self: Any, event: Any, saga: SagaContext) -> None: ...
async def _moment(self: Any, saga: SagaContext) -> None: ...
def _plain(self: Any, event: Any, saga: SagaContext) -> None: ...
async def _short(self: Any, event: Any) -> None: ...
async def _annotated(self: Any, event: StockReserved, saga: SagaContext) -> None: ...


def make(members: dict[str, Any], **kwargs: Any) -> Any:
    start = {"placed": starts_on(OrderPlaced)(_copy(_event))}
    return type(Saga)("Story", (Saga,), {"__module__": __name__, **start, **members}, **{"key": "order_id", **kwargs})


def _copy(function: Callable[..., Any]) -> Any:
    import types

    return types.FunctionType(function.__code__, function.__globals__, function.__name__, closure=function.__closure__)


def annotated(function: Callable[..., Any]) -> Any:
    copied = _copy(function)
    copied.__annotations__ = dict(function.__annotations__)
    return copied


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: make({"placed": _copy(_event)}), "nothing begins this saga"),
        (lambda: make({}, key=None), "say which events belong to one saga"),
        (lambda: make({}, key=7), "say which events belong to one saga"),
        (lambda: make({}, key="customer_id"), "OrderPlaced has no field 'customer_id'"),
        (lambda: make({"x": on(Unrelated)(_copy(_event))}), "Unrelated has no field 'order_id'"),
        (lambda: make({"x": Step(done_by=Unrelated)}), "Unrelated has no field 'order_id'"),
        (lambda: make({"x": on(StockReserved)(_copy(_plain))}), "must be written: async def _plain"),
        (lambda: make({"x": on(StockReserved)(_copy(_short))}), "must be written"),
        (
            lambda: make({"x": on(PaymentTaken)(annotated(_annotated))}),
            "is marked for PaymentTaken, but its parameter 'event' is annotated",
        ),
        (lambda: make({"x": on_deadline("d")(_copy(_event))}), "must be written"),
        (
            lambda: make({"x": on_deadline("d")(_copy(_moment)), "y": on_deadline("d")(_copy(_moment))}),
            "two methods act on the deadline 'd'",
        ),
        (lambda: make({"x": on(StockReserved)(_copy(_event)), "y": on(StockReserved)(_copy(_event))}), "let one method take it"),
        (lambda: make({"x": on(OrderPlaced)(_copy(_event))}), "OrderPlaced begins the saga and cannot also"),
        (lambda: make({"x": Step(done_by=OrderPlaced)}), "OrderPlaced begins the saga and cannot also"),
        (lambda: make({"x": Step(done_by=StockReserved), "y": Step(failed_by=StockReserved)}), "answers both x and y"),
        (lambda: make({"x": when_compensated(_copy(_moment)), "y": when_compensated(_copy(_moment))}), "mark one"),
        (lambda: make({}, ends_within=timedelta(0)), "ends_within"),
        (lambda: make({}, unmatched="perhaps"), "unmatched='perhaps'"),
        (lambda: make({"__annotations__": {"amount": int}}), "the field 'amount' needs a default"),
        (lambda: Step(done_by=StockReserved, undone_by=StockReserved), "cannot say two things"),
        (lambda: Step(done_by=Event), "no event class"),
        (lambda: Step(undone_by=StockReleased, undo_attempts_max=0), "undo_attempts_max"),
        (starts_on, "@starts_on names the events"),
        (lambda: starts_on(str), "no event class"),  # type: ignore[arg-type]
        (on_deadline, "@on_deadline names the deadlines"),
        (lambda: on_deadline(""), "name deadlines with"),
        (lambda: definition_of(str), "is no saga"),  # type: ignore[arg-type]
        (
            lambda: type(Saga)("S" * 80, (Saga,), {"__module__": __name__, "p": starts_on(OrderPlaced)(_copy(_event))}, key="order_id"),
            "use at most",
        ),
    ],
)
def test_wrong_definitions_are_refused_at_import(build: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(").replace(")", r"\)")):
        build()


def test_one_step_object_cannot_have_two_names() -> None:
    step = Step(done_by=StockReserved)
    with pytest.raises((UsageError, RuntimeError)) as caught:
        make({"x": step, "y": step})
    assert isinstance(caught.value, UsageError) or isinstance(caught.value.__cause__, UsageError)


def test_what_a_definition_knows() -> None:
    definition = definition_of(OrderFulfilment)
    assert definition.name == OrderFulfilment.saga_type == "order_fulfilment"
    assert set(definition.steps) == {"reserve_stock", "take_payment"}
    assert OrderPlaced in definition.event_classes
    assert StockReleased in definition.event_classes
    assert definition.key_of(OrderPlaced(order_id="7")) == "7"
    assert set(OrderFulfilment.model_fields) == {"amount", "handled"}, "steps are no state"


def test_a_key_may_be_a_function_and_none_belongs_to_nobody() -> None:
    story = make({}, key=lambda event: event.order_id if event.order_id != "x" else None)
    assert definition_of(story).key_of(OrderPlaced(order_id="7")) == "7"
    assert definition_of(story).key_of(OrderPlaced(order_id="x")) is None


@pytest.mark.parametrize("key", ["", "a" * 301, "a\x00b", "a\nb", "\ud800"])
def test_keys_that_cannot_be_stored_are_refused(key: str) -> None:
    with pytest.raises(UsageError, match="cannot name a saga"):
        key_text(key)


def test_two_sagas_of_one_name_are_refused() -> None:
    choreography = Choreography(Subscriptions())
    choreography.register(make({}))
    with pytest.raises(UsageError, match="two sagas are named 'story'"):
        choreography.register(make({}))


def test_a_saga_is_one_handler_known_by_its_name() -> None:
    subscriptions = Subscriptions()
    assert Choreography(subscriptions).register(OrderFulfilment) is OrderFulfilment
    (handler,) = subscriptions.handlers
    assert handler.name == "OrderFulfilment"
    assert "reservation" in subscriptions.topics

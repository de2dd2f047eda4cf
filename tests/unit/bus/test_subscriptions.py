"""What may be a handler, and what is refused at import."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from headwater.bus import Context, DeadLetter, DeadLetterIt, Park, RetryPolicy, Stop, Subscriptions
from headwater.errors import ConfigurationError, StorageUnavailable, UsageError
from headwater.messages import Event


class OrderPlaced(Event):
    sku: str


class OrderCancelled(Event):
    sku: str


class ItemAdded(Event, category="cart"):
    sku: str


async def plain(event: OrderPlaced) -> None: ...


async def test_the_decorator_returns_the_function_itself() -> None:
    subscriptions = Subscriptions()

    async def handler(event: OrderPlaced, context: Context) -> None: ...

    assert subscriptions.on(OrderPlaced)(handler) is handler
    assert bool(subscriptions)
    assert not Subscriptions()


def test_topics_are_the_categories_of_the_classes() -> None:
    subscriptions = Subscriptions()

    @subscriptions.on(OrderPlaced, OrderCancelled, ItemAdded)
    async def one(event: OrderPlaced | OrderCancelled | ItemAdded) -> None: ...

    @subscriptions.on(OrderPlaced)
    async def two(event: Event, context: Any) -> None: ...

    assert subscriptions.topics == ("cart", "order")
    assert set(subscriptions.event_classes) == {OrderPlaced, OrderCancelled, ItemAdded}
    assert [h.takes_context for h in subscriptions.routes["OrderPlaced"].handlers] == [False, True]
    assert subscriptions.handlers[0].name.endswith("one")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((), "names no event class"),
        ((Event,), "name the event classes"),
        ((str,), "subclasses of headwater.Event"),
        (("OrderPlaced",), "subclasses of headwater.Event"),
        ((plain,), r"write @service\.on\(OrderPlaced\)"),
        ((OrderPlaced, OrderPlaced), "twice"),
    ],
)
def test_what_is_no_event_class_is_refused(classes: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Subscriptions().on(*classes)


def _not_async(event: OrderPlaced) -> None: ...


async def _no_parameters() -> None: ...


async def _three(event: OrderPlaced, context: Context, more: int) -> None: ...


async def _star(*events: OrderPlaced) -> None: ...


async def _keyword(event: OrderPlaced, *, needed) -> None: ...  # type: ignore[no-untyped-def]


async def _other_event(event: OrderCancelled) -> None: ...


async def _other_context(event: OrderPlaced, context: str) -> None: ...


async def _generator(event: OrderPlaced) -> Any:
    yield event


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_not_async, "async def"),
        (_no_parameters, r"must take \(event\) or \(event, context\)"),
        (_three, r"must take \(event\)"),
        (_star, r"must take \(event\)"),
        (_keyword, "does not say of which class"),
        (_other_event, "registered for OrderPlaced, but its parameter 'event' is annotated as OrderCancelled"),
        (_other_context, "annotate 'context' as Context"),
        (_generator, "async def"),
        (functools.partial(plain), "no name of its own"),
    ],
)
def test_what_cannot_be_a_handler_is_refused(function: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Subscriptions().on(OrderPlaced)(function)


def test_an_annotation_that_only_type_checkers_know_is_theirs_to_check() -> None:
    async def handler(event: Unknown) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    Subscriptions().on(OrderPlaced)(handler)


def test_two_handlers_of_one_name_are_refused() -> None:
    subscriptions = Subscriptions()
    subscriptions.on(OrderPlaced)(plain)
    with pytest.raises(UsageError, match="two handlers are named 'plain'"):
        subscriptions.on(OrderPlaced)(plain)


def test_two_classes_of_one_name_are_refused() -> None:
    other = type("OrderPlaced", (Event,), {"__module__": "elsewhere", "__annotations__": {}})
    subscriptions = Subscriptions()
    subscriptions.on(OrderPlaced)(plain)

    async def second(event: Any) -> None: ...

    with pytest.raises(UsageError, match="two event classes are named OrderPlaced"):
        subscriptions.on(other)(second)
    assert len(subscriptions) == 1


# -- what becomes of errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retries": 3}, "knows no option retries; there are: retry, on_error"),
        ({"retry": 3}, "must be a RetryPolicy"),
        ({"retry": Park()}, "must be a RetryPolicy; what comes after the retries is its `then`"),
        ({"on_error": Park()}, r"must map classes of exceptions to actions, as in \{PaymentDown: Park\(\)\}"),
        ({"on_error": {"ValueError": Park()}}, "names 'ValueError', which is no class of exceptions"),
        ({"on_error": {KeyboardInterrupt: Park()}}, "no class of exceptions that a handler may raise"),
        ({"on_error": {ValueError: Park}}, "Stop\\(\\); write it with brackets"),
        ({"on_error": {ValueError: 3}}, "on_error says 3 for ValueError"),
        ({"on_error": {StorageUnavailable: Stop()}}, "waited out without counting"),
        ({"copy_dead_letters_to": "trouble"}, "must be MessageDeadLettered"),
        ({"copy_dead_letters_to": DeadLetter}, "must be MessageDeadLettered"),
    ],
)
def test_options_that_mean_nothing_are_refused_at_import(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Subscriptions().on(OrderPlaced, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Park(attempts_max=0), r"Park\(attempts_max=0\) must lie between 1 and 1000"),
        (lambda: Park(delay_factor=0.5), "Park: delays must not be negative, delay_factor at least 1"),
        (lambda: Park(when_exhausted="stop"), "must be 'dead_letter' or 'stop_key'"),  # type: ignore[arg-type]
        (lambda: RetryPolicy(then=DeadLetterIt), r"must be Park\(\), DeadLetterIt\(\)"),  # type: ignore[arg-type]
        (lambda: RetryPolicy(attempts_max=1001), "must lie between 1 and 1000"),
    ],
)
def test_policies_that_mean_nothing_are_refused_where_they_are_made(make: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()

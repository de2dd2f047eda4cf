"""Request and reply over the bus: a question is a message like any other, its answer comes back to the service that asked.

The question goes through the outbox of who asks; whoever handles it replies in the transaction of the handler's effects, so there is a reply if and only
if there are effects, once. Replies go to one topic for each service that asks, `replies.SERVICE`, or to that category of the log where
services share it without a broker. Every process of that service reads it from where it ended when the process first asked, and takes what answers
a question of its own. What comes after its caller stopped waiting is dropped and counted.

Nothing here is durable on the side that asks: a process that dies forgets its questions, and their answers come late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID, uuid5

from headwater.bus.retries import RetryPolicy
from headwater.bus.values import SourceRecord
from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import BrokerUnavailable, HeadwaterError, RequestTimeout, StorageUnavailable, UnexpectedReply, UsageError
from headwater.eventstore import EventStore
from headwater.kafka import JSON_DECODER, ValueDecoder, decode_record, topic_of
from headwater.messages import ANY, Event, EventRegistry, Metadata, NewEvent, RecordedEvent, check_category
from headwater.outbox import outbox_stream
from headwater.privacy import REDACTING, OpensEvents
from headwater.randomness import SYSTEM_RANDOMNESS, Randomness, token_hex
from headwater.telemetry import logger

REQUEST_SECONDS_DEFAULT: Final = 5.0
"""How long a caller waits for a reply unless told otherwise."""
REQUESTS_WAITING_MAX: Final = 10_000
"""The most questions of one process that wait for their reply."""
REPLY_TO: Final = "headwater_reply_to"
"""Metadata of a question: the category in which its reply is awaited."""
ASKED_BY: Final = "headwater_asked_by"
"""Metadata of a question and its reply: which process asked."""
REPLY_FOR: Final = "headwater_reply_for"
"""Metadata of a reply: the id of the question."""
_REPLIES: Final = "replies."
_REPLY_IDS: Final = UUID("0199a5f0-c6f4-7d02-9b3a-7c55e1f0a246")
_IDLE_SECONDS: Final = 0.5
_AGAIN: Final = RetryPolicy(first_delay_seconds=0.2, delay_factor=2.0, delay_seconds_max=5.0)

ReplyT = TypeVar("ReplyT", bound=Event)
_log = logger("bus")


class ReplySource(Protocol):
    """Where replies come from."""

    async def open(self, topic: str) -> None:
        """Connect. The first time begin at the topic's end, later where it was left.

        Raises:
            BrokerUnavailable, StorageUnavailable: nobody answers.
        """
        ...

    async def receive(self, *, timeout_seconds: float) -> Sequence[SourceRecord]:
        """The next records; empty when none came in time.

        Raises:
            BrokerUnavailable, StorageUnavailable: close and open again.
        """
        ...

    async def close(self) -> None:
        """Let go of the connection; harmless twice."""
        ...


# -- who answers -------------------------------------------------------------------------------------------------------


def expects_reply(metadata: Metadata) -> bool:
    """Whether a message is a question."""
    return REPLY_TO in metadata


def reply_of(question: RecordedEvent, event: Event, *, answered_by: str) -> tuple[str, NewEvent]:
    """The stream and the message that answer a question.

    Args:
        answered_by: the handler; the same handler's reply to the same question is the same message.
    Raises:
        UsageError: the message is no question.
    """
    reply_to = question.metadata.get(REPLY_TO)
    if reply_to is None or not reply_to.startswith(_REPLIES):
        raise UsageError(
            f"nobody waits for a reply to this {question.type}: it was published, not asked with service.events.request(…). "
            "context.expects_reply tells; to tell others anyway, use context.publish"
        )
    check_category(reply_to, owner="the question's metadata")
    about = {REPLY_FOR: str(question.event_id), ASKED_BY: question.metadata.get(ASKED_BY, "")}
    message = NewEvent.of(event, metadata=about, event_id=uuid5(_REPLY_IDS, f"{question.event_id}/{answered_by}"))
    # Its class has a category of its own, which does not matter here: it goes to whoever asked.
    return f"{reply_to}-{question.event_id}", replace(message, category=None)


# -- who asks ----------------------------------------------------------------------------------------------------------


class Requests:
    """Asks questions and waits for their replies; `run` receives them, from the first question on."""

    def __init__(
        self,
        service_name: str,
        store: EventStore,
        source: ReplySource,
        registry: EventRegistry,
        *,
        values: ValueDecoder = JSON_DECODER,
        personal: OpensEvents = REDACTING,
        topic_prefix: str = "",
        clock: Clock = SYSTEM_CLOCK,
        randomness: Randomness = SYSTEM_RANDOMNESS,
    ) -> None:
        """Ask through this store's outbox."""
        self._store, self._source, self._registry, self._values, self._personal = store, source, registry, values, personal
        self._clock, self._randomness = clock, randomness
        self._category = check_category(_REPLIES + service_name.replace("-", "_"), owner=f"the service {service_name!r}")
        self._topic = topic_of(self._category, topic_prefix)
        self._asked_by = token_hex(8)
        self._waiting: dict[str, asyncio.Future[RecordedEvent]] = {}
        self._is_needed, self._is_open = asyncio.Event(), asyncio.Event()
        self.late_count = 0
        """Replies that came when their caller no longer waited."""

    async def request(
        self, question: Event, reply: type[ReplyT], *, timeout_seconds: float = REQUEST_SECONDS_DEFAULT, key: str | None = None
    ) -> ReplyT:
        """Ask, and wait for the reply; see `ServiceEvents.request`."""
        if not 0 < timeout_seconds < float("inf"):
            raise UsageError(f"request(…, timeout_seconds={timeout_seconds}) must be a number of seconds above zero")
        if len(self._waiting) >= REQUESTS_WAITING_MAX:
            raise UsageError(f"{REQUESTS_WAITING_MAX:,} requests of this process wait for their reply already; ask less at once")
        message = NewEvent.of(question, metadata={REPLY_TO: self._category, ASKED_BY: self._asked_by})
        assert message.category is not None, "an event's class has a category"
        stream_name = outbox_stream(message.category, key=key, event_id=message.event_id)
        asking = asyncio.ensure_future(self._ask(stream_name, message))
        waits = (asking, asyncio.ensure_future(self._clock.sleep(timeout_seconds)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise RequestTimeout(
                    f"no reply to {message.type} within {timeout_seconds} s"
                    + (
                        ""
                        if self._is_open.is_set()
                        else ": where replies come from did not answer (replies_unavailable in the log of facts)"
                    )
                    + "; it may still be handled. Does a service handle it, and reply? Its dead letters tell of failures",
                    request_id=message.event_id,
                )
            return await self._typed(asking.result(), reply)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _ask(self, stream_name: str, message: NewEvent) -> RecordedEvent:
        self._is_needed.set()
        # Replies are received from the topic's end on, so the question must not come before that is known.
        await self._is_open.wait()
        answer: asyncio.Future[RecordedEvent] = asyncio.get_running_loop().create_future()
        request_id = str(message.event_id)
        self._waiting[request_id] = answer
        try:
            await self._store.append(stream_name, [message], expected_version=ANY)
            return await answer
        finally:
            del self._waiting[request_id]
            if answer.done() and not answer.cancelled():
                # Heard, also where the caller was cancelled in this moment.
                answer.exception()

    async def _typed(self, answer: RecordedEvent, reply: type[ReplyT]) -> ReplyT:
        if answer.type != reply.event_type:
            raise UnexpectedReply(
                f"the reply is {answer.type}, not {reply.event_type}; let the handler reply {reply.event_type}, or ask with reply={answer.type}",
                reply_type=answer.type,
            )
        opener = await self._personal.opener([answer])
        return self._registry.decode_as(reply, opener(answer))

    # -- receiving -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Receive replies until cancelled; connects when somebody first asks, and waits out a server that is away."""
        await self._is_needed.wait()
        troubles = 0
        try:
            while True:
                try:
                    await self._source.open(self._topic)
                    self._is_open.set()
                    troubles = 0
                    while True:
                        await self._take(await self._source.receive(timeout_seconds=_IDLE_SECONDS))
                except (BrokerUnavailable, StorageUnavailable) as error:
                    await self._source.close()
                    troubles += 1
                    delay = _AGAIN.delay_seconds(troubles, self._randomness)
                    _log.warning("replies_unavailable", error=str(error), delay_seconds=round(delay, 3))
                    await self._clock.sleep(delay)
        finally:
            await self._source.close()

    async def _take(self, records: Sequence[SourceRecord]) -> None:
        ours = [(record, request_id) for record in records if (request_id := self._request_of(record)) is not None]
        if not ours:
            return
        await self._values.prepare([record.value for record, _ in ours])
        for record, request_id in ours:
            answer = self._waiting.get(request_id)
            if answer is None or answer.done():
                self.late_count += 1
                _log.info("reply_late", request_id=request_id, late_count=self.late_count)
                continue
            try:
                answer.set_result(decode_record(record.key, record.value, record.headers, record.timestamp, values=self._values).event)
            except HeadwaterError as error:
                answer.set_exception(error)

    def _request_of(self, record: SourceRecord) -> str | None:
        """The question of this process that a record answers, if it does."""
        found: dict[str, Any] = dict(record.headers)
        asked_by, request_id = found.get(f"headwater-meta-{ASKED_BY}"), found.get(f"headwater-meta-{REPLY_FOR}")
        if asked_by != self._asked_by.encode() or request_id is None:
            return None
        return str(request_id, "utf-8", "replace")

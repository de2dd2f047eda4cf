"""Facts, not sentences: structured log events with the correlation of the message at hand.

`logger()` gives a structlog logger; `correlate()` binds the ids of the message being handled, so that every fact written and every event
appended inside carries them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


@dataclass(frozen=True, slots=True)
class Correlation:
    """Why things happen now: the story they belong to and the message that caused them."""

    correlation_id: str
    causation_id: str
    traceparent: str | None = None


_correlation: ContextVar[Correlation | None] = ContextVar("headwater_correlation", default=None)


def current_correlation() -> Correlation | None:
    """What is being handled now, if anything."""
    return _correlation.get()


@contextmanager
def correlate(correlation: Correlation) -> Generator[None]:
    """Bind the ids to everything appended and logged inside."""
    token = _correlation.set(correlation)
    try:
        yield
    finally:
        _correlation.reset(token)


def add_correlation(_logger: object, _method: str, fact: EventDict) -> EventDict:
    """A structlog processor: the ids of the message at hand, in every fact. Add it where an application configures structlog itself.

    Read when a fact is written rather than bound for each message: most messages write none.
    """
    if (correlation := _correlation.get()) is not None:
        fact.setdefault("correlation_id", correlation.correlation_id)
        fact.setdefault("causation_id", correlation.causation_id)
    return fact


def configure_logging(log_format: str = "auto", log_level: str = "info", *, stream: TextIO | None = None) -> None:
    """Write facts to standard error: readable on a terminal, one JSON object a line otherwise."""
    out = stream or sys.stderr
    console = log_format == "console" or (log_format == "auto" and out.isatty())
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        add_correlation,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if console:
        processors.append(structlog.dev.ConsoleRenderer(colors=out.isatty()))
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[log_level]),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    # The drivers report through the standard library; Headwater turns what matters there into facts of its own.
    for driver in ("aiokafka", "asyncpg"):
        logging.getLogger(driver).setLevel(logging.CRITICAL)


def configure_logging_once(log_format: str, log_level: str) -> None:
    """Configure logging unless the application has configured structlog itself."""
    if not structlog.is_configured():
        configure_logging(log_format, log_level)


def logger(room: str) -> FilteringBoundLogger:
    """A logger whose facts name the room they come from."""
    return cast(FilteringBoundLogger, structlog.get_logger(room=room))

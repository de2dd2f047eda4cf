"""What is not told but asked for: lags, the horizon, and how things stand at this moment."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.errors import HeadwaterError
from headwater.metrics import (
    CONSUMER_LAG_EVENTS,
    CONSUMER_LAG_SECONDS,
    CONSUMER_PARTITIONS,
    LOG_HORIZON,
    PARKED_KEYS,
    PARKED_MESSAGES,
    PROJECTION_LAG_EVENTS,
    PROJECTION_LAG_SECONDS,
    PROJECTION_RUNNING,
    RELAY_LAG_EVENTS,
    RELAY_LAG_SECONDS,
    RELAY_SHARDS,
    RELAY_STOPPED_PARTITIONS,
    Metrics,
)
from headwater.outbox import read_outbox_status
from headwater.projections import list_lags
from headwater.service import Service
from headwater.telemetry import logger

if TYPE_CHECKING:
    from headwater.service import Parts

ASK_SECONDS_MAX: Final = 5.0
"""Gauges whose server has not answered by then are left out."""
_log = logger("operations")


async def update_gauges(service: Service, metrics: Metrics, *, clock: Clock = SYSTEM_CLOCK) -> None:
    """Set every gauge of an open service anew; what cannot be asked for now is left out.

    Raises:
        StoreNotOpen: the service is not open.
    """
    parts = service.open_parts()
    _set_relay(parts, metrics)
    for update in (_ask_consumer, _ask_log, _ask_projections):
        try:
            async with asyncio.timeout(ASK_SECONDS_MAX):
                await update(service, parts, metrics, clock)
        except (HeadwaterError, TimeoutError) as error:
            _log.warning("gauges_left_out", which=update.__name__.removeprefix("_ask_"), error=str(error) or "no answer in time")


def _set_relay(parts: Parts, metrics: Metrics) -> None:
    if parts.relay is not None:
        status = parts.relay.status()
        metrics.set(RELAY_SHARDS, len(status.shards))
        metrics.set(RELAY_STOPPED_PARTITIONS, len(status.stopped_partitions))


async def _ask_consumer(service: Service, parts: Parts, metrics: Metrics, _clock: Clock) -> None:
    for gauge in (CONSUMER_LAG_EVENTS, CONSUMER_LAG_SECONDS, CONSUMER_PARTITIONS, PARKED_KEYS, PARKED_MESSAGES):
        metrics.clear(gauge)
    if parts.consumer is None:
        return
    counts: dict[str, int] = {}
    for status in parts.consumer.status():
        counts[status.state] = counts.get(status.state, 0) + 1
        if status.parked_messages:
            where = service.name, status.partition.topic, str(status.partition.number)
            metrics.set(PARKED_KEYS, status.parked_keys, *where)
            metrics.set(PARKED_MESSAGES, status.parked_messages, *where)
    for state, count in counts.items():
        metrics.set(CONSUMER_PARTITIONS, count, service.name, state)
    for lag in await parts.consumer.lags():
        labels = service.name, lag.partition.topic, str(lag.partition.number)
        metrics.set(CONSUMER_LAG_EVENTS, lag.record_count, *labels)
        metrics.set(CONSUMER_LAG_SECONDS, lag.seconds, *labels)


async def _ask_log(_service: Service, parts: Parts, metrics: Metrics, clock: Clock) -> None:
    for gauge in (RELAY_LAG_EVENTS, RELAY_LAG_SECONDS, LOG_HORIZON):
        metrics.clear(gauge)
    status = await read_outbox_status(parts.database)
    metrics.set(LOG_HORIZON, status.horizon)
    for shard in status.shards:
        metrics.set(RELAY_LAG_EVENTS, shard.lag_events, shard.shard)
        metrics.set(RELAY_LAG_SECONDS, _age(shard.oldest_waiting_at if shard.lag_events else None, clock), shard.shard)


async def _ask_projections(service: Service, parts: Parts, metrics: Metrics, clock: Clock) -> None:
    for gauge in (PROJECTION_LAG_EVENTS, PROJECTION_LAG_SECONDS, PROJECTION_RUNNING):
        metrics.clear(gauge)
    if not service.projections:
        return
    for lag in await list_lags(parts.database):
        name = lag.live.name
        oldest: Any = None
        if lag.lag_events:
            waiting = await parts.log.read_log(after=lag.live.checkpoint.global_position, limit=1)
            oldest = waiting.events[0].recorded_at if waiting.events else None
        metrics.set(PROJECTION_LAG_EVENTS, lag.lag_events, name)
        metrics.set(PROJECTION_LAG_SECONDS, _age(oldest, clock), name)
        metrics.set(PROJECTION_RUNNING, lag.live.status == "running", name)


def _age(moment: datetime | None, clock: Clock) -> float:
    return max(0.0, (clock.now() - moment).total_seconds()) if moment is not None else 0.0

"""Whether an open service is well, and if not, why."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from headwater.errors import HeadwaterError
from headwater.kafka import check_broker
from headwater.service import Service

if TYPE_CHECKING:
    from headwater.service import Parts

CHECK_SECONDS_MAX: Final = 3.0
"""A server that has not answered by then does not answer."""
_UNCLAIMED: Final = ("claiming", "lost")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be so."""

    name: str
    reason: str | None = None
    """What is wrong; None where nothing is."""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Health:
    """How a service is."""

    service: str
    checks: tuple[Check, ...]

    @property
    def is_ready(self) -> bool:
        """Whether nothing is wrong."""
        return not any(check.reason for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """The same as plain values: `ready`, and what is wrong by the name of its check."""
        return {
            "ready": self.is_ready,
            "service": self.service,
            "wrong": {check.name: check.reason for check in self.checks if check.reason},
            "checks": {check.name: {"ok": check.reason is None, **check.facts} for check in self.checks},
        }


async def check_health(service: Service) -> Health:
    """Ask the servers, and look at the workers. Ready means: PostgreSQL and Kafka answer, every partition that is ours is claimed and none stands
    still, the relay has no alarm, and every worker runs.

    A failing handler, a waiting retry or a projection that stopped leave a service ready: it does what it can, and the metrics tell of them.

    Raises:
        StoreNotOpen: the service is not open.
    """
    parts = service.open_parts()
    servers = [_answers("postgres", parts.store.identity())]
    if parts.kafka is not None and parts.supervisor is not None:
        servers.append(_answers("kafka", check_broker(parts.kafka)))
    checks = list(await asyncio.gather(*servers))
    if parts.supervisor is not None:
        checks.append(_workers(parts))
    if parts.relay is not None:
        checks.append(_relay(parts))
    if parts.consumer is not None:
        checks.append(_consumer(parts))
    return Health(service.name, tuple(checks))


async def _answers(name: str, question: Awaitable[object]) -> Check:
    try:
        async with asyncio.timeout(CHECK_SECONDS_MAX):
            await question
    except TimeoutError:
        return Check(name, f"it did not answer within {CHECK_SECONDS_MAX:.0f} s")
    except HeadwaterError as error:
        return Check(name, str(error))
    return Check(name)


def _workers(parts: Parts) -> Check:
    assert parts.supervisor is not None, "asked before"
    states = parts.supervisor.states
    broken = [f"{each.name} is being started again: {each.last_error}" for each in states if each.state != "running"]
    return Check("workers", "; ".join(broken) or None, {each.name: {"state": each.state, "restarts": each.restarts} for each in states})


def _relay(parts: Parts) -> Check:
    assert parts.relay is not None, "asked before"
    status = parts.relay.status()
    reason = None
    if status.stopped_partitions:
        reason = "; ".join(f"{stop.partition} stands still at {stop.position}: {stop.reason}" for stop in status.stopped_partitions)
    elif status.state == "stopped":
        reason = status.last_error
    return Check("relay", reason, {"state": status.state, "last_error": status.last_error})


def _consumer(parts: Parts) -> Check:
    assert parts.consumer is not None, "asked before"
    statuses = parts.consumer.status()
    facts = {str(each.partition): each.state for each in statuses}
    reason = None
    if not parts.consumer.is_joined:
        reason = "it is not a member of its group yet"
    elif stopped := [each for each in statuses if each.state == "stopped"]:
        reason = "; ".join(f"{each.partition} stands still: {each.reason}" for each in stopped)
    elif unclaimed := [str(each.partition) for each in statuses if each.state in _UNCLAIMED]:
        reason = f"not claimed yet: {', '.join(unclaimed)}"
    return Check("consumer", reason, {"partitions": facts})

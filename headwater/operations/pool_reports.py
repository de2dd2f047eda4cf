"""The reports of all processes of a pool, told together by their parent."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any, Final

from headwater.operations.pool import WorkerPool

if TYPE_CHECKING:
    from prometheus_client.core import Metric

ANSWER_SECONDS_MAX: Final = 8.0
"""A process that has not reported by then is left out, and is not ready."""
PROCESS_LABEL: Final = "process"


class PoolReports:
    """A `ProvidesReports` over a pool: ready when every process is; measurements under a label `process`."""

    def __init__(self, pool: WorkerPool, service_name: str) -> None:
        self._pool, self._service_name = pool, service_name

    async def health(self) -> dict[str, Any]:
        """See `ProvidesReports`; `workers` has each process's own."""
        answers = await self._ask("health")
        wrong: dict[str, str] = {}
        for slot in self._pool.slots:
            answer = answers[slot.number]
            if answer is None:
                wrong[f"worker {slot.number}"] = "it does not answer" if slot.process else f"it is being started again: {slot.last_error}"
            elif not answer["ready"]:
                wrong[f"worker {slot.number}"] = "; ".join(f"{name}: {reason}" for name, reason in answer["wrong"].items())
        return {
            "ready": not wrong,
            "service": self._service_name,
            "wrong": wrong,
            "workers": {str(number): answer for number, answer in answers.items()},
        }

    async def metrics(self) -> bytes | None:
        """See `ProvidesReports`."""
        answers = await self._ask("metrics")
        texts = {str(number): text for number, text in answers.items() if text}
        try:
            return self._together(texts)
        except ModuleNotFoundError:
            return None

    async def _ask(self, what: str) -> dict[int, Any]:
        async def ask(process: Any) -> Any:
            return None if process is None else await process.ask(what, ANSWER_SECONDS_MAX)

        slots = self._pool.slots
        return dict(zip((slot.number for slot in slots), await asyncio.gather(*(ask(slot.process) for slot in slots)), strict=True))

    def _together(self, texts: Mapping[str, str]) -> bytes:
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        pool = self._pool
        restarts = CounterMetricFamily(
            "headwater_process_restarts", "Worker processes that died or fell silent and were started anew.", labels=[PROCESS_LABEL]
        )
        up = GaugeMetricFamily("headwater_process_up", "1 where the worker process serves.", labels=[PROCESS_LABEL])
        for slot in pool.slots:
            restarts.add_metric([str(slot.number)], slot.restarts)
            up.add_metric([str(slot.number)], slot.process is not None and slot.process.state == "running")

        class Together:
            def collect(self) -> Generator[Metric]:
                yield restarts
                yield up
                yield from merged(texts)

        registry = CollectorRegistry(auto_describe=False)
        registry.register(Together())
        return generate_latest(registry)


def merged(texts: Mapping[str, str]) -> list[Metric]:
    """The families of several processes as one each, every sample under its process's label."""
    from prometheus_client.parser import text_string_to_metric_families

    families: dict[str, Metric] = {}
    for number, text in texts.items():
        for family in text_string_to_metric_families(text):
            known = families.setdefault(family.name, family)
            labelled = [sample._replace(labels={PROCESS_LABEL: number, **sample.labels}) for sample in family.samples]
            known.samples = labelled if known is family else known.samples + labelled
    return list(families.values())

"""Is this process still doing its work? What the liveness probe asks and the metrics show.

A blocked event loop answers no probe at all; a loop that runs while its watches are dead or an engine hangs would look
healthy from outside, so those are measured. The API server being away is not our illness: its silence is only counted
once a healthy watch would have been renewed many times over.
"""

from __future__ import annotations

import asyncio
import time

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kernelsearch.controller.runner import Services

WATCH_SILENCE_SECONDS = 20 * 60.0
"""Beyond the longest absence of an API server that requests wait for."""
ENGINE_SILENCE_SECONDS = 10 * 60.0
LAG_INTERVAL_SECONDS = 0.25


class LoopLag:
    """How late the event loop is: the time between when a timer was due and when it ran."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._histogram = Histogram(
            "kernelsearch_loop_lag_seconds",
            "How late the event loop's timers run",
            registry=registry,
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
        )
        self._worst = Gauge("kernelsearch_loop_lag_worst_seconds", "The latest timer so far", registry=registry)
        self._worst_seconds = 0.0

    async def measure(self) -> None:
        while True:
            due = time.monotonic() + LAG_INTERVAL_SECONDS
            await asyncio.sleep(LAG_INTERVAL_SECONDS)
            late = max(0.0, time.monotonic() - due)
            self._histogram.observe(late)
            self._worst_seconds = max(self._worst_seconds, late)
            self._worst.set(self._worst_seconds)


class SearchMetrics(Collector):
    """Read from the running engines when asked, so nothing has to be kept in step."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> list[Metric]:
        active = GaugeMetricFamily("kernelsearch_searches_active", "Searches that run now")
        evaluated = GaugeMetricFamily("kernelsearch_candidates_evaluated", "Candidates judged", labels=["search"])
        cost = GaugeMetricFamily("kernelsearch_llm_cost", "Spent on models, in budget.currency", labels=["search"])
        writes = CounterMetricFamily("kernelsearch_status_writes", "Status writes of all searches")
        writes.add_metric([], self._services.pace.turns)
        engines = list(self._services.engines.values())
        active.add_metric([], len(engines))
        for engine in engines:
            evaluated.add_metric([engine.state.uid], engine.state.ledger.evaluations)
            cost.add_metric([engine.state.uid], engine.state.ledger.cost_micros / 1e6)
        return [active, evaluated, cost, writes]


def ailment(services: Services) -> str:
    """What is wrong with this process, '' when nothing is."""
    if (silence := services.cache.silence_seconds) > WATCH_SILENCE_SECONDS:
        return f"no watch of Jobs and pods has brought anything for {silence:.0f} s"
    for uid, engine in services.engines.items():
        if (silence := time.monotonic() - engine.last_turn) > ENGINE_SILENCE_SECONDS:
            return f"the engine of search {uid} has not come round for {silence:.0f} s"
    return ""


def vital_signs(services: Services) -> dict[str, float | int]:
    return {
        "watch_silence_seconds": round(services.cache.silence_seconds, 1),
        "engine_silence_seconds": round(
            max((time.monotonic() - each.last_turn for each in services.engines.values()), default=0.0), 1
        ),
        "searches": len(services.engines),
    }

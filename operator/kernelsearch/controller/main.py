"""The operator's process: settings, store, caches, kopf; and how all of it ends.

Everything runs on one event loop. What fails for good ends the process, and its Deployment starts it again; what a
SIGTERM ends leaves the evaluation pods running, for the next process to adopt.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Coroutine
from typing import Any

import kopf
from prometheus_client import CollectorRegistry, start_http_server

from kernelsearch.controller.handlers import build_registry
from kernelsearch.controller.health import LoopLag, SearchMetrics
from kernelsearch.controller.profiles import ProfileStatuses
from kernelsearch.controller.runner import Services
from kernelsearch.controller.settings import Settings, SettingsError, read_settings
from kernelsearch.controller.status import WRITES_PER_SECOND, Pace
from kernelsearch.controller.sweeper import sweep_for_ever
from kernelsearch.controller.wakeups import Wakeups
from kernelsearch.evaluate.cache import EvaluationCache
from kernelsearch.evaluate.kube import Kube
from kernelsearch.llm.origins import OriginPolicy
from kernelsearch.store.base import StoreError
from kernelsearch.store.sqlite import SqliteStore

log = logging.getLogger(__name__)


def run() -> int:
    """Run until SIGTERM or SIGINT. Return the exit code: 0, or 2 when it cannot start as it is configured."""
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("kopf.objects", "kopf.activities.probe", "aiohttp.access", "httpx2"):  # a line for every look
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        asyncio.run(_operate(settings))
    except StoreError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


async def _operate(settings: Settings) -> None:
    store = await SqliteStore.open(settings.database)
    kube = await Kube.connect()
    try:
        services = Services(
            kube=kube,
            store=store,
            cache=EvaluationCache(kube, settings.evaluation_namespaces),
            settings=settings,
            origins=OriginPolicy(settings.allowed_origins),
            wakeups=Wakeups(),
            pace=Pace(WRITES_PER_SECOND),
        )
        lag = _serve_metrics(services)
        await _until_first_ends(
            kopf.operator(
                registry=build_registry(services),
                namespaces=[each.name for each in settings.search_namespaces],
                standalone=True,
                liveness_endpoint=f"http://0.0.0.0:{settings.liveness_port}/healthz",
            ),
            services.cache.run(),
            ProfileStatuses(kube).run(),
            sweep_for_ever(services),
            lag.measure(),
        )
    finally:
        await kube.close()
        await store.close()


async def _until_first_ends(*work: Coroutine[Any, Any, None]) -> None:
    """kopf ends on a signal; anything else ends only by failing, and then all of it does."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _serve_metrics(services: Services) -> LoopLag:
    registry = CollectorRegistry()
    lag = LoopLag(registry)
    registry.register(SearchMetrics(services))
    start_http_server(services.settings.metrics_port, registry=registry)
    return lag

"""Whose status it is: stale epochs, namesakes, conflicts; and kopf's traps, each in the way it would bite here."""

from __future__ import annotations

import asyncio
import re
import threading
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import kopf
import pytest
from kernelsearch.api.resources import KernelSearch
from kernelsearch.api.search_status import KernelSearchStatus
from kernelsearch.controller.handlers import build_registry
from kernelsearch.controller.runner import Services
from kernelsearch.controller.settings import SearchNamespace, Settings
from kernelsearch.controller.status import Pace, SearchGone, StatusWriter, Superseded
from kernelsearch.controller.wakeups import Wakeups
from kernelsearch.evaluate.cache import EvaluationCache
from kernelsearch.evaluate.kube import SEARCHES, Kube
from kernelsearch.llm.origins import OriginPolicy
from kernelsearch.store.sqlite import SqliteStore

from .conftest import Operator, Place, free_port

Object = dict[str, Any]

TURNS = 10
"""Accepted, probing, searching, publishing, published, complete: what may be written without waiting."""


@pytest.fixture
async def kube(cluster: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kube]:
    monkeypatch.setenv("KUBECONFIG", cluster["KUBECONFIG"])
    kube = await Kube.connect(patience_seconds=30)
    yield kube
    await kube.close()


async def read(kube: Kube, place: Place) -> KernelSearch:
    return KernelSearch.model_validate(await kube.get(SEARCHES, place.searches, "tuned"))


def a_status(epoch: int, phase: str) -> KernelSearchStatus:
    return KernelSearchStatus(controller_epoch=epoch, phase=phase)


async def write(kube: Kube, search: KernelSearch, epoch: int, phase: str) -> None:
    writer = StatusWriter(kube, search, epoch, Pace(1000))
    writer.offer(a_status(epoch, phase))
    await writer.flush()


async def test_a_stale_epoch_writes_nothing_more(place: Place, kube: Kube) -> None:
    place.apply(place.search_document())
    search = await read(kube, place)
    await write(kube, search, 7, "Newer")
    with pytest.raises(Superseded):
        await write(kube, search, 6, "Older")
    assert place.search()["status"]["phase"] == "Newer"


async def test_a_namesake_is_never_written_for_the_one_that_is_gone(place: Place, kube: Kube) -> None:
    """Server-side apply alone would: it takes a wrong metadata.uid on the status subresource."""
    place.apply(place.search_document())
    gone = await read(kube, place)
    place.kubectl("-n", place.searches, "delete", "kernelsearch", "tuned")
    with pytest.raises(SearchGone):
        await write(kube, gone, 1, "Ghost")
    place.apply(place.search_document())
    with pytest.raises(SearchGone):
        await write(kube, gone, 1, "Ghost")
    assert "status" not in place.search() or "phase" not in place.search()["status"]


async def test_a_change_by_a_person_is_no_reason_to_stop_writing(place: Place, kube: Kube) -> None:
    place.apply(place.search_document())
    search = await read(kube, place)
    place.kubectl("-n", place.searches, "annotate", "kernelsearch", "tuned", "note=changed")
    await write(kube, search, 1, "Running")
    assert place.search()["status"]["phase"] == "Running"


async def test_what_a_status_no_longer_says_is_removed(place: Place, kube: Kube) -> None:
    place.apply(place.search_document())
    search = await read(kube, place)
    writer = StatusWriter(kube, search, 1, Pace(1000))
    for best in ("1.500", None):
        writer.offer(KernelSearchStatus(controller_epoch=1, phase="Running", best_speedup=best))
        await writer.flush()
    assert "bestSpeedup" not in place.search()["status"]


def test_conflicting_writes_never_stop_a_search(place: Place, operator: Operator) -> None:
    """kopf's trap: one 409 for a patch of kopf's own would end the daemon without a word."""
    done = threading.Event()

    def meddle() -> None:
        count = 0
        while not done.is_set():
            count += 1
            note = f"note={count}"
            place.kubectl("-n", place.searches, "annotate", "kernelsearch", "tuned", note, "--overwrite")

    place.apply(place.search_document(orders="seconds=1"))
    meddler = threading.Thread(target=meddle)
    meddler.start()
    try:
        place.wait("tuned", "Complete", 180)
    finally:
        done.set()
        meddler.join()
    assert place.search()["status"]["progress"]["evaluated"] == 3


def test_kopf_leaves_nothing_of_its_own_on_a_search(place: Place, operator: Operator) -> None:
    place.apply(place.search_document(orders="seconds=1"))
    place.until("tuned", lambda status: status.get("phase") == "Running", "a running search")
    metadata = place.search()["metadata"]
    assert metadata["finalizers"] == ["kernelsearch.dev/controller"]
    assert not any("kopf" in key for key in metadata.get("annotations", {}))
    place.wait("tuned", "Complete")
    assert place.search()["metadata"].get("finalizers", []) == []
    managers = {each["manager"] for each in place.managed_fields("tuned") if each.get("subresource") == "status"}
    assert managers == {"kernelsearch-controller"}, "the status has one writer"


def test_a_search_is_written_seldom(place: Place, operator: Operator) -> None:
    place.apply(place.search_document(seed="SPEED = 110  # tune: 110, 120, 130, 140, 150, 160"))
    place.wait("tuned", "Complete", 180)
    metrics = urllib.request.urlopen(f"http://127.0.0.1:{operator.ports[1]}/metrics", timeout=10).read().decode()
    written = re.search(r"^kernelsearch_status_writes_total (\S+)", metrics, re.MULTILINE)
    assert written is not None
    assert float(written[1]) <= TURNS + place.search()["status"]["usage"]["activeSeconds"] / 10


async def status_of(url: str) -> int:
    """The answer's status, as soon as somebody listens."""
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(url) as found:
                    return found.status
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.05)


class DeafCache(EvaluationCache):
    """As if no watch had brought anything for an hour."""

    @property
    def silence_seconds(self) -> float:
        return 3600.0


@pytest.mark.parametrize(("cache", "answer"), [(EvaluationCache, 200), (DeafCache, 500)])
async def test_healthz_fails_when_the_watches_are_dead(
    place: Place, kube: Kube, tmp_path: Path, cache: type[EvaluationCache], answer: int
) -> None:
    """kopf's trap: only PermanentError makes /healthz fail; any other exception is answered with 200."""
    served = SearchNamespace(name=place.searches, evaluation_namespace=place.pods)
    settings = Settings(database=tmp_path / "journal.db", namespace=place.home, search_namespaces=(served,))
    services = Services(
        kube=kube,
        store=await SqliteStore.open(settings.database),
        cache=cache(kube, settings.evaluation_namespaces),
        settings=settings,
        origins=OriginPolicy(),
        wakeups=Wakeups(),
        pace=Pace(5),
    )
    port, stop, ready = free_port(), asyncio.Event(), asyncio.Event()
    health = f"http://127.0.0.1:{port}/healthz"
    running = asyncio.create_task(
        kopf.operator(
            registry=build_registry(services),
            standalone=True,
            namespaces=[place.searches],
            liveness_endpoint=health,
            stop_flag=stop,
            ready_flag=ready,
        )
    )
    await ready.wait()
    assert await status_of(health) == answer
    stop.set()
    await running
    await services.store.close()

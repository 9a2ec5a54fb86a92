"""`kernelsearch suspend --all`: what the chart runs before it removes the operator.

An active search carries a finalizer that only a running operator takes off, so deleting one later would hang for ever.
This suspends every search that carries it, in the namespaces that the operator serves, and waits until the operator,
which still runs, has let go. If it does not (it may be broken, and the reason for the uninstall), the finalizer is
taken off here: nothing that the operator owned outlives it, since the chart's evaluation namespaces go with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Mapping
from typing import Any

from kernelsearch.controller.settings import read_settings
from kernelsearch.evaluate.kube import SEARCHES, Kube, KubeError

PATIENCE_SECONDS = 120.0
OUR_FINALIZER = "kernelsearch.dev/"
NOTE = "kernelsearch.dev/suspended-by"
"""Annotation: says why a search is suspended that nobody suspended."""

Object = Mapping[str, Any]
log = logging.getLogger(__name__)


async def suspend_all(kube: Kube, namespaces: Collection[str], patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Return when no search in `namespaces` carries our finalizer any more.

    Raise KubeError when the API server refuses.
    """
    try:
        async with asyncio.timeout(patience_seconds):
            await _until_released(kube, namespaces)
    except TimeoutError:
        held, _ = await _held(kube, namespaces)
        for search in held:
            log.warning("%s: the operator did not let go in %.0f s; releasing it", _name(search), patience_seconds)
            await _release(kube, search)


async def _until_released(kube: Kube, namespaces: Collection[str]) -> None:
    while True:
        held, version = await _held(kube, namespaces)
        if not held:
            return
        for search in held:
            if not search["spec"].get("suspend"):
                log.info("%s: suspending", _name(search))
                await _suspend(kube, search)
        await _next_change(kube, version)


async def _next_change(kube: Kube, version: str) -> None:
    try:
        async for event in kube.watch(SEARCHES, None, resource_version=version, seconds=10):
            if event.type != "BOOKMARK":
                return
    except KubeError as error:
        if not error.is_missing:  # 410: too old a version, so something changed
            raise


async def _suspend(kube: Kube, search: Object) -> None:
    patch = {"metadata": {"annotations": {NOTE: "uninstall"}}, "spec": {"suspend": True}}
    await _patch(kube, search, patch)


async def _release(kube: Kube, search: Object) -> None:
    metadata = search["metadata"]
    kept = [each for each in metadata["finalizers"] if not each.startswith(OUR_FINALIZER)]
    await _patch(kube, search, {"metadata": {"finalizers": kept, "resourceVersion": metadata["resourceVersion"]}})


async def _patch(kube: Kube, search: Object, patch: dict[str, Any]) -> None:
    metadata = search["metadata"]
    try:
        await kube.merge(SEARCHES, metadata["namespace"], metadata["name"], patch)
    except KubeError as error:
        if not error.is_missing:
            raise


async def _held(kube: Kube, namespaces: Collection[str]) -> tuple[list[Object], str]:
    """The searches that carry our finalizer, and the list's resourceVersion."""
    searches, version = await kube.list_all(SEARCHES)
    return [
        search
        for search in searches
        if search["metadata"]["namespace"] in namespaces
        and any(each.startswith(OUR_FINALIZER) for each in search["metadata"].get("finalizers") or [])
    ], version


def _name(search: Object) -> str:
    return f"{search['metadata']['namespace']}/{search['metadata']['name']}"


async def main() -> None:
    """With the environment and the service account of the operator."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    namespaces = {each.name for each in read_settings(os.environ).search_namespaces}
    kube = await Kube.connect(patience_seconds=PATIENCE_SECONDS)
    try:
        await suspend_all(kube, namespaces)
    finally:
        await kube.close()

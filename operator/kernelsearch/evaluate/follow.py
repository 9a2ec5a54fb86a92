"""List and watch, for ever: everything there is of one kind, then every change of it.

A watch that breaks is taken up where it ended; one that is too old (410) is listed again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from kernelsearch.evaluate.kube import Kind, Kube, KubeError, Object, WatchEvent

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0


@dataclass(frozen=True)
class Listed:
    """All objects that there are: what is not among them does not exist."""

    objects: list[Object]


News = Listed | WatchEvent | None
"""None: nothing happened, but the watch lives."""


async def follow(
    kube: Kube, kind: Kind, namespace: str | None, hear: Callable[[News], None], *, labels: str = ""
) -> None:
    """Call `hear` with a list first, then with changes, and with a list again whenever some may have been missed."""
    version = ""
    while True:
        try:
            if not version:
                objects, version = await kube.list_all(kind, namespace, labels=labels)
                hear(Listed(objects))
            async for event in kube.watch(kind, namespace, resource_version=version, labels=labels):
                version = event.object["metadata"]["resourceVersion"]
                hear(None if event.type == "BOOKMARK" else event)
            hear(None)
        except KubeError as error:
            if not error.is_missing:  # 410: the version is too old, which is normal after a long silence
                log.warning("watching %s in %s: %s", kind.plural, namespace or "the cluster", error)
                await asyncio.sleep(RETRY_SECONDS)
            version = ""
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            where = namespace or "the cluster"
            log.warning("watching %s in %s broke off: %s", kind.plural, where, error or type(error).__name__)
            await asyncio.sleep(RETRY_SECONDS)

"""What runs in the evaluation namespaces, kept up to date by list and watch: wake-up and memory in one.

One watch for Jobs and one for Pods per evaluation namespace, whatever the number of searches, with a server-side label
selector, so nothing of anybody else is ever read. Readers ask what is known and wait for the next change of one batch.
A watch that breaks is taken up where it ended; one that is too old (410) is listed again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Collection

import aiohttp

from kernelsearch.evaluate.kube import JOBS, PODS, Kind, Kube, KubeError, Object
from kernelsearch.evaluate.manifests import SELECTOR

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0

Key = tuple[str, str]
"""(namespace, Job name)"""


class EvaluationCache:
    """Jobs and Pods of all searches. `run` keeps it fresh until cancelled."""

    def __init__(self, kube: Kube, namespaces: Collection[str]) -> None:
        self._kube = kube
        self._namespaces = sorted(set(namespaces))
        self._objects: dict[tuple[Kind, str], dict[str, Object]] = defaultdict(dict)
        self._changes: dict[Key, asyncio.Event] = {}
        self._unsynced = {(kind, namespace) for kind in (JOBS, PODS) for namespace in self._namespaces}
        self._synced = asyncio.Event()
        self._heard_at = {key: time.monotonic() for key in self._unsynced}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for kind, namespace in sorted(self._unsynced, key=str):
                group.create_task(self._follow(kind, namespace))

    async def wait_until_synced(self) -> None:
        """Return when everything was listed once: what is not in the cache now does not exist."""
        await self._synced.wait()

    @property
    def silence_seconds(self) -> float:
        """How long the quietest watch has brought nothing; a healthy one is renewed every minute."""
        return max((time.monotonic() - heard for heard in self._heard_at.values()), default=0.0)

    def expect(self, namespace: str, job: str) -> None:
        """From now on changes of this Job are remembered for `changed`."""
        self._changes.setdefault((namespace, job), asyncio.Event())

    def job(self, namespace: str, name: str) -> Object | None:
        return self._objects[JOBS, namespace].get(name)

    def pods(self, namespace: str, job: str) -> list[Object]:
        """The Job's pods, oldest first: a disrupted one is followed by its replacement."""
        found = [pod for pod in self._objects[PODS, namespace].values() if _job_of(PODS, pod) == job]
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def jobs(self) -> list[Object]:
        return [job for (kind, _), jobs in self._objects.items() if kind is JOBS for job in jobs.values()]

    async def changed(self, namespace: str, job: str, seconds: float) -> None:
        """Return when the Job or one of its pods changed, or after `seconds`. Look first, then wait, in one task."""
        event = self._changes[namespace, job]
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return
        event.clear()

    def forget(self, namespace: str, job: str) -> None:
        """Nobody waits for this Job any more."""
        self._changes.pop((namespace, job), None)

    # -- watching -----------------------------------------------------------------------------------------------------

    async def _follow(self, kind: Kind, namespace: str) -> None:
        version = ""
        while True:
            try:
                if not version:
                    objects, version = await self._kube.list_all(kind, namespace, labels=SELECTOR)
                    self._replace(kind, namespace, objects)
                async for event in self._kube.watch(kind, namespace, resource_version=version, labels=SELECTOR):
                    self._heard_at[kind, namespace] = time.monotonic()
                    version = event.object["metadata"]["resourceVersion"]
                    if event.type == "DELETED":
                        self._drop(kind, namespace, event.object)
                    elif event.type != "BOOKMARK":
                        self._put(kind, namespace, event.object)
                self._heard_at[kind, namespace] = time.monotonic()
            except KubeError as error:
                if not error.is_missing:  # 410: the version is too old, which is normal after a long silence
                    log.warning("watching %s in %s: %s", kind.plural, namespace, error)
                    await asyncio.sleep(RETRY_SECONDS)
                version = ""
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                log.warning("watching %s in %s broke off: %s", kind.plural, namespace, error or type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)

    def _replace(self, kind: Kind, namespace: str, objects: list[Object]) -> None:
        fresh = {each["metadata"]["name"]: each for each in objects}
        for name in set(self._objects[kind, namespace]) - set(fresh):
            self._drop(kind, namespace, self._objects[kind, namespace][name])
        for each in objects:
            self._put(kind, namespace, each)
        self._heard_at[kind, namespace] = time.monotonic()
        self._unsynced.discard((kind, namespace))
        if not self._unsynced:
            self._synced.set()

    def _put(self, kind: Kind, namespace: str, each: Object) -> None:
        self._objects[kind, namespace][each["metadata"]["name"]] = each
        self._wake(kind, namespace, each)

    def _drop(self, kind: Kind, namespace: str, each: Object) -> None:
        self._objects[kind, namespace].pop(each["metadata"]["name"], None)
        self._wake(kind, namespace, each)

    def _wake(self, kind: Kind, namespace: str, each: Object) -> None:
        if event := self._changes.get((namespace, _job_of(kind, each))):
            event.set()


def _job_of(kind: Kind, each: Object) -> str:
    """The name of the Job that this is, or that this pod belongs to."""
    if kind is JOBS:
        return str(each["metadata"]["name"])
    return str(each["metadata"].get("labels", {}).get("batch.kubernetes.io/job-name", ""))

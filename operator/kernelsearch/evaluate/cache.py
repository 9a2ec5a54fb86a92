"""What runs in the evaluation namespaces, kept up to date by list and watch: wake-up and memory in one.

One watch for Jobs and one for Pods per evaluation namespace, whatever the number of searches, with a server-side label
selector, so nothing of anybody else is ever read. Readers ask what is known and wait for the next change of one batch.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection
from functools import partial

from kernelsearch.evaluate.follow import Listed, News, follow
from kernelsearch.evaluate.kube import JOBS, PODS, Kind, Kube, Object, WatchEvent
from kernelsearch.evaluate.manifests import SELECTOR

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
                group.create_task(
                    follow(self._kube, kind, namespace, partial(self._hear, kind, namespace), labels=SELECTOR)
                )

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

    def _hear(self, kind: Kind, namespace: str, news: News) -> None:
        self._heard_at[kind, namespace] = time.monotonic()
        match news:
            case Listed(objects):
                self._replace(kind, namespace, objects)
            case WatchEvent("DELETED", each):
                self._drop(kind, namespace, each)
            case WatchEvent(_, each):
                self._put(kind, namespace, each)

    def _replace(self, kind: Kind, namespace: str, objects: list[Object]) -> None:
        fresh = {each["metadata"]["name"]: each for each in objects}
        for name in set(self._objects[kind, namespace]) - set(fresh):
            self._drop(kind, namespace, self._objects[kind, namespace][name])
        for each in objects:
            self._put(kind, namespace, each)
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

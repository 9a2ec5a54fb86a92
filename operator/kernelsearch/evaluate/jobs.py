"""Evaluator over Kubernetes: a batch is a Job, its document ConfigMaps, its outcome the judge's log.

Create or adopt: a Job found under the batch's name is taken over when the full uid and the batch's digest are ours, so
a controller that was killed goes on waiting for the very pod that it started. Cancelling `evaluate` leaves the pod
alone; `forget` removes one batch, `cancel` everything of a search. Results are read after exit and believed when the
log's count and hash agree with the judge's last line and its termination message; nothing is retried here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from kernelharness.protocol import MAX_LOG_BYTES, Bye, parse_log, split_lines

from kernelsearch.evaluate import manifests, pods
from kernelsearch.evaluate.base import BatchOutcome, BatchRequest, OnProgress, Progress
from kernelsearch.evaluate.cache import EvaluationCache
from kernelsearch.evaluate.kube import CONFIG_MAPS, EVENTS, JOBS, PODS, Kind, Kube, KubeError, Object
from kernelsearch.evaluate.manifests import Placement
from kernelsearch.evaluate.transcript import read_outcome

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
"""Longest time between two looks at a batch; a change of its Job or pods is seen at once."""
TROUBLE_SECONDS = 5.0
PROTOCOL_LINE = re.compile(r'\{\s*"type"\s*:')
"""How every line of the judge's begins; whatever else its container says goes to people, not to the parser."""
NOISE_CHARACTERS = 600
DISRUPTIONS = 3
"""So many evicted pods of one batch are its own doing (a full scratch volume is an eviction too)."""


class JobsEvaluator:
    """Runs the batches of one search. `placements` says by target where; it grows when a target is added."""

    def __init__(self, kube: Kube, cache: EvaluationCache, placements: Mapping[str, Placement]) -> None:
        self._kube = kube
        self._cache = cache
        self._placements = placements

    def place(self, placements: Mapping[str, Placement]) -> None:
        """From now on new batches run there."""
        self._placements = placements

    async def evaluate(self, request: BatchRequest, on_progress: OnProgress) -> BatchOutcome:
        return await self._job_of(request).run(on_progress)

    async def forget(self, request: BatchRequest) -> None:
        await self._job_of(request).remove()

    async def cancel(self, search_uid: str) -> None:
        for namespace in sorted({placement.namespace for placement in self._placements.values()}):
            await remove_search(self._kube, namespace, search_uid)

    def _job_of(self, request: BatchRequest) -> _BatchJob:
        return _BatchJob(self._kube, self._cache, self._placements[request.target], request)


class _BatchJob:
    """One batch in the cluster."""

    def __init__(self, kube: Kube, cache: EvaluationCache, placement: Placement, request: BatchRequest) -> None:
        self._kube = kube
        self._cache = cache
        self._placement = placement
        self._request = request
        self._namespace = placement.namespace
        self._name = manifests.job_name(request)
        self._said: Progress | None = None
        self._held_up_since: float | None = None

    async def run(self, on_progress: OnProgress) -> BatchOutcome:
        """Create or adopt the Job and return when its judge ended."""
        self._cache.expect(self._namespace, self._name)
        try:
            created = await self._create_or_adopt(on_progress)
            return await self._await_end(created, on_progress)
        except _NotOurs as conflict:
            return BatchOutcome(infrastructure="NameConflict", message=str(conflict))
        except KubeError as error:
            if error.status != 422:  # a manifest that the API server finds invalid: the profile's doing
                raise
            return BatchOutcome(infrastructure="Refused", message=str(error))
        finally:
            self._cache.forget(self._namespace, self._name)

    async def remove(self) -> None:
        """Delete the Job, its pods and its ConfigMaps. Idempotent; what is not ours stays."""
        await self._delete_if_mine(JOBS, self._name)
        for part in manifests.input_config_maps(self._placement, self._request, _NO_OWNER):
            await self._delete_if_mine(CONFIG_MAPS, part["metadata"]["name"])

    # -- create or adopt ----------------------------------------------------------------------------------------------

    async def _create_or_adopt(self, on_progress: OnProgress) -> Object:
        """Waits while a quota or a missing namespace forbids it, and says so."""
        while True:
            try:
                owner = await self._ensure_anchor()
                for part in manifests.input_config_maps(self._placement, self._request, owner):
                    await self._ensure(CONFIG_MAPS, part)
                return await self._ensure(JOBS, manifests.job(self._placement, self._request, owner))
            except KubeError as error:
                if error.status not in (403, 404):
                    raise
                self._tell(pods.held_up(self._request.target, "Pending", error.reason, str(error)), on_progress)
            await asyncio.sleep(LOOK_SECONDS)

    async def _ensure_anchor(self) -> Object:
        wanted = manifests.anchor(self._placement)
        name = wanted["metadata"]["name"]
        if found := await self._kube.find(CONFIG_MAPS, self._namespace, name):
            return found
        try:
            return await self._kube.create(CONFIG_MAPS, self._namespace, wanted)
        except KubeError as error:
            if not error.is_conflict:
                raise
            return await self._kube.get(CONFIG_MAPS, self._namespace, name)

    async def _ensure(self, kind: Kind, wanted: Object) -> Object:
        """The object, made now or found as we had made it. Raise _NotOurs when another one has its name."""
        namespace, name = self._namespace, wanted["metadata"]["name"]
        while True:
            try:
                return await self._kube.create(kind, namespace, wanted)
            except KubeError as error:
                if not error.is_conflict:
                    raise
            found = await self._kube.find(kind, namespace, name)
            if found is None:
                continue
            if not manifests.is_same_batch(found, wanted):
                whose = found["metadata"].get("annotations", {}).get(manifests.SEARCH_ANNOTATION, "nobody we know")
                raise _NotOurs(f"{kind.plural} {namespace}/{name} holds another batch, of {whose}; delete it")
            if "deletionTimestamp" not in found["metadata"]:
                return found
            await self._cache.changed(namespace, self._name, 1.0)  # cancelled a moment ago: wait until it is gone

    # -- waiting ------------------------------------------------------------------------------------------------------

    async def _await_end(self, created: Object, on_progress: OnProgress) -> BatchOutcome:
        namespace, name, uid = self._namespace, self._name, created["metadata"]["uid"]
        while True:
            found = _of(uid, self._cache.pods(namespace, name))
            job = self._cache.job(namespace, name)
            if job is None or job["metadata"]["uid"] != uid or pods.job_failure(job):
                # The two watches are not in step, or still show a predecessor: ask before giving up.
                job = await self._kube.find(JOBS, namespace, name)
                found = _of(uid, await self._pods_now())
            if ended := _ended(found):
                return await self._read(*ended)
            if job is None or job["metadata"]["uid"] != uid:
                return _failed("JobDeleted", f"somebody deleted Job {namespace}/{name}", found)
            if failure := pods.job_failure(job):
                return _failed(*failure, found)
            if sum(pods.is_disrupted(pod) for pod in found) >= DISRUPTIONS:
                return _failed("Evicted", f"{len(found)} pods of this batch were evicted, one after the other", found)

            events = await self._job_events(created, found)
            self._tell(pods.waiting(self._request.target, found, events, job), on_progress)
            await self._cache.changed(namespace, name, LOOK_SECONDS)

    def _tell(self, progress: Progress, on_progress: OnProgress) -> None:
        """Trouble is told when it lasts: a pod that waits a moment for its predecessor's place is in none."""
        now = time.monotonic()
        self._held_up_since = (self._held_up_since or now) if progress.reason else None
        if self._held_up_since is not None and now - self._held_up_since < TROUBLE_SECONDS:
            progress = Progress(progress.target, "Pending", progress.message)
        if progress != self._said:
            self._said = progress
            on_progress(progress)

    async def _pods_now(self) -> list[Object]:
        labels = f"batch.kubernetes.io/job-name={self._name}"
        found, _ = await self._kube.list_all(PODS, self._namespace, labels=labels)
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    async def _job_events(self, job: Object, found: list[Object]) -> list[Object]:
        """The Job controller says in events only why it cannot create a pod (quota, admission)."""
        if found or _age_seconds(job) < 2:
            return []
        namespace, uid = job["metadata"]["namespace"], job["metadata"]["uid"]
        events, _ = await self._kube.list_all(EVENTS, namespace, fields=f"involvedObject.uid={uid}")
        return events

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _read(self, pod: Object, end: pods.JudgeEnd) -> BatchOutcome:
        log_text = await self._log_of(pod) if end.has_log else ""
        candidates = [candidate.id for candidate in self._request.batch.candidates]
        # Parsing and decompressing two megabytes takes longer than the event loop may stand still.
        return await asyncio.to_thread(to_outcome, log_text, end, candidates, pods.node_of(pod))

    async def _log_of(self, pod: Object) -> str:
        metadata = pod["metadata"]
        try:
            return await self._kube.read_log(
                metadata["namespace"], metadata["name"], container=manifests.CONTAINER, limit_bytes=2 * MAX_LOG_BYTES
            )
        except KubeError as error:
            log.warning("log of pod %s/%s cannot be read: %s", metadata["namespace"], metadata["name"], error)
            return ""

    # -- ownership ----------------------------------------------------------------------------------------------------

    def _is_mine(self, found: Object) -> bool:
        labels = found["metadata"].get("labels") or {}
        return labels.get(manifests.UID_LABEL) == self._placement.search_uid

    async def _delete_if_mine(self, kind: Kind, name: str) -> None:
        found = await self._kube.find(kind, self._namespace, name)
        if found is not None and self._is_mine(found):
            await self._kube.delete(kind, self._namespace, name, uid=found["metadata"]["uid"])


async def remove_search(kube: Kube, namespace: str, search_uid: str) -> None:
    """Delete whatever this search has in the evaluation namespace: Jobs at once, the rest with its anchor."""
    mine = f"{manifests.SELECTOR},{manifests.UID_LABEL}={search_uid}"
    jobs, _ = await kube.list_all(JOBS, namespace, labels=mine)
    for job in jobs:
        await kube.delete(JOBS, namespace, job["metadata"]["name"], uid=job["metadata"]["uid"])
    await kube.delete(CONFIG_MAPS, namespace, manifests.anchor_name(search_uid))


def to_outcome(log_text: str, end: pods.JudgeEnd, candidates: Collection[str], node: str) -> BatchOutcome:
    """What a pod's log and its end say together. Results count only when its last words name this very log."""
    protocol, noise = split_streams(log_text)
    message = end.message
    if end.infrastructure and noise:
        message = f"{message}; it said: {noise[-NOISE_CHARACTERS:]}"
    outcome = read_outcome(protocol, candidates, node=node, infrastructure=end.infrastructure, message=message)
    if not outcome.infrastructure and (why := disagreement(protocol, end.termination_message)):
        return BatchOutcome(node=node, log=protocol, infrastructure="LogIncomplete", message=why)
    return outcome


def split_streams(text: str) -> tuple[str, str]:
    """(protocol lines, the rest) of a pod's log, which mixes standard output and standard error line by line."""
    lines = split_lines(text)
    protocol = "".join(line for line in lines if PROTOCOL_LINE.match(line))
    return protocol, "".join(line for line in lines if not PROTOCOL_LINE.match(line)).strip()


def disagreement(protocol: str, termination_message: str) -> str:
    """Why a whole log and a termination message do not belong together; '' if they do."""
    bye = parse_log(protocol)[-1]
    try:
        promised: Any = json.loads(termination_message)
        if isinstance(bye, Bye) and (promised["count"], promised["sha256"]) == (bye.count, bye.sha256):
            return ""
    except (ValueError, TypeError, KeyError):
        return f"the termination message is not the judge's: {termination_message[:120]!r}"
    return "the log's last line and the termination message name different logs"


class _NotOurs(Exception):
    """An object under our name that this batch did not make."""


_NO_OWNER: Object = {"metadata": {"name": "", "uid": ""}}
"""For naming ConfigMaps that are about to be deleted."""


def _of(job_uid: str, found: list[Object]) -> list[Object]:
    """Without the pods of an earlier Job of this name, which may take a while to go."""
    return [pod for pod in found if pod["metadata"]["labels"].get("batch.kubernetes.io/controller-uid") == job_uid]


def _ended(found: list[Object]) -> tuple[Object, pods.JudgeEnd] | None:
    """The newest pod whose judge ended, unless it was evicted: then its Job starts another one."""
    for pod in reversed(found):
        end = pods.judge_end(pod)
        if end and not (end.infrastructure and pods.is_disrupted(pod)):
            return pod, end
    return None


def _failed(infrastructure: str, message: str, found: list[Object]) -> BatchOutcome:
    node = pods.node_of(found[-1]) if found else ""
    return BatchOutcome(node=node, infrastructure=infrastructure, message=message)


def _age_seconds(created: Object) -> float:
    stamp = str(created["metadata"]["creationTimestamp"])
    return time.time() - datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()

"""What no daemon can do, because none runs: cleaning up after deleted searches, deleting those whose time is over, and
telling those in namespaces that no operator serves.

kopf's finalizer exists only while a search is active: a suspended or finished search vanishes without asking anybody.
Every round compares what is labelled with a search's uid with the searches that there are. Children are listed before
searches: whatever belongs to a search that appears in between is spared.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from kernelsearch.api.resources import KernelSearch
from kernelsearch.controller.conditions import Rejection, has_ended, is_active
from kernelsearch.controller.references import how_to_enable
from kernelsearch.controller.resting import tell_rejected, tell_suspended
from kernelsearch.controller.runner import Services
from kernelsearch.evaluate.jobs import remove_search
from kernelsearch.evaluate.kube import CONFIG_MAPS, JOBS, SEARCHES, KubeError, Object
from kernelsearch.evaluate.manifests import SELECTOR, UID_LABEL

log = logging.getLogger(__name__)

ROUND_SECONDS = 20.0


async def sweep_for_ever(services: Services) -> None:
    while True:
        try:
            await sweep(services)
        except KubeError as error:
            log.warning("sweeping: %s", error)
        await asyncio.sleep(ROUND_SECONDS)


async def sweep(services: Services) -> None:
    """One round."""
    children = await _children(services)
    searches, _ = await services.kube.list_all(SEARCHES)
    wanted = {search["metadata"]["uid"] for search in searches if is_active(search)} | set(services.engines)
    for namespace, uid in sorted(children):
        if uid not in wanted:
            log.info("removing what search %s left in %s", uid, namespace)
            await remove_search(services.kube, namespace, uid)
    for search in searches:
        if not services.settings.serves(search["metadata"]["namespace"]):
            await _tell_unserved(services, search)
            continue
        await tell_suspended(services.kube, services.pace, KernelSearch.model_validate(search))
        if is_expired(search, datetime.now(UTC)):
            await _delete(services, search)


def is_expired(search: Object, now: datetime) -> bool:
    """Whether `ttlSecondsAfterFinished` is over."""
    ttl = search["spec"].get("ttlSecondsAfterFinished")
    completed = (search.get("status") or {}).get("completionTime")
    if ttl is None or completed is None or not has_ended(search):
        return False
    return (now - _time(completed)).total_seconds() >= int(ttl)


def is_ignored(search: Object, now: datetime) -> bool:
    """Whether nobody has said anything about this search for a whole round: no operator serves its namespace."""
    age = (now - _time(search["metadata"]["creationTimestamp"])).total_seconds()
    return age >= ROUND_SECONDS and not (search.get("status") or {}).get("conditions")


async def _tell_unserved(services: Services, found: Object) -> None:
    if not is_ignored(found, datetime.now(UTC)):
        return
    search = KernelSearch.model_validate(found)
    reason = Rejection("NamespaceNotEnabled", how_to_enable(search.metadata.namespace or ""))
    await tell_rejected(services.kube, services.pace, search, reason)


def _time(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp.replace("Z", "+00:00"))


async def _children(services: Services) -> set[tuple[str, str]]:
    """(evaluation namespace, search uid) of everything that runs or waits for a search."""
    found = set()
    for namespace in services.settings.evaluation_namespaces:
        for kind in (CONFIG_MAPS, JOBS):
            objects, _ = await services.kube.list_all(kind, namespace, labels=SELECTOR)
            found |= {(namespace, each["metadata"]["labels"].get(UID_LABEL, "")) for each in objects}
    return {(namespace, uid) for namespace, uid in found if uid}


async def _delete(services: Services, search: Object) -> None:
    metadata = search["metadata"]
    log.info("%s/%s finished long enough ago: deleting it", metadata["namespace"], metadata["name"])
    await services.kube.delete(SEARCHES, metadata["namespace"], metadata["name"], uid=metadata["uid"])

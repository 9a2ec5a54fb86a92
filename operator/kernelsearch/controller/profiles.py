"""The status of AcceleratorProfiles: how many nodes would do for each, and what to do when none would.

Level-based: nodes and profiles are followed by one watch each; when one of them turned, every profile's status is
worked out anew and written where it says something else. It depends on nodes and the profile alone, so that two
operators in one cluster write the same. Only the process that holds the journal's lock runs this.
"""

from __future__ import annotations

import asyncio
import logging
import time

from pydantic import ValidationError

from kernelsearch.api.base import API_VERSION
from kernelsearch.api.profile import AcceleratorProfileSpec, AcceleratorProfileStatus
from kernelsearch.controller.conditions import Fact, stamp
from kernelsearch.controller.nodes import READY, Fit, Node, fit, read_node
from kernelsearch.controller.status import MANAGER, QUIET_SECONDS
from kernelsearch.controller.view import timestamp
from kernelsearch.evaluate.follow import Listed, News, follow
from kernelsearch.evaluate.kube import NODES, PROFILES, Kube, KubeError, Object

log = logging.getLogger(__name__)


class ProfileStatuses:
    """Writes them. `run` until cancelled."""

    def __init__(self, kube: Kube, quiet_seconds: float = QUIET_SECONDS) -> None:
        self._kube, self._quiet_seconds = kube, quiet_seconds
        self._nodes: dict[str, Node] | None = None
        self._profiles: dict[str, Object] | None = None
        """None: not listed yet."""
        self._turned = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(follow(self._kube, NODES, None, self._hear_nodes))
            group.create_task(follow(self._kube, PROFILES, None, self._hear_profiles))
            group.create_task(self._keep_writing())

    def _hear_nodes(self, news: News) -> None:
        before = dict(self._nodes) if self._nodes is not None else None
        if isinstance(news, Listed):
            self._nodes = {each["metadata"]["name"]: read_node(each) for each in news.objects}
        elif news is not None and self._nodes is not None:
            node = read_node(news.object)
            self._nodes[node.name] = node
            if news.type == "DELETED":
                del self._nodes[node.name]
        if self._nodes != before:  # a heartbeat changes nothing that counts
            self._turned.set()

    def _hear_profiles(self, news: News) -> None:
        if isinstance(news, Listed):
            self._profiles = {each["metadata"]["name"]: each for each in news.objects}
        elif news is not None and self._profiles is not None:
            self._profiles[news.object["metadata"]["name"]] = news.object
            if news.type == "DELETED":
                del self._profiles[news.object["metadata"]["name"]]
        if news is not None:
            self._turned.set()

    async def _keep_writing(self) -> None:
        while True:
            await self._turned.wait()
            self._turned.clear()
            if self._nodes is not None and self._profiles is not None:
                nodes = list(self._nodes.values())
                for found in list(self._profiles.values()):
                    await self._bring_up_to_date(found, nodes)
            await asyncio.sleep(self._quiet_seconds)

    async def _bring_up_to_date(self, found: Object, nodes: list[Node]) -> None:
        status = status_of(found, nodes, timestamp(time.time_ns()))
        if status is None:
            return
        metadata = found["metadata"]
        body = {
            "apiVersion": API_VERSION,
            "kind": "AcceleratorProfile",
            "metadata": {key: metadata[key] for key in ("name", "uid", "resourceVersion")},
            "status": status,
        }
        try:
            await self._kube.apply(PROFILES, None, body, manager=MANAGER, subresource="status")
        except KubeError as error:
            # A conflict or a missing profile: the watch brings the newer state. Anything else: try again.
            if not (error.is_conflict or error.is_missing):
                log.warning("status of AcceleratorProfile %s was not written: %s", metadata["name"], error)
            self._turned.set()


def status_of(found: Object, nodes: list[Node], now: str) -> Object | None:
    """The status that this profile should have, or None when it has it."""
    before = _status_before(found)
    generation = found["metadata"].get("generation")
    fitting = _fit(found, nodes)
    after = AcceleratorProfileStatus(
        observed_generation=generation,
        matching_nodes=fitting.nodes,
        allocatable_devices=fitting.devices,
        conditions=stamp([fitting.ready], before.conditions, generation, now),
    )
    return None if after == before else after.model_dump(mode="json", by_alias=True, exclude_none=True)


def _status_before(found: Object) -> AcceleratorProfileStatus:
    """As it was written; an empty one when this version cannot read it."""
    try:
        return AcceleratorProfileStatus.model_validate(found.get("status") or {})
    except ValidationError:
        return AcceleratorProfileStatus()


def _fit(found: Object, nodes: list[Node]) -> Fit:
    """Of what this version can read of the profile: another version's operator may have admitted more."""
    try:
        return fit(AcceleratorProfileSpec.model_validate(found["spec"]).scheduling, nodes)
    except (ValidationError, ValueError) as error:
        reason = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
        return Fit(0, None, Fact(READY, "False", "ProfileInvalid", f"the profile cannot be read: {reason}"))

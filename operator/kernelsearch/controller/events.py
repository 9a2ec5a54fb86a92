"""Kubernetes Events on a search: one for every turn that a person would like to hear of in `kubectl describe`.

An Event is a courtesy: when it cannot be written, a warning is logged and the search goes on.
"""

from __future__ import annotations

import logging
import uuid
from datetime import UTC, datetime
from typing import Literal

from kernelsearch.api.resources import KernelSearch
from kernelsearch.evaluate.kube import EVENTS, Kube, KubeError

log = logging.getLogger(__name__)

MAX_NOTE = 1024


async def record(
    kube: Kube, search: KernelSearch, reason: str, message: str, kind: Literal["Normal", "Warning"] = "Normal"
) -> None:
    """Tell that this happened to the search."""
    metadata = search.metadata
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata.name}.{uuid.uuid4().hex[:16]}", "namespace": metadata.namespace},
        "involvedObject": {
            "apiVersion": search.api_version,
            "kind": search.kind,
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
        },
        "reason": reason,
        "message": message[:MAX_NOTE],
        "type": kind,
        "source": {"component": "kernelsearch"},
        "reportingComponent": "kernelsearch.dev/controller",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    log.info("%s/%s: %s: %s", metadata.namespace, metadata.name, reason, message)
    try:
        await kube.create(EVENTS, metadata.namespace, body)
    except KubeError as error:
        log.warning("event %s on %s/%s was not written: %s", reason, metadata.namespace, metadata.name, error)

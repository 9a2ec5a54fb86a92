"""From models to Kubernetes manifests: pure functions, no client, tested against golden files.

One batch is one Job and the ConfigMaps that hold its document. All of a search's objects in the evaluation namespace
are owned by its anchor, a ConfigMap (owner references cannot cross namespaces): deleting the anchor deletes them all.
Names are deterministic: creating a batch twice finds the first one. What the pod may do does not come from whoever
created the search: image, node, resources and runtime class are the profile's; the rest is the restricted Pod Security
Standard, with a read-only root and bounded scratch space.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kernelharness.protocol import Batch

from kernelsearch.api.profile import AcceleratorProfileSpec, PodResources, Scheduling
from kernelsearch.evaluate.base import BatchRequest

Object = dict[str, Any]

MANAGED_BY = "kernelsearch"
SELECTOR = f"app.kubernetes.io/managed-by={MANAGED_BY}"
"""Label selector of everything that these functions make."""
UID_LABEL = "kernelsearch.dev/search-uid"
BATCH_LABEL = "kernelsearch.dev/batch"
TARGET_LABEL = "kernelsearch.dev/target"
DIGEST_ANNOTATION = "kernelsearch.dev/batch-digest"
SEARCH_ANNOTATION = "kernelsearch.dev/search"
"""<namespace>/<name>, for people; the uid is what counts."""

CONTAINER = "judge"
USER_ID = 10001
INPUT_PATH = "/batch"
TERMINATION_MESSAGE_PATH = "/dev/termination-log"
MAX_PIECE_BYTES = 480 * 1024
"""Of a batch document in one ConfigMap: with its metadata it stays below 512 KiB."""
TTL_SECONDS = 6 * 3600
"""Safety net for a Job that no controller came back for."""

DEFAULT_REQUESTS = {"cpu": "1"}
DEFAULT_LIMITS = {"memory": "4Gi", "ephemeral-storage": "4Gi"}
"""For profiles that name none: a pod without limits could starve its node."""
SCRATCH_LIMIT = "2Gi"
SHARED_MEMORY_LIMIT = "1Gi"


@dataclass(frozen=True)
class Placement:
    """Where and as whom the batches of one target run."""

    search_uid: str
    search: str
    """<namespace>/<name>"""
    namespace: str
    """The evaluation namespace."""
    profile: AcceleratorProfileSpec
    language: str
    devices: int = 1
    queue_name: str = ""
    """Kueue LocalQueue; empty: the Job starts at once."""
    service_account: str = "default"
    pending_timeout_seconds: int = 3600


def job_name(request: BatchRequest) -> str:
    """ks-<uid8>-<target>-<seq>-<attempt>: the batch's id holds the last three."""
    return f"ks-{request.search_uid[:8]}-{request.batch.id}"


def anchor_name(search_uid: str) -> str:
    return f"ks-{search_uid}"


def anchor(placement: Placement) -> Object:
    """The ConfigMap that owns whatever runs for this search in the evaluation namespace."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": anchor_name(placement.search_uid),
            "namespace": placement.namespace,
            "labels": _search_labels(placement),
            "annotations": {SEARCH_ANNOTATION: placement.search},
        },
        "data": {"search": placement.search},
    }


def input_config_maps(placement: Placement, request: BatchRequest, anchor_object: Object) -> list[Object]:
    """The batch document, cut into immutable ConfigMaps: part-000, part-001, ... joined give the JSON text."""
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _metadata(placement, request, anchor_object, f"{job_name(request)}-{index}"),
            "immutable": True,
            "data": {_part(index): piece},
        }
        for index, piece in enumerate(split_utf8(request.batch.to_json(), MAX_PIECE_BYTES))
    ]


def job(placement: Placement, request: BatchRequest, anchor_object: Object) -> Object:
    """The batch as a Job of one pod that is never retried by Kubernetes: only search/ decides on another attempt."""
    run_seconds = run_deadline_seconds(request.batch)
    metadata = _metadata(placement, request, anchor_object, job_name(request))
    spec: Object = {
        "backoffLimit": 0,
        "completions": 1,
        "parallelism": 1,
        "podReplacementPolicy": "Failed",
        # An evicted or drained pod is nobody's fault: the Job starts another one under the same name.
        "podFailurePolicy": {
            "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
        },
        "activeDeadlineSeconds": placement.pending_timeout_seconds + run_seconds,
        "ttlSecondsAfterFinished": TTL_SECONDS,
        "template": {
            "metadata": {"labels": dict(metadata["labels"])},
            "spec": _pod_spec(placement, request, run_seconds),
        },
    }
    if placement.queue_name:
        metadata["labels"]["kueue.x-k8s.io/queue-name"] = placement.queue_name
        spec["suspend"] = True
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def is_same_batch(existing: Object, wanted: Object) -> bool:
    """Whether an object found under our name is this very batch of this very search, and so may be adopted."""
    found, mine = existing["metadata"], wanted["metadata"]
    return bool(
        found.get("labels", {}).get(UID_LABEL) == mine["labels"][UID_LABEL]
        and found.get("annotations", {}).get(DIGEST_ANNOTATION) == mine["annotations"][DIGEST_ANNOTATION]
    )


def run_deadline_seconds(batch: Batch) -> int:
    """Longer than an honest judge can need: five minutes to start and measure the baselines, then every candidate."""
    toolchain = batch.toolchain
    per_candidate = toolchain.compile_timeout_seconds + 2 * toolchain.run_timeout_seconds
    return 300 + (len(batch.candidates) + 1) * per_candidate


def split_utf8(text: str, limit: int) -> Iterator[str]:
    """Pieces of at most `limit` bytes each when encoded, never cut inside a character."""
    raw = text.encode()
    start = 0
    while start < len(raw):
        end = min(start + limit, len(raw))
        while end < len(raw) and raw[end] & 0xC0 == 0x80:  # a continuation byte: its character began before
            end -= 1
        yield raw[start:end].decode()
        start = end


def _part(index: int) -> str:
    return f"part-{index:03d}"


def _search_labels(placement: Placement) -> dict[str, str]:
    return {
        "app.kubernetes.io/managed-by": MANAGED_BY,
        "app.kubernetes.io/component": "evaluation",
        UID_LABEL: placement.search_uid,
    }


def _metadata(placement: Placement, request: BatchRequest, anchor_object: Object, name: str) -> Object:
    return {
        "name": name,
        "namespace": placement.namespace,
        "labels": {
            **_search_labels(placement),
            TARGET_LABEL: request.target,
            BATCH_LABEL: request.batch.id,
            "kernelsearch.dev/purpose": request.batch.purpose.value,
        },
        "annotations": {DIGEST_ANNOTATION: request.batch.digest, SEARCH_ANNOTATION: placement.search},
        "ownerReferences": [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "name": anchor_object["metadata"]["name"],
                "uid": anchor_object["metadata"]["uid"],
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }


def _pod_spec(placement: Placement, request: BatchRequest, run_seconds: int) -> Object:
    scheduling = placement.profile.scheduling
    pieces = len(list(split_utf8(request.batch.to_json(), MAX_PIECE_BYTES)))
    spec: Object = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": run_seconds,
        "terminationGracePeriodSeconds": 10,
        "automountServiceAccountToken": False,
        "serviceAccountName": placement.service_account,
        "enableServiceLinks": False,
        "securityContext": _pod_security(scheduling.supplemental_groups),
        "containers": [_container(placement)],
        "volumes": [
            {
                "name": "batch",
                "projected": {
                    "defaultMode": 0o444,
                    "sources": [
                        {"configMap": {"name": f"{job_name(request)}-{index}", "items": [_item(index)]}}
                        for index in range(pieces)
                    ],
                },
            },
            {"name": "scratch", "emptyDir": {"sizeLimit": SCRATCH_LIMIT}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": SHARED_MEMORY_LIMIT}},
        ],
    }
    if scheduling.node_selector:
        spec["nodeSelector"] = dict(scheduling.node_selector)
    if scheduling.tolerations:
        spec["tolerations"] = [each.to_manifest() for each in scheduling.tolerations]
    if scheduling.runtime_class_name:
        spec["runtimeClassName"] = scheduling.runtime_class_name
    if scheduling.priority_class_name:
        spec["priorityClassName"] = scheduling.priority_class_name
    if affinity := _node_affinity(scheduling.forbidden_node_labels, request.avoid_nodes):
        spec["affinity"] = {"nodeAffinity": affinity}
    return spec


def _item(index: int) -> Object:
    return {"key": _part(index), "path": _part(index)}


def _pod_security(supplemental_groups: tuple[int, ...]) -> Object:
    security: Object = {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if supplemental_groups:
        security["supplementalGroups"] = list(supplemental_groups)
    return security


def _container(placement: Placement) -> Object:
    return {
        "name": CONTAINER,
        "image": placement.profile.toolchain(placement.language).image,
        "args": ["judge", "--batch", INPUT_PATH, "--termination-message", TERMINATION_MESSAGE_PATH],
        "env": [
            {"name": "KERNELHARNESS_NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "HOME", "value": "/tmp"},
        ],
        "resources": pod_resources(placement.profile.scheduling, placement.devices),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "privileged": False,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": TERMINATION_MESSAGE_PATH,
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            {"name": "batch", "mountPath": INPUT_PATH, "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp"},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }


def pod_resources(scheduling: Scheduling, devices: int = 1) -> Object:
    """Requests and limits of an evaluation pod's one container."""
    asked = scheduling.resources or PodResources()
    requests = {key: str(value) for key, value in asked.requests.items()}
    limits = {key: str(value) for key, value in asked.limits.items()}
    # What the profile says of one side bounds the default of the other: a request is never above its limit.
    requests |= {key: value for key, value in DEFAULT_REQUESTS.items() if key not in requests and key not in limits}
    limits |= {key: requests.get(key, value) for key, value in DEFAULT_LIMITS.items() if key not in asked.limits}
    if scheduling.resource_name:
        limits[scheduling.resource_name] = requests[scheduling.resource_name] = str(devices)
    return {"requests": requests, "limits": limits}


def _node_affinity(forbidden_labels: dict[str, str], avoid_nodes: tuple[str, ...]) -> Object:
    """Never a node with a forbidden label; another node than those that failed this batch, where there is one."""
    affinity: Object = {}
    if forbidden_labels:
        expressions = [
            {"key": key, "operator": "NotIn", "values": [value]} for key, value in sorted(forbidden_labels.items())
        ]
        affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {
            "nodeSelectorTerms": [{"matchExpressions": expressions}]
        }
    if avoid_nodes:
        affinity["preferredDuringSchedulingIgnoredDuringExecution"] = [
            {
                "weight": 100,
                "preference": {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": [node]}]},
            }
            for node in avoid_nodes
        ]
    return affinity

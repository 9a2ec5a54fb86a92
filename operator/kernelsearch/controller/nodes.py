"""Which nodes could run a profile's pods, and what to do when none could. Pure: no client, no clock.

The scheduler decides for a pod that is there, on nodes as full as they are; this says beforehand whether an empty node
would do, by what the pod asks for (evaluate/manifests.py). A RuntimeClass may narrow the choice further.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from kernelsearch.api.profile import Scheduling, Toleration
from kernelsearch.controller.conditions import Fact
from kernelsearch.evaluate.kube import Object
from kernelsearch.evaluate.manifests import pod_resources

READY = "Ready"

_QUANTITY = re.compile(r"([-+]?[0-9.]+)(?:(|[numk]|Ki|[MGTPE]i?)|[eE]([-+]?[0-9]+))")
_POWERS = {"n": -3, "u": -2, "m": -1, "": 0, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_BINARY_POWERS = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_OWN_TAINTS = tuple(f"node.kubernetes.io/{name}" for name in ("not-ready", "unreachable", "unschedulable"))
"""Kubernetes' own for what `is_available` says."""
_NAMED = 3
"""So many nodes are named in a message."""


@dataclass(frozen=True)
class Taint:
    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"


@dataclass(frozen=True)
class Node:
    """What of a node decides: two that are equal get the same answer."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    """Those that keep pods away."""
    allocatable: Mapping[str, str]
    is_available: bool
    """Ready, and not cordoned."""


@dataclass(frozen=True)
class Fit:
    nodes: int
    """That could run the profile's pods."""
    devices: int | None
    """Of the profile's resource on these nodes; None for a profile that names none."""
    ready: Fact


def read_node(found: Object) -> Node:
    """Out of a core/v1 Node."""
    spec, status = found.get("spec") or {}, found.get("status") or {}
    is_ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or [])
    taints = [Taint(each["key"], each.get("value") or "", each["effect"]) for each in spec.get("taints") or []]
    return Node(
        name=found["metadata"]["name"],
        labels=found["metadata"].get("labels") or {},
        taints=tuple(each for each in taints if each.effect != "PreferNoSchedule" and each.key not in _OWN_TAINTS),
        allocatable=status.get("allocatable") or {},
        is_available=is_ready and not spec.get("unschedulable"),
    )


def fit(scheduling: Scheduling, nodes: Sequence[Node]) -> Fit:
    """How many nodes would do. When none would, the reason is the first demand that no node is left for."""
    resource = scheduling.resource_name
    if scheduling.device_class_name:
        return _none(
            scheduling,
            "DeviceClassUnsupported",
            "the profile asks for a DRA device class, which this version cannot; use a device plugin's resourceName",
        )
    if not nodes:
        return _none(scheduling, "NoNodes", "the cluster has no node: add one")
    left = list(nodes)
    for demand in _DEMANDS:
        kept = [node for node in left if demand.is_met(scheduling, node)]
        if not kept:
            return _none(scheduling, demand.reason, demand.advice(scheduling, left))
        left = kept
    devices = sum(_devices(resource, node) for node in left) if resource else None
    count = "1 node matches" if len(left) == 1 else f"{len(left)} nodes match"
    return Fit(
        len(left),
        devices,
        Fact(READY, "True", "NodesMatch", f"{count}, with {devices} {resource}" if resource else count),
    )


def quantity(text: str) -> Fraction:
    """A Kubernetes quantity as a number: "500m" is 1/2, "1Ki" 1024. Raise ValueError for anything else."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a quantity; write it like 500m or 32Gi")
    number, suffix, exponent = match.groups()
    if suffix in _BINARY_POWERS:
        return Fraction(number) * (1 << 10 * _BINARY_POWERS[suffix])
    return Fraction(f"{number}e{exponent if suffix is None else 3 * _POWERS[suffix]}")


# -- the demands, in the order in which they are told -----------------------------------------------------------------


@dataclass(frozen=True)
class _Demand:
    reason: str
    is_met: Callable[[Scheduling, Node], bool]
    advice: Callable[[Scheduling, Sequence[Node]], str]
    """What to do, given the nodes that met all demands before and none of which meets this one."""


def _none(scheduling: Scheduling, reason: str, message: str) -> Fit:
    return Fit(0, 0 if scheduling.resource_name else None, Fact(READY, "False", reason, message))


def _devices(resource: str, node: Node) -> int:
    return int(quantity(node.allocatable.get(resource, "0")))


def _has_device(scheduling: Scheduling, node: Node) -> bool:
    return not scheduling.resource_name or _devices(scheduling.resource_name, node) > 0


def _no_device(scheduling: Scheduling, _: Sequence[Node]) -> str:
    return (
        f"no node offers {scheduling.resource_name}: install the device plugin that does, or add a node with such a"
        " device"
    )


def _is_selected(scheduling: Scheduling, node: Node) -> bool:
    return all(node.labels.get(key) == value for key, value in scheduling.node_selector.items())


def _not_selected(scheduling: Scheduling, left: Sequence[Node]) -> str:
    selector = scheduling.node_selector
    nowhere = {key: value for key, value in selector.items() if all(node.labels.get(key) != value for node in left)}
    labels = " ".join(f"{key}={value}" for key, value in (nowhere or selector).items())
    offering = f" that offers {scheduling.resource_name}" if scheduling.resource_name else ""
    return (
        f"no node{offering} is labelled {labels}: install the feature discovery that sets it, label a node with kubectl"
        f" label node NAME {labels}, or change spec.scheduling.nodeSelector"
    )


def _is_allowed(scheduling: Scheduling, node: Node) -> bool:
    return not any(node.labels.get(key) == value for key, value in scheduling.forbidden_node_labels.items())


def _not_allowed(scheduling: Scheduling, left: Sequence[Node]) -> str:
    labels = " or ".join(f"{key}={value}" for key, value in scheduling.forbidden_node_labels.items())
    return (
        f"{_names(left)} would do, but every one has a label of spec.scheduling.forbiddenNodeLabels ({labels}): change"
        " what the label stands for, or the profile"
    )


def _is_large_enough(scheduling: Scheduling, node: Node) -> bool:
    return not _too_much(scheduling, node)


def _too_small(scheduling: Scheduling, left: Sequence[Node]) -> str:
    node = min(left, key=lambda each: len(_too_much(scheduling, each)))
    shortfall = ", ".join(
        f"{node.allocatable.get(name, '0')} of {asked} {name}" for name, asked in _too_much(scheduling, node).items()
    )
    return (
        f"no node is as large as the pods ask for, {node.name} has {shortfall}: lower spec.scheduling.resources, or add"
        " a larger node"
    )


def _too_much(scheduling: Scheduling, node: Node) -> dict[str, str]:
    """Resource -> what a pod requests of it, where the node has less."""
    resources = pod_resources(scheduling)
    asked: dict[str, str] = resources["limits"] | resources["requests"]  # a limit alone is a request too
    return {
        name: amount
        for name, amount in asked.items()
        if quantity(amount) > quantity(node.allocatable.get(name, "0")) and name != scheduling.resource_name
    }


def _not_available(_: Scheduling, left: Sequence[Node]) -> str:
    return (
        f"{_names(left)} would do, but none is ready and open to pods: see kubectl describe node, and kubectl uncordon"
        " one that is cordoned"
    )


def _is_tolerated(scheduling: Scheduling, node: Node) -> bool:
    return not _repelling(scheduling, node)


def _not_tolerated(scheduling: Scheduling, left: Sequence[Node]) -> str:
    taints = sorted({str(taint) for node in left for taint in _repelling(scheduling, node)})
    return (
        f"{_names(left)} would do, but the profile does not tolerate what taints them, {', '.join(taints)}: add it to"
        " spec.scheduling.tolerations, or remove the taint"
    )


def _repelling(scheduling: Scheduling, node: Node) -> list[Taint]:
    return [taint for taint in node.taints if not any(_tolerates(each, taint) for each in scheduling.tolerations)]


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    """As the scheduler reads it: no key with Exists is every key, no effect every effect."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.operator == "Exists":
        return not toleration.key or toleration.key == taint.key
    return (
        toleration.operator in (None, "", "Equal")
        and toleration.key == taint.key
        and (toleration.value or "") == taint.value
    )


def _names(nodes: Sequence[Node]) -> str:
    """ "node a", "nodes a and b", "nodes a, b, c and 7 more"."""
    names = sorted(node.name for node in nodes)
    if len(names) == 1:
        return f"node {names[0]}"
    shown = names if len(names) <= _NAMED else [*names[:_NAMED], f"{len(names) - _NAMED} more"]
    return f"nodes {', '.join(shown[:-1])} and {shown[-1]}"


_DEMANDS = (
    _Demand("NoDevice", _has_device, _no_device),
    _Demand("NoNodeSelected", _is_selected, _not_selected),
    _Demand("NodesForbidden", _is_allowed, _not_allowed),
    _Demand("NodesTooSmall", _is_large_enough, _too_small),
    _Demand("NodesNotAvailable", lambda _, node: node.is_available, _not_available),
    _Demand("TaintsNotTolerated", _is_tolerated, _not_tolerated),
)

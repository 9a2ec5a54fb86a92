"""Does a node fit a profile, and what is said when none does: the words that people read in `kubectl get accel`."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from kernelsearch.api.profile import Scheduling
from kernelsearch.controller.nodes import Fit, Node, fit, quantity, read_node

Object = dict[str, Any]

GPU = "nvidia.com/gpu"
SCHEDULING = {
    "resourceName": GPU,
    "nodeSelector": {"gpu.product": "H100"},
    "forbiddenNodeLabels": {"gpu.sharing": "time-slicing"},
    "tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}],
    "resources": {"requests": {"cpu": "4", "memory": "32Gi"}, "limits": {"memory": "32Gi"}},
}


def a_node(name: str = "a", **changes: Any) -> Object:
    """A node with two H100s that would do; `changes` replace labels, taints, allocatable, ready, unschedulable."""
    allocatable = {"cpu": "15900m", "memory": "64Gi", "ephemeral-storage": "95491281146", GPU: "2"}
    taints = [{"key": GPU, "value": "present", "effect": "NoSchedule"}]
    return {
        "metadata": {"name": name, "labels": changes.get("labels", {"gpu.product": "H100"})},
        "spec": {"taints": changes.get("taints", taints), "unschedulable": changes.get("unschedulable", False)},
        "status": {
            "allocatable": allocatable | changes.get("allocatable", {}),
            "conditions": [{"type": "Ready", "status": changes.get("ready", "True")}],
        },
    }


def fitted(*nodes: Object, **scheduling: Any) -> Fit:
    return fit(Scheduling.model_validate(SCHEDULING | scheduling), [read_node(node) for node in nodes])


def test_nodes_that_fit_are_counted_with_their_devices() -> None:
    found = fitted(a_node("a"), a_node("b", allocatable={GPU: "8"}), a_node("c", allocatable={GPU: "0"}))
    assert (found.nodes, found.devices) == (2, 10)
    assert (found.ready.status, found.ready.reason) == ("True", "NodesMatch")
    assert found.ready.message == "2 nodes match, with 10 nvidia.com/gpu"


def test_a_cpu_profile_counts_no_devices() -> None:
    found = fit(Scheduling(), [read_node(a_node(taints=[]))])
    assert (found.nodes, found.devices, found.ready.message) == (1, None, "1 node matches")


@pytest.mark.parametrize(
    ("nodes", "reason", "message"),
    [
        pytest.param([], "NoNodes", "the cluster has no node: add one", id="no nodes"),
        pytest.param(
            [a_node(allocatable={GPU: "0"})],
            "NoDevice",
            "no node offers nvidia.com/gpu: install the device plugin that does, or add a node with such a device",
            id="no device",
        ),
        pytest.param(
            [a_node(labels={"gpu.product": "A100"}), a_node("cpu", allocatable={GPU: "0"})],
            "NoNodeSelected",
            "no node that offers nvidia.com/gpu is labelled gpu.product=H100: install the feature discovery that sets"
            " it, label a node with kubectl label node NAME gpu.product=H100, or change spec.scheduling.nodeSelector",
            id="another label",
        ),
        pytest.param(
            [a_node(labels={"gpu.product": "H100", "gpu.sharing": "time-slicing"})],
            "NodesForbidden",
            "node a would do, but every one has a label of spec.scheduling.forbiddenNodeLabels"
            " (gpu.sharing=time-slicing): change what the label stands for, or the profile",
            id="forbidden label",
        ),
        pytest.param(
            [a_node(allocatable={"memory": "16Gi", "cpu": "2"}), a_node("b", allocatable={"memory": "31Gi"})],
            "NodesTooSmall",
            "no node is as large as the pods ask for, b has 31Gi of 32Gi memory: lower spec.scheduling.resources, or"
            " add a larger node",
            id="too small",
        ),
        pytest.param(
            [a_node("a", unschedulable=True), a_node("b", ready="Unknown")],
            "NodesNotAvailable",
            "nodes a and b would do, but none is ready and open to pods: see kubectl describe node, and kubectl"
            " uncordon one that is cordoned",
            id="cordoned and lost",
        ),
        pytest.param(
            [a_node(taints=[{"key": "team", "value": "b", "effect": "NoExecute"}])],
            "TaintsNotTolerated",
            "node a would do, but the profile does not tolerate what taints them, team=b:NoExecute: add it to"
            " spec.scheduling.tolerations, or remove the taint",
            id="taint",
        ),
    ],
)
def test_when_no_node_fits_the_first_demand_that_none_meets_is_named(
    nodes: list[Object], reason: str, message: str
) -> None:
    found = fitted(*nodes)
    assert (found.nodes, found.devices, found.ready.status) == (0, 0, "False")
    assert (found.ready.reason, found.ready.message) == (reason, message)


def test_a_device_class_is_told_to_be_unsupported() -> None:
    found = fit(Scheduling(device_class_name="npu.acme.example"), [read_node(a_node())])
    assert (found.nodes, found.ready.reason) == (0, "DeviceClassUnsupported")


def test_labels_that_some_nodes_have_singly_are_all_named() -> None:
    nodes = [a_node("a", labels={"x": "1"}), a_node("b", labels={"y": "2"})]
    assert "is labelled x=1 y=2:" in fitted(*nodes, nodeSelector={"x": "1", "y": "2"}).ready.message


def test_a_limit_alone_is_a_request_too() -> None:
    found = fitted(a_node(), resources={"limits": {"memory": "65Gi"}})
    assert found.ready.reason == "NodesTooSmall"
    assert "64Gi of 65Gi memory" in found.ready.message


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "team", "operator": "Exists"}, True),
        ({"key": "team", "operator": "Equal", "value": "b"}, True),
        ({"key": "team", "value": "b", "effect": "NoSchedule"}, True),
        ({"key": "team", "value": "c"}, False),
        ({"key": "team"}, False),
        ({"key": "team", "value": "b", "effect": "NoExecute"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_tolerations_are_read_as_the_scheduler_reads_them(toleration: Object, tolerated: bool) -> None:
    node = a_node(taints=[{"key": "team", "value": "b", "effect": "NoSchedule"}])
    assert bool(fitted(node, tolerations=[toleration]).nodes) is tolerated


def test_what_only_warns_the_scheduler_keeps_no_pod_away() -> None:
    assert fitted(a_node(taints=[{"key": "busy", "effect": "PreferNoSchedule"}])).nodes == 1


def test_a_heartbeat_makes_no_other_node() -> None:
    before, after = a_node(), a_node()
    after["status"]["conditions"][0]["lastHeartbeatTime"] = "2030-01-01T00:00:00Z"
    after["metadata"]["resourceVersion"] = "2"
    assert read_node(before) == read_node(after)
    assert read_node(a_node(ready="False")) != read_node(before)
    assert isinstance(read_node(before), Node)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("0.5", Fraction(1, 2)),
        ("500m", Fraction(1, 2)),
        ("32Gi", 32 * 2**30),
        ("1k", 1000),
        ("1E", 10**18),
        ("12e3", 12000),
        ("1E3", 1000),
        ("1E-3", Fraction(1, 1000)),
    ],
)
def test_quantities(text: str, value: Fraction) -> None:
    assert quantity(text) == value


@pytest.mark.parametrize("text", ["", "Gi", "1mi", "1 Gi", "1K", "two"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        quantity(text)

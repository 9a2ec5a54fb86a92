"""Why nothing runs is in targets[].message within a minute, and what a failed pod means for its batch."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from .conftest import Operator, Place, conditions

Object = dict[str, Any]


def target(status: Object) -> Object:
    return (status.get("targets") or [{}])[0]


def says(*words: str, state: str = "Pending") -> Any:
    return lambda status: (
        target(status).get("state") == state and all(word in target(status).get("message", "") for word in words)
    )


def test_a_pod_that_fits_no_node_says_so_in_the_schedulers_words(place: Place, operator: Operator) -> None:
    place.apply(place.profile_document(nodeSelector={"example.com/no-such": "node"}))
    place.apply(place.search_document(stop={"pendingTimeout": "25s"}))
    status = place.until("tuned", says("nodes are available", state="Unschedulable"), "the scheduler's words", 60)
    assert conditions(status)["Degraded"] == ("True", "Unschedulable")
    assert conditions(status)["Progressing"][0] == "True"
    place.wait("tuned", "Failed", 120)
    status = place.search()["status"]
    assert conditions(status)["Failed"] == ("True", "NoTargetRan")
    assert target(status)["state"] == "Failed"
    assert "nodes are available" in target(status)["message"]
    place.wait_until_gone(place.search()["metadata"]["uid"])


def test_an_image_that_cannot_be_pulled_says_so_in_the_kubelets_words(place: Place, operator: Operator) -> None:
    place.image = place.image.partition("@")[0] + "-that-is-not-there:1"
    place.apply(place.profile_document())
    place.apply(place.search_document())
    place.until("tuned", says("that-is-not-there"), "the kubelet's words", 60)
    reasons = [("True", "ErrImagePull"), ("True", "ImagePullBackOff")]
    place.until("tuned", lambda status: conditions(status)["Degraded"] in reasons, "the kubelet's reason", 60)


def test_a_quota_says_so_and_the_batch_starts_when_there_is_room(place: Place, operator: Operator) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": place.pods}}
    place.apply({**quota, "spec": {"hard": {"pods": "0"}}})
    place.apply(place.search_document())
    place.until("tuned", says("exceeded quota"), "the quota's words", 60)
    place.kubectl("-n", place.pods, "delete", "resourcequota", "none")
    place.wait("tuned", "Complete", 180)


@pytest.mark.parametrize(
    ("orders", "reason"),
    [("exit=75", "DeviceFault"), ("exit=3", "JudgeCrashed"), ("cut=1", "LogIncomplete"), ("memory=512", "OutOfMemory")],
)
def test_a_judge_that_fails_is_nobodys_verdict_and_ends_in_a_reason(
    place: Place, operator: Operator, orders: str, reason: str
) -> None:
    place.apply(place.search_document(orders=orders))
    place.wait("tuned", "Failed", 150)
    status = place.search()["status"]
    assert conditions(status)["Failed"][1] in ("NoTargetRan", "HarnessSuspect")
    assert reason in {failure["reason"] for failure in status["failures"]} or reason in target(status)["message"]
    assert status["progress"]["evaluated"] == 0


def test_an_evicted_pod_is_replaced_and_no_attempt_is_lost(place: Place, operator: Operator) -> None:
    place.apply(place.search_document(orders="seconds=6"))
    place.until("tuned", lambda status: status.get("targets"), "a first status")
    uid = place.search()["metadata"]["uid"]
    place.wait_for_pod(uid, "probe")
    pod = next(name for name in place.children(uid) if name.startswith("pod/")).removeprefix("pod/")
    place.kubectl("-n", place.pods, "wait", "pod", pod, "--for=condition=Ready", "--timeout=60s")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": place.pods}}
    path = f"/api/v1/namespaces/{place.pods}/pods/{pod}/eviction"
    place.kubectl("create", "--raw", path, "-f", "-", stdin=eviction)
    place.wait("tuned", "Complete", 180)
    assert place.search()["status"]["failures"] == []


def test_evaluation_pods_are_restricted_and_say_whose_they_are(place: Place, operator: Operator) -> None:
    """The namespace enforces the restricted standard, so a pod that runs has met it; this is what goes beyond."""
    place.apply(place.search_document(orders="seconds=20"))
    place.until("tuned", lambda status: status.get("targets"), "a first status")
    uid = place.search()["metadata"]["uid"]
    place.wait_for_pod(uid, "probe")
    labels = f"kernelsearch.dev/search-uid={uid}"
    place.kubectl("-n", place.pods, "wait", "pod", "-l", labels, "--for=condition=Ready", "--timeout=60s")
    found = place.kubectl("-n", place.pods, "get", "pods", "-l", labels, "-o", "json")
    spec = yaml.safe_load(found)["items"][0]["spec"]
    container = spec["containers"][0]
    assert spec["automountServiceAccountToken"] is False
    assert not any("serviceAccountToken" in str(volume) for volume in spec["volumes"])
    assert spec["securityContext"]["runAsUser"] == 10001
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {"memory", "ephemeral-storage"} <= set(container["resources"]["limits"])
    assert all("sizeLimit" in volume["emptyDir"] for volume in spec["volumes"] if "emptyDir" in volume)
    assert spec["activeDeadlineSeconds"] > 0
    place.kubectl("-n", place.searches, "delete", "kernelsearch", "tuned", "--timeout=60s")

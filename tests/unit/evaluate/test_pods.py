"""What a pod's status means: how the judge ended, or in whose words nothing runs yet."""

from __future__ import annotations

from typing import Any

import pytest
from kernelsearch.evaluate import pods

Object = dict[str, Any]


def a_pod(state: Object | None = None, **status: Any) -> Object:
    containers = [{"name": "judge", "state": state}] if state is not None else []
    return {
        "metadata": {"name": "ks-1-cpu-1-0-abcde"},
        "spec": {"nodeName": "node-a", "containers": [{"name": "judge", "image": "registry.example.com/harness"}]},
        "status": {"containerStatuses": containers, **status},
    }


def terminated(code: int, reason: str = "Error", message: str = "") -> Object:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


DISRUPTED = [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]


@pytest.mark.parametrize(
    ("pod", "infrastructure"),
    [
        pytest.param(a_pod(terminated(0, "Completed", "{}"), phase="Succeeded"), "", id="finished"),
        pytest.param(a_pod(terminated(137, "OOMKilled"), phase="Failed"), "OutOfMemory", id="out of memory"),
        pytest.param(a_pod(terminated(75), phase="Failed"), "DeviceFault", id="device fault"),
        pytest.param(a_pod(terminated(64), phase="Failed"), "InvalidBatch", id="bad batch"),
        pytest.param(a_pod(terminated(139), phase="Failed"), "JudgeCrashed", id="crash"),
        pytest.param(
            a_pod(terminated(137), phase="Failed", reason="DeadlineExceeded"), "DeadlineExceeded", id="out of time"
        ),
        pytest.param(
            a_pod(phase="Failed", reason="DeadlineExceeded"), "DeadlineExceeded", id="out of time, not started"
        ),
        pytest.param(
            a_pod(phase="Failed", reason="Evicted", message="low on disk"), "Evicted", id="evicted, not started"
        ),
        pytest.param(a_pod(terminated(137), phase="Failed", reason="Evicted"), "Evicted", id="evicted while running"),
    ],
)
def test_every_end_of_a_judge_has_its_reason(pod: Object, infrastructure: str) -> None:
    end = pods.judge_end(pod)
    assert end is not None
    assert end.infrastructure == infrastructure


@pytest.mark.parametrize(
    "pod",
    [
        a_pod({"running": {"startedAt": "2030-01-01T00:00:00Z"}}, phase="Running"),
        a_pod({"waiting": {}}, phase="Pending"),
    ],
    ids=["running", "starting"],
)
def test_a_judge_that_may_still_write_has_not_ended(pod: Object) -> None:
    assert pods.judge_end(pod) is None


def test_the_termination_message_is_kept_for_the_check_of_the_log() -> None:
    end = pods.judge_end(a_pod(terminated(0, "Completed", '{"count": 3}'), phase="Succeeded"))
    assert end is not None
    assert end.termination_message == '{"count": 3}'


def test_the_scheduler_speaks_for_itself() -> None:
    words = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    progress = pods.waiting("h100", [a_pod(phase="Pending", conditions=[condition])], [])
    assert (progress.state, progress.message) == ("Unschedulable", f"Unschedulable: {words}")


def test_the_kubelet_speaks_for_itself() -> None:
    wait = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "nowhere/none"'}}
    progress = pods.waiting("cpu", [a_pod(wait, phase="Pending")], [])
    assert progress.message == 'ImagePullBackOff: Back-off pulling image "nowhere/none"'


def test_quota_is_told_by_the_newest_event_of_the_job() -> None:
    events = [
        {"reason": "FailedCreate", "message": "older", "lastTimestamp": "2030-01-01T00:00:00Z"},
        {"reason": "FailedCreate", "message": "exceeded quota: gpus", "lastTimestamp": "2030-01-01T00:00:09Z"},
        {"reason": "SuccessfulCreate", "message": "x", "lastTimestamp": "2030-01-01T00:00:10Z"},
    ]
    progress = pods.waiting("cpu", [], events)
    assert (progress.state, progress.message) == ("Pending", "FailedCreate: exceeded quota: gpus")


def test_a_suspended_job_waits_for_its_queue() -> None:
    job = {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "team-a"}}, "spec": {"suspend": True}}
    progress = pods.waiting("cpu", [], [], job)
    assert progress.state == "Queued"
    assert "team-a" in progress.message


def test_the_replacement_of_an_evicted_pod_is_what_counts() -> None:
    evicted = a_pod(terminated(137), phase="Failed", conditions=DISRUPTED)
    assert pods.is_disrupted(evicted)
    replacement = a_pod({"running": {}}, phase="Running")
    assert pods.waiting("cpu", [evicted, replacement], []).state == "Running"


def test_a_failed_job_gives_its_reason() -> None:
    job = {"status": {"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]}}
    assert pods.job_failure(job) == ("DeadlineExceeded", "DeadlineExceeded")
    assert pods.job_failure({"status": {"active": 1}}) is None


def test_a_message_never_outgrows_the_status() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "x" * 5000}
    assert len(pods.waiting("cpu", [a_pod(conditions=[condition])], []).message) <= 1024

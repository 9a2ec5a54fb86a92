"""Reading a pod: did the judge end and how, and if nothing runs, why. Pure functions over Kubernetes objects.

The pod's container status is the source: a Job's conditions come later and say less. What is returned is meant for
people too, so it keeps the words of the scheduler and of the kubelet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kernelharness.protocol import EXIT_BAD_INPUT, EXIT_DEVICE_FAULT, EXIT_DONE

from kernelsearch.evaluate.base import Progress
from kernelsearch.evaluate.manifests import CONTAINER

Object = dict[str, Any]

IMAGE_WAITS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")


@dataclass(frozen=True)
class JudgeEnd:
    """How the judge's container ended. `infrastructure` is empty when it says that it finished."""

    infrastructure: str
    message: str
    termination_message: str = ""
    has_log: bool = True


def judge_end(pod: Object) -> JudgeEnd | None:
    """None while the judge may still start or write."""
    status = pod.get("status", {})
    terminated = _judge_state(pod).get("terminated")
    if terminated is not None:
        return _terminated(terminated, status)
    if status.get("phase") == "Failed":  # evicted or out of time before its container ran, or its node is gone
        reason = status.get("reason", "")
        infrastructure = "DeadlineExceeded" if reason == "DeadlineExceeded" else "Evicted"
        return JudgeEnd(infrastructure, _sentence(reason or "the pod failed", status.get("message")), has_log=False)
    return None


def is_disrupted(pod: Object) -> bool:
    """Evicted, drained, preempted or lost with its node: the Job replaces it under the same name."""
    return any(
        condition.get("type") == "DisruptionTarget" and condition.get("status") == "True"
        for condition in pod.get("status", {}).get("conditions", [])
    )


def has_started(pod: Object) -> bool:
    """Whether the judge's container runs or ran: from here on the pending timeout no longer counts."""
    state = _judge_state(pod)
    return "running" in state or "terminated" in state


def waiting(target: str, pods: Sequence[Object], job_events: Sequence[Object], job: Object | None = None) -> Progress:
    """Why the judge does not run yet, in the words of whoever holds it up; or that it runs."""
    pod = pods[-1] if pods else None
    if pod is None:
        return _without_pod(target, job_events, job)
    if has_started(pod):
        return Progress(target, "Running", f"pod {pod['metadata']['name']} on {node_of(pod)}")
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        state = "Unschedulable" if scheduled.get("reason") == "Unschedulable" else "Pending"
        return held_up(target, state, scheduled.get("reason"), scheduled.get("message"))
    wait = _judge_state(pod).get("waiting", {})
    if wait.get("message") or wait.get("reason") in IMAGE_WAITS:
        return held_up(target, "Pending", wait.get("reason"), wait.get("message") or _image(pod))
    return Progress(target, "Pending", f"pod {pod['metadata']['name']} is starting on {node_of(pod) or 'no node yet'}")


def held_up(target: str, state: str, reason: Any, message: Any) -> Progress:
    """Nothing runs, and this is why."""
    return Progress(target, state, _sentence(reason, message), reason=str(reason or state))


def node_of(pod: Object) -> str:
    return str(pod.get("spec", {}).get("nodeName", ""))


def job_failure(job: Object) -> tuple[str, str] | None:
    """(infrastructure reason, message) of a Job that failed as a whole, or None."""
    for condition in job.get("status", {}).get("conditions", []):
        if condition.get("type") == "Failed" and condition.get("status") == "True":
            reason = "DeadlineExceeded" if condition.get("reason") == "DeadlineExceeded" else "Evicted"
            return reason, _sentence(condition.get("reason"), condition.get("message"))
    return None


def _terminated(terminated: Object, status: Object) -> JudgeEnd:
    code = terminated.get("exitCode")
    note = str(terminated.get("message", ""))
    if terminated.get("reason") == "OOMKilled":
        return JudgeEnd("OutOfMemory", "the pod used more memory than its profile's limit", note)
    if status.get("reason") == "DeadlineExceeded":
        return JudgeEnd("DeadlineExceeded", "the batch ran longer than its pod may live", note)
    if status.get("reason") == "Evicted":
        return JudgeEnd("Evicted", str(status.get("message", "")), note)
    if code == EXIT_DONE:
        return JudgeEnd("", "", note)
    if code == EXIT_DEVICE_FAULT:
        return JudgeEnd("DeviceFault", note or "the judge found its device or node at fault", note)
    if code == EXIT_BAD_INPUT:
        return JudgeEnd("InvalidBatch", note or "the judge refused the batch document", note)
    return JudgeEnd("JudgeCrashed", f"the judge ended with exit code {code} ({terminated.get('reason', '')})", note)


def _without_pod(target: str, job_events: Sequence[Object], job: Object | None) -> Progress:
    if job is not None and job.get("spec", {}).get("suspend"):
        queue = job["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name", "")
        return held_up(target, "Queued", "NotAdmitted", f"waits for LocalQueue {queue or '?'} to admit its Job")
    refused = [event for event in job_events if event.get("reason") == "FailedCreate"]
    if refused:
        newest = max(refused, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
        return held_up(target, "Pending", "FailedCreate", newest.get("message"))
    return Progress(target, "Pending", "waits for its Job to start a pod")


def _judge_state(pod: Object) -> Object:
    for status in pod.get("status", {}).get("containerStatuses", []):
        if status.get("name") == CONTAINER:
            state: Object = status.get("state", {})
            return state
    return {}


def _condition(pod: Object, kind: str) -> Object:
    conditions = pod.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each.get("type") == kind), {})


def _image(pod: Object) -> str:
    return str(pod["spec"]["containers"][0]["image"])


def _sentence(reason: Any, message: Any) -> str:
    return f"{reason}: {message}"[:1000] if message else str(reason or "")

"""Small restricted pods that run a Python program and are read when they end; for tests of the cluster itself."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any


def restricted_pod(name: str, image: str, program: str, **spec: Any) -> dict[str, Any]:
    """A pod that Pod Security's `restricted` admits; `spec` overrides or adds fields of the pod's spec."""
    mounts = spec.pop("mounts", [])
    security = spec.pop("security", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
                **security,
            },
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": ["python", "-c", program],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                        "readOnlyRootFilesystem": True,
                    },
                    "volumeMounts": mounts,
                }
            ],
            **spec,
        },
    }


def run_pod(kubectl: Callable[..., str], namespace: str, pod: dict[str, Any], patience_s: float = 120.0) -> str:
    """Creates the pod, waits until its container ended, and returns its log; AssertionError if it did not succeed."""
    name = pod["metadata"]["name"]
    kubectl("apply", "--namespace", namespace, "-f", "-", stdin=pod)
    ended = "--for=jsonpath={.status.containerStatuses[0].state.terminated}"
    started = time.monotonic()
    try:
        kubectl("wait", "--namespace", namespace, f"pod/{name}", ended, f"--timeout={patience_s:.0f}s")
    except AssertionError as error:
        waited = time.monotonic() - started
        described = kubectl("describe", "--namespace", namespace, f"pod/{name}")
        raise AssertionError(f"{name} did not end in {waited:.0f} s: {described}") from error
    log = kubectl("logs", "--namespace", namespace, name)
    status = json.loads(kubectl("get", "--namespace", namespace, f"pod/{name}", "-o", "json"))["status"]
    code = status["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    assert code == 0, f"{name} ended with {code}:\n{log}"
    return log

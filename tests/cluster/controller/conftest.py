"""An operator as a process of its own on this machine, against the real cluster, with a judge that does as it is told.

It is the same program that the chart deploys (tests/cluster/test_chart... runs it there); here it can be killed at any
moment and started again within a second. Every test has namespaces, a profile and a journal of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
Object = dict[str, Any]
Kubectl = Callable[..., str]

REFERENCE = "class Model: ...\n"


@dataclass
class Place:
    """Two namespaces and a profile, made for one test."""

    kubectl: Kubectl
    searches: str
    pods: str
    profile: str
    image: str
    home: str = "operator"
    """The operator's own namespace; only the tests that need one make it."""

    def profile_document(self, **scheduling: Any) -> Object:
        resources = {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}
        return {
            "apiVersion": "kernelsearch.dev/v1alpha1",
            "kind": "AcceleratorProfile",
            "metadata": {"name": self.profile},
            "spec": {
                "vendor": "scripted",
                "arch": "none",
                "scheduling": {"resources": resources, **scheduling},
                "toolchains": [{"language": "pytorch", "image": self.image}],
            },
        }

    def search_document(
        self, name: str = "tuned", *, orders: str = "", seed: str = "SPEED = 110  # tune: 110, 120, 150", **spec: Any
    ) -> Object:
        """A search that tunes a seed without a model; `orders` is what the judge is told for every batch."""
        files = [{"path": "reference.py", "content": f"# judge: {orders}\n{REFERENCE}"}]
        document: Object = {
            "apiVersion": "kernelsearch.dev/v1alpha1",
            "kind": "KernelSearch",
            "metadata": {"name": name, "namespace": self.searches},
            "spec": {
                "problem": {
                    "source": {"inline": files},
                    "seeds": [{"language": "pytorch", "content": f"{seed}\n{MODEL}"}],
                },
                "targets": [{"name": "cpu", "profile": self.profile, "language": "pytorch", "batchSize": 2}],
                "budget": {"candidates": 20},
                "verification": {"repeats": 1},
            },
        }
        for key, value in spec.items():
            document["spec"][key] = value
        return document

    def apply(self, document: Object) -> None:
        self.kubectl("apply", "-f", "-", stdin=document)

    def get(self, kind: str, name: str) -> Object | None:
        found = self.kubectl("-n", self.searches, "get", kind, name, "--ignore-not-found", "-o", "json")
        return json.loads(found) if found.strip() else None

    def search(self, name: str = "tuned") -> Object:
        found = self.get("kernelsearch", name)
        assert found is not None, f"there is no KernelSearch {name}"
        return found

    def managed_fields(self, name: str) -> list[Object]:
        """Who owns which fields of a search."""
        found = self.kubectl("-n", self.searches, "get", "kernelsearch", name, "--show-managed-fields", "-o", "json")
        fields: list[Object] = json.loads(found)["metadata"]["managedFields"]
        return fields

    def children(self, uid: str) -> list[str]:
        """kind/name of everything that carries the search's uid in the evaluation namespace."""
        found = self.kubectl(
            "-n", self.pods, "get", "jobs,pods,configmaps", "-l", f"kernelsearch.dev/search-uid={uid}", "-o", "name"
        )
        return found.split()

    def pods_of(self, uid: str, purpose: str = "search") -> set[str]:
        labels = f"kernelsearch.dev/search-uid={uid},kernelsearch.dev/purpose={purpose}"
        return set(self.kubectl("-n", self.pods, "get", "pods", "-l", labels, "-o", "name").split())

    def wait_until_gone(self, uid: str, seconds: float = 60) -> None:
        """Nothing that carries the search's uid is left; the garbage collector takes a moment."""
        deadline = time.monotonic() + seconds
        while left := self.children(uid):
            assert time.monotonic() < deadline, f"after {seconds} s there still is {left}"
            time.sleep(0.5)

    def wait_for_pod(self, uid: str, purpose: str = "search") -> None:
        """A pod of this search exists."""
        labels = f"kernelsearch.dev/search-uid={uid},kernelsearch.dev/purpose={purpose}"
        self.kubectl("-n", self.pods, "wait", "pod", "-l", labels, "--for=create", "--timeout=60s")

    def wait(self, name: str, condition: str, seconds: int = 120) -> None:
        """kubectl wait, showing the status when it was in vain."""
        try:
            self.kubectl(
                "-n",
                self.searches,
                "wait",
                "kernelsearch",
                name,
                f"--for=condition={condition}",
                f"--timeout={seconds}s",
            )
        except AssertionError:
            raise AssertionError(f"{name} is not {condition}: {json.dumps(self.search(name).get('status'))}") from None

    def until(self, name: str, holds: Callable[[Object], Any], what: str, seconds: float = 90) -> Object:
        """The status as soon as `holds(status)`, from a watch of the object."""
        return watch_until(self.kubectl, self.searches, name, holds, what, seconds)


MODEL = """import torch


class ModelNew(torch.nn.Module):
    def forward(self, x):
        return x
"""


def watch_until(
    kubectl: Kubectl, namespace: str, name: str, holds: Callable[[Object], Any], what: str, seconds: float
) -> Object:
    status: Object = {}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = kubectl("-n", namespace, "get", "kernelsearch", name, "--ignore-not-found", "-o", "json")
        status = (json.loads(found).get("status") or {}) if found.strip() else {}
        if holds(status):
            return status
        time.sleep(0.3)
    raise AssertionError(f"{name}: {what} was not seen within {seconds} s; its status is {json.dumps(status)}")


def probed(status: Object) -> bool:
    return any(target.get("device") for target in status.get("targets") or [])


def conditions(status: Object) -> dict[str, tuple[str, str]]:
    return {each["type"]: (each["status"], each["reason"]) for each in status.get("conditions", [])}


@dataclass
class Operator:
    """The operator's process. `start` again after `kill` takes the same journal up."""

    environment: dict[str, str]
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    ports: tuple[int, int] = (0, 0)
    starts: int = 0
    logs: list[Path] = field(default_factory=list)

    def start(self) -> None:
        self.starts += 1
        self.ports = (free_port(), free_port())
        self.logs.append(self.folder / f"operator-{self.starts}.log")
        command = shutil.which("kernelsearch", path=str(Path(sys.executable).parent))
        assert command, "the kernelsearch command is not installed beside this Python"
        environment = {
            **self.environment,
            "KERNELSEARCH_LIVENESS_PORT": str(self.ports[0]),
            "KERNELSEARCH_METRICS_PORT": str(self.ports[1]),
        }
        with self.logs[-1].open("wb") as log:
            self.process = subprocess.Popen([command, "operator"], env=environment, stdout=log, stderr=log)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send the signal and return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def log(self) -> str:
        return "".join(path.read_text(errors="replace") for path in self.logs)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def crds(kubectl: Kubectl) -> None:
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "kernelsearches.kernelsearch.dev")


@pytest.fixture(scope="session")
def scripted_judge(build_image: Callable[[str], str]) -> str:
    """Reference of the image of scripted_judge/."""
    return build_image("scripted-judge")


@pytest.fixture
def place(kubectl: Kubectl, crds: None, scripted_judge: str) -> Iterator[Place]:
    mark = uuid.uuid4().hex[:8]
    place = Place(kubectl, f"searches-{mark}", f"pods-{mark}", f"scripted-{mark}", scripted_judge)
    for namespace in (place.searches, place.pods):
        kubectl("create", "namespace", namespace)
    kubectl("label", "namespace", place.pods, "pod-security.kubernetes.io/enforce=restricted")
    place.apply(place.profile_document())
    yield place
    held = kubectl("-n", place.searches, "get", "kernelsearch", "-o", "name").split()
    for name in held:  # no operator is left to take its finalizer off
        kubectl("-n", place.searches, "patch", name, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    kubectl("delete", "namespace", place.searches, place.pods, "--wait=false")
    kubectl("delete", "acceleratorprofile", place.profile)


@pytest.fixture
def operator(place: Place, cluster: dict[str, str], tmp_path: Path) -> Iterator[Operator]:
    """A running operator; it is killed when the test ends, and its log shown when the test failed."""
    served = [{"name": place.searches, "evaluationNamespace": place.pods}]
    environment = {
        **os.environ,
        "KUBECONFIG": cluster["KUBECONFIG"],
        "KERNELSEARCH_DATABASE": str(tmp_path / "journal.db"),
        "KERNELSEARCH_NAMESPACE": place.home,
        "KERNELSEARCH_SEARCH_NAMESPACES": json.dumps(served),
        "KERNELSEARCH_LOG_LEVEL": "INFO",
    }
    operator = Operator(environment, tmp_path)
    operator.start()
    yield operator
    if operator.process is not None and operator.process.poll() is None:
        operator.kill()
    print(operator.log())

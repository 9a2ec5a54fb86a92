"""The cluster of these tests: dev/cluster, brought up when it is not, or the one that KERNELSEARCH_KUBECONFIG names."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kernelsearch.api.resources import KINDS
from kubernetes import client, config

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            if item.get_closest_marker("timeout") is None:
                # Of the test alone: what fixtures build the first time takes as long as gigabytes do to arrive.
                item.add_marker(pytest.mark.timeout(func_only=True))


def _environment() -> dict[str, str]:
    """What `eval "$(dev/cluster/env)"` would set: KUBECONFIG, and a PATH with kubectl and helm."""
    printed = subprocess.run([ROOT / "dev/cluster/env"], check=True, capture_output=True, text=True).stdout
    assignments = [word for word in shlex.split(printed) if "=" in word]
    found = dict(assignment.split("=", 1) for assignment in assignments)
    found["PATH"] = found["PATH"].replace("$PATH", os.environ["PATH"])
    return {**os.environ, **found}


@pytest.fixture(scope="session")
def programs() -> dict[str, str]:
    """The environment in which kubectl and helm are found; they are built first where they are missing."""
    environment = _environment()
    if not all(shutil.which(program, path=environment["PATH"]) for program in ("kubectl", "helm")):
        subprocess.run([ROOT / "dev/cluster/build"], check=True)
    return environment


@pytest.fixture(scope="session")
def helm(programs: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs helm in the repository's root; the caller looks at the exit status."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["helm", *arguments], cwd=ROOT, env=programs, capture_output=True, text=True)

    return run


@pytest.fixture(scope="session")
def cluster(programs: dict[str, str]) -> dict[str, str]:
    """The environment of a cluster that answers."""
    subprocess.run([ROOT / "dev/cluster/up"], check=True)
    return programs


@pytest.fixture(scope="session")
def kubectl(cluster: dict[str, str]) -> Callable[..., str]:
    """Runs kubectl and returns its standard output; `stdin` is a document for `-f -`. Fails with kubectl's message."""

    def run(*arguments: str, stdin: str | dict[str, Any] | None = None) -> str:
        document = json.dumps(stdin) if isinstance(stdin, dict) else stdin
        done = subprocess.run(
            ["kubectl", *arguments], cwd=ROOT, env=cluster, input=document, capture_output=True, text=True
        )
        assert done.returncode == 0, f"kubectl {shlex.join(arguments)}: {done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def build_image(cluster: dict[str, str]) -> Callable[[str], str]:
    """Builds an image from this working tree, pushes it and returns its reference, by digest."""
    if "KERNELSEARCH_KUBECONFIG" in os.environ and "KERNELSEARCH_REGISTRY" not in os.environ:
        pytest.fail("set KERNELSEARCH_REGISTRY to a registry that the cluster of KERNELSEARCH_KUBECONFIG pulls from")

    def build(name: str) -> str:
        command = [ROOT / "dev/cluster/images", name]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        return dict(line.split() for line in printed.splitlines())[name]

    return build


@pytest.fixture(scope="session")
def harness_image(build_image: Callable[[str], str]) -> str:
    return build_image("harness")


@pytest.fixture(scope="session")
def operator_image(build_image: Callable[[str], str]) -> str:
    return build_image("operator")


@pytest.fixture
def namespace(kubectl: Callable[..., str]) -> Iterator[str]:
    """A namespace of the test's own, where Pod Security enforces `restricted`; it goes when the test ends."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def crds(cluster: dict[str, str], helm: Callable[..., subprocess.CompletedProcess[str]]) -> list[str]:
    """Both CRDs, established, as the chart installs them; they stay, as they do for everybody else."""
    release = [
        "kernelsearch-crds",
        "helm/kernelsearch-crds",
        "--namespace",
        "kernelsearch-system",
        "--create-namespace",
    ]
    done = helm("upgrade", "--install", *release, "--take-ownership", "--force-conflicts")
    assert done.returncode == 0, done.stderr
    names = [model.resource.crd_name for model in KINDS]
    wait = ["kubectl", "wait", "--for=condition=Established", "--timeout=60s", "crd", *names]
    subprocess.run(wait, env=cluster, check=True, capture_output=True)
    return names


@pytest.fixture(scope="session")
def api(cluster: dict[str, str]) -> Iterator[client.ApiClient]:
    """A client with all rights in the cluster."""
    configuration = client.Configuration()
    config.load_kube_config(config_file=cluster["KUBECONFIG"], client_configuration=configuration)
    with client.ApiClient(configuration) as api_client:
        yield api_client


@pytest.fixture(scope="session")
def host_address(kubectl: Callable[..., str]) -> str:
    """This machine's address as pods of dev/cluster see it."""
    node = kubectl("get", "node", "node", "-o", "jsonpath={.status.addresses[0].address}")
    routed = subprocess.run(["ip", "-json", "route", "get", node], check=True, capture_output=True, text=True).stdout
    return str(json.loads(routed)[0]["prefsrc"])

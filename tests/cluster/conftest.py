"""The cluster of these tests: dev/cluster, brought up when it is not, or the one that KERNELSEARCH_KUBECONFIG names."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubernetes import client, config

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)


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
def api(cluster: dict[str, str]) -> Iterator[client.ApiClient]:
    """A client with all rights in the cluster."""
    configuration = client.Configuration()
    config.load_kube_config(config_file=cluster["KUBECONFIG"], client_configuration=configuration)
    with client.ApiClient(configuration) as api_client:
        yield api_client

"""Before the operator is uninstalled, no search may be left with a finalizer that nobody will ever take off."""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from kernelsearch.controller.suspend_all import NOTE, suspend_all
from kernelsearch.evaluate.kube import SEARCHES, Kube
from kubernetes.aio import client, config

OURS = "kernelsearch.dev/controller"
FOREIGN = "example.com/backup"


@pytest.fixture(scope="module")
def namespaces(cluster: dict[str, str], crds: list[str]) -> Iterator[tuple[str, str]]:
    """Two namespaces of this test alone."""
    served, other = (f"suspend-all-{uuid.uuid4().hex[:6]}" for _ in range(2))
    for name in (served, other):
        subprocess.run(["kubectl", "create", "namespace", name], env=cluster, check=True, capture_output=True)
    yield served, other
    subprocess.run(["kubectl", "delete", "namespace", "--wait=false", served, other], env=cluster, check=True)


@pytest.fixture
def namespace(namespaces: tuple[str, str]) -> str:
    return namespaces[0]


@pytest_asyncio.fixture
async def kube(cluster: dict[str, str]) -> AsyncIterator[Kube]:
    configuration = client.Configuration()
    await config.load_kube_config(cluster["KUBECONFIG"], client_configuration=configuration)
    connected = Kube(client.ApiClient(configuration), patience_seconds=30)
    yield connected
    await connected.close()


async def create(kube: Kube, namespace: str, *finalizers: str) -> str:
    name = f"search-{uuid.uuid4().hex[:6]}"
    body = {
        "apiVersion": "kernelsearch.dev/v1alpha1",
        "kind": "KernelSearch",
        "metadata": {"name": name, "finalizers": list(finalizers)},
        "spec": {
            "problem": {"source": {"configMap": {"name": "p"}}, "seeds": [{"language": "cpp", "content": "x"}]},
            "targets": [{"name": "t", "profile": "none-of-this-name", "language": "cpp"}],
            "budget": {"candidates": 1},
        },
    }
    await kube.create(SEARCHES, namespace, body)
    return name


async def finish(kube: Kube, namespace: str, name: str) -> None:
    await kube.merge(SEARCHES, namespace, name, {"metadata": {"finalizers": []}})
    await kube.delete(SEARCHES, namespace, name)


async def read(kube: Kube, namespace: str, name: str) -> tuple[bool, list[str], dict[str, Any]]:
    found = await kube.get(SEARCHES, namespace, name)
    metadata = found["metadata"]
    return found["spec"]["suspend"], metadata.get("finalizers") or [], metadata.get("annotations") or {}


async def test_an_operator_that_lets_go_is_waited_for(namespace: str, kube: Kube) -> None:
    active = await create(kube, namespace, OURS)
    suspending = asyncio.create_task(suspend_all(kube, [namespace], patience_seconds=60))
    _, version = await kube.list_all(SEARCHES, namespace)
    while not (await read(kube, namespace, active))[0]:
        async for _ in kube.watch(SEARCHES, namespace, resource_version=version, seconds=5):
            break
    assert not suspending.done(), "it must wait until the finalizer is gone"
    await kube.merge(SEARCHES, namespace, active, {"metadata": {"finalizers": []}})
    await suspending
    assert await read(kube, namespace, active) == (True, [], {NOTE: "uninstall"})
    await finish(kube, namespace, active)


async def test_an_operator_that_does_not_let_go_is_released_of_its_finalizer_only(namespace: str, kube: Kube) -> None:
    active = await create(kube, namespace, OURS, FOREIGN)
    await suspend_all(kube, [namespace], patience_seconds=1)
    assert await read(kube, namespace, active) == (True, [FOREIGN], {NOTE: "uninstall"})
    await finish(kube, namespace, active)


async def test_finished_searches_and_other_namespaces_are_left_alone(namespaces: tuple[str, str], kube: Kube) -> None:
    namespace, other = namespaces
    finished = await create(kube, namespace)
    elsewhere = await create(kube, other, OURS)
    try:
        await suspend_all(kube, [namespace], patience_seconds=30)
        assert await read(kube, namespace, finished) == (False, [], {})
        assert (await read(kube, other, elsewhere))[1] == [OURS]
    finally:
        await finish(kube, namespace, finished)
        await finish(kube, other, elsewhere)

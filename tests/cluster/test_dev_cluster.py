"""What dev/cluster promises to what runs in it: names, storage, security, and no way out of this machine.

Nothing here ever sends to an outside address. Where a test needs one, it gives an address reserved for documentation
to this machine's own loopback first: a cluster that leaked would reach that, and nothing else.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

from .pods import restricted_pod, run_pod

Kubectl = Callable[..., str]

# Tries to connect to each address:port in turn, and prints what came of it as JSON.
CONNECT = """
import errno, json, socket
found = {}
for target in %r:
    address, port = target.rsplit(":", 1)
    with socket.socket() as s:
        s.settimeout(5)
        try:
            s.connect((address, int(port)))
            found[target] = "connected"
        except OSError as error:
            found[target] = errno.errorcode.get(error.errno, str(error))
interfaces = sorted(line.split()[5] for line in open("/proc/net/if_inet6"))
routes = [line.split()[:3] for line in open("/proc/net/route")][1:]
print(json.dumps({"found": found, "interfaces": interfaces, "routes": routes}))
"""

own_cluster = pytest.mark.skipif(
    "KERNELSEARCH_KUBECONFIG" in os.environ, reason="a property of dev/cluster, and another cluster was given"
)


@pytest.fixture
def outside() -> Iterator[str]:
    """address:port of a listener that is this machine's own but looks, to a router, like one beyond it."""
    address = "198.51.100.1"  # TEST-NET-2
    subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    try:
        with socket.create_server((address, 0)) as listener:
            yield f"{address}:{listener.getsockname()[1]}"
    finally:
        subprocess.run(["ip", "address", "delete", f"{address}/32", "dev", "lo"], check=True)


def test_a_pod_resolves_names_of_services_and_no_others(kubectl: Kubectl, operator_image: str, namespace: str) -> None:
    program = """
import socket
print(socket.gethostbyname("kubernetes.default.svc.cluster.local"))
print(socket.gethostbyname("kubernetes.default"))
try:
    print(socket.gethostbyname("example.invalid."))
except socket.gaierror:
    print("unknown")
"""
    service = kubectl("get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}")
    log = run_pod(kubectl, namespace, restricted_pod("names", operator_image, program))
    assert log.split() == [service, service, "unknown"]


def test_a_restricted_pod_runs_the_image_from_the_local_registry_as_nobody(
    kubectl: Kubectl, operator_image: str, namespace: str
) -> None:
    program = """
import os
print(os.getuid())
try:
    open("/written", "w")
except OSError as error:
    print(error.strerror)
"""
    log = run_pod(kubectl, namespace, restricted_pod("nobody", operator_image, program))
    assert log.splitlines() == ["10001", "Read-only file system"]


def test_a_pod_that_wants_to_be_root_is_refused(kubectl: Kubectl, operator_image: str, namespace: str) -> None:
    pod = restricted_pod("root", operator_image, "", security={"runAsNonRoot": False, "runAsUser": 0})
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        kubectl("apply", "--namespace", namespace, "-f", "-", stdin=pod)


@pytest.mark.parametrize("mode", ["ReadWriteOnce", "ReadWriteOncePod"])
def test_a_claim_binds_and_belongs_to_the_group_of_the_pod(
    kubectl: Kubectl, operator_image: str, namespace: str, mode: str
) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}},
    }
    kubectl("apply", "--namespace", namespace, "-f", "-", stdin=claim)
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    mounts = [{"name": "data", "mountPath": "/data"}]

    def pod(name: str, program: str) -> dict[str, object]:
        return restricted_pod(
            name, operator_image, program, volumes=volumes, mounts=mounts, security={"fsGroup": 10001}
        )

    write = 'import os; open("/data/kept", "w").write("still here"); print(os.stat("/data").st_gid)'
    assert run_pod(kubectl, namespace, pod("write", write)).strip() == "10001"
    kubectl("delete", "--namespace", namespace, "pod/write")
    assert run_pod(kubectl, namespace, pod("read", 'print(open("/data/kept").read())')).strip() == "still here"


@own_cluster
def test_a_pod_reaches_this_machine_but_nothing_beyond_it(
    kubectl: Kubectl, operator_image: str, namespace: str, outside: str, host_address: str
) -> None:
    with socket.create_server((host_address, 0)) as listener:
        here = f"{host_address}:{listener.getsockname()[1]}"
        program = CONNECT % ([here, outside],)
        found = json.loads(run_pod(kubectl, namespace, restricted_pod("out", operator_image, program)))["found"]
    assert found[here] == "connected"
    assert found[outside] in ("ENETUNREACH", "EHOSTUNREACH")


@own_cluster
def test_an_isolated_pod_reaches_neither_node_nor_service_nor_another_isolated_pod(
    kubectl: Kubectl, operator_image: str, namespace: str, outside: str, host_address: str
) -> None:
    service = kubectl("get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}")
    node = kubectl("get", "node", "node", "-o", "jsonpath={.status.addresses[0].address}")
    dns = kubectl("get", "service", "kube-dns", "-n", "kube-system", "-o", "jsonpath={.spec.clusterIP}")
    gateway = ".".join([*node.split(".")[:2], "0", "1"])
    targets = [f"{service}:443", f"{node}:6443", f"{node}:10250", f"{gateway}:6443", f"{dns}:53", outside]
    targets += [f"{host_address}:5000", "169.254.169.254:80"]
    program = CONNECT % (targets,)
    pod = restricted_pod("isolated", operator_image, program, runtimeClassName="isolated")
    seen = json.loads(run_pod(kubectl, namespace, pod))
    assert seen["found"] == dict.fromkeys(targets, "ENETUNREACH")
    assert seen["routes"] == []
    assert set(seen["interfaces"]) <= {"lo"}

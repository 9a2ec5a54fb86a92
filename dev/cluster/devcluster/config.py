"""The files that containerd, the kubelet, kube-proxy, the CNI plugins and the registry read."""

import json
from pathlib import Path
from typing import Any

from devcluster import binaries, pki
from devcluster.instance import REGISTRY_PORT, Instance

# Inside the sandbox /run is an empty file system of its own: what lies there is gone with the sandbox, and cannot be
# stale when the next one starts.
RUN = Path("/run/kernelsearch")
CNI_PLUGINS = Path("/usr/lib/cni")


def folder(instance: Instance) -> Path:
    return instance.state / "config"


def files(instance: Instance) -> dict[str, str]:
    """Every file by its name below `folder`."""
    return {
        "containerd.toml": _containerd(instance),
        "kubelet.json": json.dumps(_kubelet(instance), indent=1),
        "kube-proxy.json": json.dumps(_proxy(instance), indent=1),
        "registry.yml": _registry(instance, "0.0.0.0"),
        "registry-on-host.yml": _registry(instance, "127.0.0.1"),
        "cni/pods.conflist": json.dumps(_pod_network(instance), indent=1),
        "cni-isolated/isolated.conflist": json.dumps(_isolated_network(instance), indent=1),
    }


def write(instance: Instance) -> None:
    for name, text in files(instance).items():
        path = folder(instance) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # kube-proxy ends when its file is touched, changed or not.
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _containerd(instance: Instance) -> str:
    return f"""\
version = 3
root = "{instance.state}/containerd"
state = "{RUN}/containerd"
[grpc]
  address = "{instance.containerd_socket}"
[plugins.'io.containerd.cri.v1.images']
  discard_unpacked_layers = true   # the registry keeps them; torch is gigabytes
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{binaries.IMAGES["pause"]}'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true    # where CAP_SYS_RESOURCE is missing, every pod would fail otherwise
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{CNI_PLUGINS}"]
    conf_dir = "{folder(instance)}/cni"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.isolated]
    runtime_type = "io.containerd.runc.v2"
    cni_conf_dir = "{folder(instance)}/cni-isolated"
"""


def _kubelet(instance: Instance) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{instance.containerd_socket}",
        "authentication": {
            "x509": {"clientCAFile": str(pki.folder(instance) / "ca.crt")},
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDNS": [instance.dns_service],
        "clusterDomain": "cluster.local",
        "resolvConf": "/dev/null",  # pods know no name server but the cluster's
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{instance.cgroup}",  # two kubelets with one root would kill each other's pods
        "failCgroupV1": False,
        "failSwapOn": False,
        "podLogsDir": str(instance.logs / "pods"),
        "volumePluginDir": str(instance.state / "volume-plugins"),
        "serializeImagePulls": False,
        "podPidsLimit": 4096,
        # A developer's disk is often nearly full, and images are ours to remove.
        "evictionHard": {"imagefs.available": "1%", "nodefs.available": "1%", "memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
    }


def _proxy(instance: Instance) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(pki.kubeconfig(instance, "kube-proxy"))},
        "mode": "iptables",
        "clusterCIDR": instance.pods,
        "hostnameOverride": "node",
        "bindAddress": instance.node,
        # These are settings of the whole machine, not of a network namespace: leave them as they are.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def _registry(instance: Instance, address: str) -> str:
    return json.dumps(  # JSON is YAML
        {
            "version": "0.1",
            "log": {"accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(instance.cache / "registry")},
                "delete": {"enabled": True},
            },
            "http": {"addr": f"{address}:{REGISTRY_PORT}"},
        }
    )


def _pod_network(instance: Instance) -> dict[str, Any]:
    # Routed pairs rather than a bridge: all traffic between pods passes the node's rules, so services work both ways
    # without bridge netfilter, which not every kernel has.
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": instance.pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(RUN / "ipam"),
    }
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {"type": "ptp", "ipMasq": False, "ipam": ipam},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def _isolated_network(instance: Instance) -> dict[str, Any]:
    # An address of its own and nothing beside it: no route, no neighbour, no IPv6; and the bridge it hangs on leads
    # nowhere (network.py).
    return {
        "cniVersion": "1.0.0",
        "name": "isolated",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "nowhere",
                "isGateway": False,
                "ipMasq": False,
                "ipam": {"type": "static", "addresses": [{"address": f"{instance.isolated_pod}/32"}]},
            },
            {"type": "tuning", "sysctl": {"net.ipv6.conf.eth0.disable_ipv6": "1"}},
        ],
    }

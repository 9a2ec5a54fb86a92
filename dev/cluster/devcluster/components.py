"""The processes of a cluster: what each one is called with, and what must answer before it is started."""

from dataclasses import dataclass
from pathlib import Path

from devcluster import binaries, config, pki
from devcluster.instance import Instance


@dataclass(frozen=True)
class Component:
    """A process that the supervisor keeps running; its log is `<name>.log`."""

    name: str
    command: tuple[str, ...]
    after_api: bool = False  # it would give up rather than wait for the API server
    on_host: bool = False  # it listens on this machine's own loopback


def components(instance: Instance) -> list[Component]:
    """In the order in which they are started."""
    programs = binaries.folder(instance)
    keys, settings, state = pki.folder(instance), config.folder(instance), instance.state

    def program(name: str, **flags: str | Path | int) -> tuple[str, ...]:
        return (str(programs / name), *(f"--{flag.replace('_', '-')}={value}" for flag, value in flags.items()))

    def registry(name: str) -> tuple[str, ...]:
        return ("docker-registry", "serve", str(settings / f"{name}.yml"))

    etcd = program(
        "etcd",
        data_dir=state / "etcd",
        unsafe_no_fsync="true",  # a crash of the machine may lose the cluster; a crash of etcd does not
        listen_client_urls="http://127.0.0.1:2379",
        advertise_client_urls="http://127.0.0.1:2379",
        listen_peer_urls="http://127.0.0.1:2380",
        log_level="warn",
    )
    api_server = program(
        "kube-apiserver",
        etcd_servers="http://127.0.0.1:2379",
        advertise_address=instance.node,
        secure_port=6443,
        service_cluster_ip_range=instance.services,
        client_ca_file=keys / "ca.crt",
        tls_cert_file=keys / "kube-apiserver.crt",
        tls_private_key_file=keys / "kube-apiserver.key",
        service_account_issuer="https://kubernetes.default.svc",
        service_account_key_file=keys / "service-accounts.key",
        service_account_signing_key_file=keys / "service-accounts.key",
        kubelet_client_certificate=keys / "admin.crt",
        kubelet_client_key=keys / "admin.key",
        kubelet_preferred_address_types="InternalIP",
        authorization_mode="Node,RBAC",
        enable_admission_plugins="NodeRestriction",
        allow_privileged="true",
    )
    controllers = program(
        "kube-controller-manager",
        kubeconfig=pki.kubeconfig(instance, "kube-controller-manager"),
        use_service_account_credentials="true",
        service_account_private_key_file=keys / "service-accounts.key",
        root_ca_file=keys / "ca.crt",
        cluster_signing_cert_file=keys / "ca.crt",
        cluster_signing_key_file=keys / "ca.key",
        leader_elect="false",
    )
    scheduler = program("kube-scheduler", kubeconfig=pki.kubeconfig(instance, "kube-scheduler"), leader_elect="false")
    kubelet = program(
        "kubelet",
        config=settings / "kubelet.json",
        kubeconfig=pki.kubeconfig(instance, "kubelet"),
        hostname_override="node",
        node_ip=instance.node,
        root_dir=state / "kubelet",
        cert_dir=state / "kubelet" / "pki",
    )
    proxy = program("kube-proxy", config=settings / "kube-proxy.json")
    host_registry = [Component("registry-on-host", registry("registry-on-host"), on_host=True)]
    return [
        Component("etcd", etcd),
        Component("kube-apiserver", api_server),
        # containerd finds its shim, runc and the CNI plugins' iptables on the path.
        Component("containerd", program("containerd", config=settings / "containerd.toml")),
        Component("registry", registry("registry")),
        *(host_registry if instance.serves_registry else []),
        Component("kubelet", kubelet, after_api=True),
        Component("kube-controller-manager", controllers, after_api=True),
        Component("kube-scheduler", scheduler, after_api=True),
        Component("kube-proxy", proxy, after_api=True),
    ]

"""Certificates of the cluster, and the kubeconfigs that carry them. Made once per state folder, by openssl."""

import base64
import json
import os
import shutil
from pathlib import Path

from devcluster.instance import Instance
from devcluster.progress import run

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_DAYS = ("-days", "3650")
# who -> subject that RBAC or the node authorizer knows
_USERS = {
    "admin": "/O=system:masters/CN=admin",
    "kube-controller-manager": "/CN=system:kube-controller-manager",
    "kube-scheduler": "/CN=system:kube-scheduler",
    "kube-proxy": "/CN=system:kube-proxy",
    "kubelet": "/O=system:nodes/CN=system:node:node",
}


def folder(instance: Instance) -> Path:
    return instance.state / "pki"


def kubeconfig(instance: Instance, user: str) -> Path:
    return instance.kubeconfig if user == "admin" else folder(instance) / f"{user}.kubeconfig"


def write(instance: Instance) -> None:
    """Makes certificates if there are none, and writes every kubeconfig. All or nothing, by one rename."""
    done = folder(instance)
    if not done.exists():
        work = done.with_suffix(".partial")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(mode=0o700, parents=True)
        run("openssl", "req", "-x509", *_KEY, *_DAYS, "-subj", "/CN=dev-cluster", *_out(work, "ca", "out"))
        run("openssl", "genrsa", "-out", work / "service-accounts.key", "2048")
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")
        addresses = (instance.api_service, instance.node, "127.0.0.1")
        hosts = ",".join([*(f"DNS:{name}" for name in names), *(f"IP:{address}" for address in addresses)])
        _sign(work, "kube-apiserver", "/CN=kube-apiserver", f"subjectAltName={hosts}")
        for user, subject in _USERS.items():
            _sign(work, user, subject, "extendedKeyUsage=clientAuth")
        work.rename(done)
    for user in _USERS:
        _write_kubeconfig(instance, user)


def _out(work: Path, name: str, certificate: str) -> tuple[str | Path, ...]:
    suffix = "crt" if certificate == "out" else "csr"
    return ("-keyout", work / f"{name}.key", "-out", work / f"{name}.{suffix}")


def _sign(work: Path, name: str, subject: str, extension: str) -> None:
    run("openssl", "req", *_KEY, "-subj", subject, *_out(work, name, "request"))
    extensions = work / f"{name}.ext"
    extensions.write_text(extension + "\n")
    run(
        *("openssl", "x509", "-req", *_DAYS, "-in", work / f"{name}.csr", "-out", work / f"{name}.crt"),
        *("-CA", work / "ca.crt", "-CAkey", work / "ca.key", "-CAcreateserial", "-extfile", extensions),
    )


def _write_kubeconfig(instance: Instance, user: str) -> None:
    pki = folder(instance)

    def data(name: str) -> str:
        return base64.b64encode((pki / name).read_bytes()).decode()

    name = instance.cgroup
    config = {  # JSON is YAML
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [
            {
                "name": name,
                "cluster": {"server": f"https://{instance.node}:6443", "certificate-authority-data": data("ca.crt")},
            }
        ],
        "users": [
            {
                "name": user,
                "user": {"client-certificate-data": data(f"{user}.crt"), "client-key-data": data(f"{user}.key")},
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
    }
    path = kubeconfig(instance, user)
    partial = path.with_name(path.name + ".partial")
    partial.touch(mode=0o600)
    partial.write_text(json.dumps(config, indent=1) + "\n")
    os.replace(partial, path)

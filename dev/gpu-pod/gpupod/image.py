"""An image that stands in for the harness image on a machine where none can be built or pulled.

It holds the judge's code, as the real one does at the same place, and empty folders: the machine's own Python, torch
and compilers are mounted there from the host. That, and nothing else, is what such a pod has more than a real one
(`with_machine`). Search paths and CUDA's settings are this machine's, as a vendor's base image would set them.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from devcluster import binaries
from devcluster.instance import REPOSITORY, Instance
from devcluster.progress import run

from gpupod.node import DRIVER_LIBRARIES

Object = dict[str, Any]

NAME = "localhost/kernelsearch/harness:machine"
CODE = "/opt/kernelsearch"
EXTRA = "/opt/python-packages"
"""Where the pack's Python packages are mounted."""
_ROOT_LINKS = ("bin", "sbin", "lib", "lib64")
_FOLDERS = ("batch", "dev", "etc", "opt", "proc", "run", "sys", "tmp", "var/tmp")
_COPIED = ("etc/alternatives", "etc/ld.so.cache", "etc/ld.so.conf.d")
_WRITTEN = {
    "etc/passwd": "root:x:0:0::/root:/bin/sh\nkernelsearch:x:10001:10001::/tmp:/bin/sh\n",
    "etc/group": "root:x:0:\nkernelsearch:x:10001:\n",
}
_SETTINGS = ("PATH", "LD_LIBRARY_PATH", "CUDA", "NCCL_", "NVSHMEM_", "TORCH_", "TRITON_")
"""Of the environment: whatever begins so."""


def mounts(packages: Path | None) -> dict[str, str]:
    """Path in the pod -> path on this machine: what holds Python, torch, compilers and the given packages."""
    wanted = {"/usr", sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix)}
    for module in ("torch", "numpy", "pydantic"):
        spec = importlib.util.find_spec(module)
        if spec and spec.origin and (packages is None or not Path(spec.origin).is_relative_to(packages)):
            wanted.add(str(Path(spec.origin).parent.parent))
    if nvcc := shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc"):
        wanted.add(str(Path(nvcc).resolve().parent.parent))
    roots = {path: path for path in sorted(wanted) if not any(path.startswith(f"{other}/") for other in wanted)}
    return roots | ({EXTRA: str(packages)} if packages else {})


def environment(packages: Path | None) -> dict[str, str]:
    """What the image sets, and what a judge outside gets too."""
    machine = {key: value for key, value in os.environ.items() if key.startswith(_SETTINGS)}
    path = [str(Path(sys.executable).parent), *machine.get("PATH", os.defpath).split(":")]
    libraries = [*filter(None, machine.get("LD_LIBRARY_PATH", "").split(":")), DRIVER_LIBRARIES]
    return {
        **machine,
        "PATH": ":".join(dict.fromkeys(path)),
        "LD_LIBRARY_PATH": ":".join(dict.fromkeys(libraries)),
        "PYTHONPATH": ":".join([CODE, *([EXTRA] if packages else [])]),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def load(own: Instance, packages: Path | None) -> None:
    """Make the image and give it to the node's container runtime."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "image.tar"
        archive.write_bytes(_archive(_layer(Path(folder), mounts(packages)), environment(packages)))
        ctr = (binaries.folder(own) / "ctr", "--address", own.containerd_socket, "--namespace", "k8s.io")
        run(*ctr, "images", "import", archive)


def with_machine(job: Object, packages: Path | None) -> Object:
    """The Job, with this machine's Python and compilers mounted into its pod; nothing else is changed."""
    job = copy.deepcopy(job)
    pod = job["spec"]["template"]["spec"]
    for index, (inside, outside) in enumerate(mounts(packages).items()):
        pod["volumes"].append({"name": f"machine-{index}", "hostPath": {"path": outside, "type": "Directory"}})
        mount = {"name": f"machine-{index}", "mountPath": inside, "readOnly": True}
        pod["containers"][0]["volumeMounts"].append(mount)
    return job


def _layer(work: Path, mount_points: Iterable[str]) -> bytes:
    code = work / "code"
    shutil.copytree(REPOSITORY / "harness-image" / "kernelharness", code / "kernelharness")
    # As in the Dockerfile: the root is read-only in a pod.
    compile_all = ("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(code))
    subprocess.run([sys.executable, *compile_all], check=True)
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for path in dict.fromkeys([*_FOLDERS, *(point.lstrip("/") for point in mount_points)]):
            folder = tarfile.TarInfo(path)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if path.endswith("tmp") else 0o755
            tar.addfile(folder)
        for name in _ROOT_LINKS:
            if Path("/", name).is_symlink():
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, os.readlink(f"/{name}")
                tar.addfile(link)
        for name in _COPIED:
            if Path("/", name).exists():
                tar.add(f"/{name}", name)
        for name, text in _WRITTEN.items():
            _add(tar, name, text.encode())
        tar.add(code, CODE.lstrip("/"))
    return layer.getvalue()


def _archive(layer: bytes, env: dict[str, str]) -> bytes:
    """An image archive of one layer, in the form that `docker save` writes."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Env": [f"{key}={value}" for key, value in env.items()],
            "Entrypoint": [sys.executable, "-m", "kernelharness"],
            "User": "10001:10001",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    files = {
        "config.json": json.dumps(config).encode(),
        "layer.tar": layer,
        "manifest.json": json.dumps([{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]).encode(),
    }
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            _add(tar, name, content)
    return archive.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))

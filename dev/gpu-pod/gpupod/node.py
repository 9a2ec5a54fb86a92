"""The node: which of dev/cluster's components run, with which settings, and how it is started and ended.

Everything lives in network, mount, process and IPC namespaces of its own, whose first process is `init.py`. Ending the
keeper (unshare) ends all of it. The node's address is one of its loopback: nothing in there can reach the machine's
network, and no port of the machine is taken.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from devcluster import binaries, config, pki, sandbox
from devcluster.components import components
from devcluster.instance import Instance
from devcluster.progress import Failure, step, tail

from gpupod import HERE

NAME = "gpupod"
BLOCK = 246
PROGRAMS = ("etcd", "kube-apiserver", "containerd", "kubelet", "kube-controller-manager", "kube-scheduler")
DEVICE_PLUGIN = "nvidia-device-plugin"
RESOURCE = "nvidia.com/gpu"
DRIVER_LIBRARIES = "/usr/local/nvidia/lib64"
"""Where NVIDIA's base images look for the driver beside the linker's default folders."""
_CLONE_NEWNET = 0x40000000
_SET_FLAGS, _SET_ADDRESS, _SET_MASK, _UP = 0x8914, 0x8916, 0x891C, 0x1


def instance(pack: Path, state: Path) -> Instance:
    """The cluster of this pack and state folder. Raise Failure when the pack holds programs of another checkout."""
    if len(str(state.absolute())) > 60:
        raise Failure(f"{state.absolute()} is too long for the Unix sockets inside it: choose a shorter path")
    found = Instance(NAME, BLOCK, state.absolute(), pack.absolute())
    if not binaries.folder(found).is_dir():
        raise Failure(f"{pack} has no {binaries.folder(found).relative_to(pack.absolute())}: make it again with `pack`")
    return found


def commands(own: Instance) -> dict[str, tuple[str, ...]]:
    """Component -> command line, in the order in which they are started."""
    all_of_them = {component.name: component.command for component in components(own)}
    return {name: all_of_them[name] for name in PROGRAMS}


def device_plugin(own: Instance) -> tuple[str, ...]:
    """It hands the device files themselves to the kubelet, so the container runtime need know nothing of NVIDIA."""
    options = ("--device-list-strategy=envvar", "--pass-device-specs", "--device-discovery-strategy=nvml")
    return (str(binaries.folder(own) / DEVICE_PLUGIN), *options, "--driver-root=/", "--container-driver-root=/")


def environment(own: Instance) -> dict[str, str]:
    """Of every component: the pack's programs first, its libraries, and the driver's."""
    libraries = [str(own.cache / "lib"), os.environ.get("LD_LIBRARY_PATH", ""), DRIVER_LIBRARIES]
    return {
        "HOME": str(own.state),
        "PATH": f"{binaries.folder(own)}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LD_LIBRARY_PATH": ":".join(folder for folder in libraries if folder),
    }


def write_settings(own: Instance) -> None:
    """Certificates, and the files that containerd and the kubelet read."""
    pki.write(own)
    network = {"cniVersion": "1.0.0", "name": "nowhere", "plugins": [{"type": "nowhere"}]}
    for name, text in {
        "containerd.toml": _containerd(own),
        "kubelet.json": json.dumps(_kubelet(own), indent=1),
        "cni/nowhere.conflist": json.dumps(network),
    }.items():
        path = config.folder(own) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _kubelet(own: Instance) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(config.files(own)["kubelet.json"])
    # A virtual machine that gets memory as it uses it looks full when it is not, and the only pod would be evicted.
    del settings["evictionHard"]["memory.available"]
    return settings


def _containerd(own: Instance) -> str:
    return f"""\
version = 3
root = "{own.state}/containerd"
state = "{config.RUN}/containerd"
[grpc]
  address = "{own.containerd_socket}"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "native"   # copies: the images are small, and not every disk can be under an overlay
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{binaries.IMAGES["pause"]}'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{HERE}/cni"]
    conf_dir = "{config.folder(own)}/cni"
    use_internal_loopback = true
"""


def give_address(own: Instance) -> None:
    """Called in the node's network namespace: loopback up, with the node's address on it. As `ip` would do it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:

        def ask(request: int, interface: str, value: bytes) -> None:
            fcntl.ioctl(control, request, struct.pack("16s24s", interface.encode(), value))

        def address(text: str) -> bytes:
            return struct.pack("=HH4s", socket.AF_INET, 0, socket.inet_aton(text))

        ask(_SET_FLAGS, "lo", struct.pack("=h", _UP))
        ask(_SET_ADDRESS, "lo:node", address(own.node))
        ask(_SET_MASK, "lo:node", address("255.255.255.255"))


def up(pack: Path, state: Path, devices: bool = True) -> Instance:
    """Start the node and return when it is ready, with `devices` when the accelerator is registered too.

    Raise Failure, with the end of the log that says why, when something ends or takes too long.
    """
    if os.geteuid() != 0:
        raise Failure("the node makes namespaces and control groups: run this as root")
    own = instance(pack, state)
    if own.state.exists():
        raise Failure(f"{own.state} exists: end that node with `down` first")
    own.logs.mkdir(parents=True)
    write_settings(own)
    ready, tell = os.pipe()
    words = ("--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child", "--")
    log = own.logs / "init.log"
    with step("a node with the accelerator" if devices else "a node"), log.open("wb") as output:
        keeper = subprocess.Popen(
            ["unshare", *words, sys.executable, "-m", "gpupod.init", own.cache, own.state, str(tell), f"{devices:d}"],
            env={**os.environ, "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[tell],
            start_new_session=True,
        )
        own.pid_file.write_text(str(keeper.pid))
        os.close(tell)
        with os.fdopen(ready, "rb") as pipe:
            if pipe.read(1) != b"1":
                keeper.wait()
                raise Failure(f"the node did not come up; the end of {log}:\n{tail(log, 60)}")
    return own


def down(pack: Path, state: Path) -> None:
    """End every process of the node and remove its state. Idempotent."""
    own = Instance(NAME, BLOCK, state.absolute(), pack.absolute())
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        keeper = int(own.pid_file.read_text())
        # A number may be somebody else's by now.
        if os.fsencode(own.state) in Path(f"/proc/{keeper}/cmdline").read_bytes().split(b"\0"):
            os.kill(keeper, signal.SIGKILL)
    sandbox.remove_cgroups(own)
    shutil.rmtree(own.state, ignore_errors=True)
    own.pid_file.unlink(missing_ok=True)


def enter_network(own: Instance) -> None:
    """From now on this thread, and those that it starts, talk to the node's API server and to nothing else."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/proc/{own.pid_file.read_text()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns: the node's network namespace cannot be entered")
    finally:
        os.close(descriptor)

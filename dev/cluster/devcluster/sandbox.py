"""The namespaces a cluster lives in, and the one process that stands for it on the host.

The keeper holds a lock for as long as it lives and is the parent of the supervisor, which is process 1 of a process,
mount, network and IPC namespace. Whatever kills either of them, the kernel ends every process of the cluster and
drops its mounts, interfaces, rules and network namespaces: there is no state on the host that could go stale, and
nothing to clean up but files and cgroups. Whether a cluster is running is whether the lock is held.
"""

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from devcluster.instance import HERE, Instance
from devcluster.progress import Failure, tail

_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWPID, _CLONE_NEWNET = 0x00020000, 0x08000000, 0x20000000, 0x40000000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _system_call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def keeper_pid(instance: Instance) -> int | None:
    """The pid of the keeper if the cluster's processes are running, else None."""
    try:
        with instance.pid_file.open() as file:
            # The keeper writes its pid right after it took the lock.
            for _ in range(100):
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.seek(0)
                    text = file.read().strip()
                    if text:
                        return int(text)
                    time.sleep(0.02)
                else:
                    return None
    except FileNotFoundError:
        return None
    raise Failure(
        f"{instance.pid_file} is locked but names no process: remove whatever holds it (fuser {instance.pid_file})"
    )


def start(instance: Instance) -> None:
    """Starts the keeper, detached from this terminal; raises Failure if it does not come to supervise anything."""
    instance.logs.mkdir(parents=True, exist_ok=True)
    log = instance.logs / "supervisor.log"
    ready, signal_ready = os.pipe()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "devcluster.sandbox", str(signal_ready)],
            cwd=HERE,
            env={
                **os.environ,
                "KERNELSEARCH_CLUSTER": instance.name,
                "KERNELSEARCH_CLUSTER_BLOCK": str(instance.block),
                "KERNELSEARCH_STATE": str(instance.state.parent),
                "KERNELSEARCH_CACHE": str(instance.cache),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[signal_ready],
            start_new_session=True,
        )
    os.close(signal_ready)
    with os.fdopen(ready, "rb") as pipe:
        if pipe.read(1) != b"1":
            process.wait()
            raise Failure(f"the cluster's namespaces could not be made; the end of {log}:\n{tail(log)}")


def stop(instance: Instance) -> None:
    """Ends every process of the cluster; returns when there is none left."""
    pid = keeper_pid(instance)
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    with instance.pid_file.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # granted when the keeper has seen the last process end


def processes(instance: Instance) -> dict[int, int]:
    """Every process of the running cluster, its pods' included: pid on the host by pid inside. Empty if it is down."""
    pid = keeper_pid(instance)
    if pid is None:
        return {}
    found = {}
    try:
        inside = os.readlink(f"/proc/{pid}/ns/pid_for_children")
    except OSError:
        return {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "status").read_text()
            numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
            if len(numbers) > 1 and os.readlink(entry / "ns" / "pid") == inside:
                found[int(numbers[-1])] = int(entry.name)
        except (OSError, StopIteration):
            continue  # it ended meanwhile
    return found


def main() -> None:
    """The keeper."""
    from devcluster import instance as instances

    instance = instances.current()
    ready = int(sys.argv[1])
    lock = os.open(instance.pid_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
    alive, keeps_alive = os.pipe()  # end of file tells the supervisor that the keeper is gone
    _system_call("unshare", _CLONE_NEWPID)
    supervisor = os.fork()
    if supervisor == 0:
        try:
            os.close(keeps_alive)  # the lock stays open: should the keeper be killed, it is held until we are gone too
            _supervise(instance, ready, alive)
        except BaseException:
            traceback.print_exc()  # into supervisor.log, whose end is shown by whoever waits for us
        finally:
            os._exit(70)
    os.close(ready)
    os.close(alive)
    while True:
        if signal.sigwait({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}) == signal.SIGCHLD:
            # Process 1 is only reaped when the kernel has ended everything else in its namespace.
            if os.waitpid(supervisor, os.WNOHANG)[0] == supervisor:
                return
        else:
            os.kill(supervisor, signal.SIGKILL)


def _supervise(instance: Instance, ready: int, alive: int) -> None:
    from devcluster import network, supervisor

    _system_call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
    if select.select([alive], [], [], 0)[0]:
        return  # the keeper died before that could work
    host = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    _system_call("unshare", _CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWIPC)
    make_mounts(instance)
    network.connect(instance, host)
    make_cgroups(instance)
    os.write(ready, b"1")
    os.close(ready)
    supervisor.run(instance, host)


# What the kubelet wants of the machine. It would write these if they differed, and they would stay so after `down`:
# so inside the sandbox plain files lie over them.
_KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


def make_mounts(instance: Instance) -> None:
    """Inside a mount namespace of one's own: what the components write in fixed places lies in the state folder."""

    def mount(*words: str | Path) -> None:
        subprocess.run(["mount", *map(str, words)], check=True)

    mount("--make-rprivate", "/")  # nothing that is mounted here reaches the host
    mount("-t", "proc", "proc", "/proc")
    mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run")
    for folder in ("netns", "lock", "kernelsearch"):
        Path("/run", folder).mkdir()
    for folder, place in (("var-log", "/var/log"), ("var-lib-cni", "/var/lib/cni")):
        kept = instance.state / folder
        kept.mkdir(exist_ok=True)
        Path(place).mkdir(parents=True, exist_ok=True)
        mount("--bind", kept, place)
    for name, value in _KERNEL_SETTINGS.items():
        cover = Path("/run/kernelsearch", name.replace("/", "."))
        cover.write_text(value + "\n")
        mount("--bind", cover, Path("/proc/sys", name))
    mount("--make-rshared", "/")  # what the kubelet mounts must reach containerd's containers


def cgroups(instance: Instance) -> list[Path]:
    """The cluster's group in every cgroup hierarchy that this machine has (one with version 2, several with 1)."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(mount[1]) / instance.cgroup for mount in mounts if mount[2] in ("cgroup", "cgroup2")]


def make_cgroups(instance: Instance) -> None:
    for group in cgroups(instance):
        group.mkdir(exist_ok=True)
        _hand_down_controllers(group.parent)


def _hand_down_controllers(parent: Path) -> None:
    """With version 2 a group has only what its parent hands down; with version 1 there is nothing to do."""
    handed_down = parent / "cgroup.subtree_control"
    if not handed_down.exists():
        return
    for controller in (parent / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):  # one that cannot be is missed by the kubelet, which names it
            handed_down.write_text(f"+{controller}")


def remove_cgroups(instance: Instance) -> None:
    """Call when the sandbox is down; raises Failure if a group still holds a process."""
    deadline = time.monotonic() + 10
    while remaining := [group for group in cgroups(instance) if group.exists()]:
        try:
            for group in remaining:
                for folder, _, _ in os.walk(group, topdown=False):
                    os.rmdir(folder)
        except OSError as error:  # the kernel is still ending what was in it
            if time.monotonic() > deadline:
                raise Failure(f"the control group of a cluster that is down cannot be removed: {error}") from error
            time.sleep(0.1)


if __name__ == "__main__":
    main()

"""up, down and status: from whatever state this machine is in to the one that was asked for."""

import hashlib
import json
import os
import platform
import shutil
import string
import time
from collections.abc import Callable

from devcluster import binaries, components, config, network, packages, pki, sandbox, storage, supervisor
from devcluster.instance import HERE, Instance
from devcluster.kubectl import kubectl
from devcluster.locks import exclusive
from devcluster.progress import Failure, run, say, step, tail

_PATIENCE_S = 180.0
_STEADY_S = 5.0
_GIVE_UP_AFTER = 4  # quick ends of one component in a row


def up(instance: Instance) -> None:
    """Brings the cluster up, or repairs it, or does nothing, as needed."""
    _require_root()
    with exclusive(instance.command_lock):
        packages.ensure(packages.NODE, instance.cache)
        binaries.build(instance)
        _finish_removal(instance)
        instance.logs.mkdir(parents=True, exist_ok=True)
        _start(instance)
        with step("API server"):
            _wait(instance, lambda: kubectl(instance, "get", "--raw", "/readyz"))
        with step("system images"):
            _wait(instance, lambda: _import_images(instance))
        with step("DNS, storage, runtime classes"):
            _apply_manifests(instance)
            storage.renew(instance)
        with step("node"):
            _wait(instance, lambda: _expect_ready(instance))
        with step("DNS answers"):
            wait = ("rollout", "status", "deployment/coredns", "--namespace=kube-system", "--timeout=5s")
            _wait(instance, lambda: kubectl(instance, *wait))
        with step("all components"):
            _wait(instance, lambda: _expect_steady(instance))
    say(f"The cluster is up: export KUBECONFIG={instance.kubeconfig}")


def down(instance: Instance) -> None:
    """Ends every process of the cluster and removes its state; the caches stay."""
    _require_root()
    with exclusive(instance.command_lock):
        if sandbox.keeper_pid(instance) is not None:
            with step("ending every process of the cluster"):
                sandbox.stop(instance)
        network.disconnect(instance)
        sandbox.remove_cgroups(instance)
        if instance.state.exists():
            # By one rename: an interrupted removal never looks like a cluster.
            instance.state.rename(instance.state.with_suffix(f".removing-{os.getpid()}"))
        with step("removing its state"):
            _finish_removal(instance)
        instance.pid_file.unlink(missing_ok=True)
    say("The cluster is down; binaries, images and the registry's storage stay in " + str(instance.cache))


def status(instance: Instance) -> bool:
    """Says what runs; True if all of it does."""
    keeper = sandbox.keeper_pid(instance)
    if keeper is None:
        kept = " (its state is kept; dev/cluster/up continues)" if instance.state.exists() else ""
        print(f"{instance.name}: down{kept}")
        return False
    inside = sandbox.processes(instance)
    well = True
    print(f"{instance.name}: keeper {keeper}, {len(inside)} processes")
    print(f"  node {instance.node}, from inside: nsenter --all --target {inside.get(1)}")
    print(f"  this machine as pods see it: {instance.host}")
    for one in supervisor.read_status(instance):
        pid = inside.get(one.pid) if one.pid is not None else None
        well &= pid is not None
        ended = f", last end: {one.last_end}" if one.last_end else ""
        print(f"  {one.name:24} {f'pid {pid}' if pid else 'NOT RUNNING':12} starts {one.starts}{ended}")
        if pid is None:
            print(tail(instance.logs / f"{one.name}.log"))
    try:
        _expect_ready(instance)
        print(f"  node                     Ready\n  KUBECONFIG={instance.kubeconfig}")
    except Failure as failure:
        well = False
        print(f"  node: {failure}")
    return well


def _require_root() -> None:
    if platform.system() != "Linux":
        raise Failure(
            "the development cluster needs Linux; elsewhere set KERNELSEARCH_KUBECONFIG to a cluster that you have"
        )
    if os.geteuid() != 0:
        raise Failure("the development cluster makes namespaces and control groups: run this as root")


def _start(instance: Instance) -> None:
    """Sees to it that the processes run, and run with the binaries and settings of this checkout."""
    pki.write(instance)
    config.write(instance)
    wanted = _fingerprint(instance)
    mark = instance.state / "running"
    if sandbox.keeper_pid(instance) is not None:
        if mark.exists() and mark.read_text() == wanted:
            return
        with step("restarting: binaries or settings have changed"):
            sandbox.stop(instance)
    network.disconnect(instance)  # what a predecessor that was killed leaves for a moment
    with step("starting the processes"):
        network.check_free(instance)
        supervisor.status_file(instance).unlink(missing_ok=True)
        mark.write_text(wanted)
        sandbox.start(instance)


def _fingerprint(instance: Instance) -> str:
    """Changes whenever a running cluster would have to be restarted to be what this checkout describes."""
    described = json.dumps(config.files(instance), sort_keys=True) + repr(components.components(instance))
    return hashlib.sha256(described.encode()).hexdigest()


def _wait(instance: Instance, attempt: Callable[[], object]) -> None:
    """Repeats `attempt` until it raises no Failure; a component that keeps ending is reported at once."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            attempt()
            return
        except Failure as failure:
            if sandbox.keeper_pid(instance) is None:
                log = instance.logs / "supervisor.log"
                raise Failure(f"the cluster's supervisor is gone; the end of {log}:\n{tail(log)}") from None
            for one in supervisor.read_status(instance):
                if one.quick_ends >= _GIVE_UP_AFTER:
                    log = instance.logs / f"{one.name}.log"
                    raise Failure(
                        f"{one.name} {one.last_end}, again and again; the end of {log}:\n{tail(log)}"
                    ) from None
            if time.monotonic() > deadline:
                raise Failure(
                    f"not there after {_PATIENCE_S:.0f} s: {failure}\n  logs of all components: {instance.logs}"
                ) from None
            time.sleep(0.3)


def _import_images(instance: Instance) -> None:
    programs = binaries.folder(instance)
    ctr = (programs / "ctr", "--address", instance.containerd_socket, "--namespace", "k8s.io", "images")
    present = run(*ctr, "list", "--quiet").split()
    for program, image in binaries.IMAGES.items():
        if image not in present:
            run(*ctr, "import", programs / f"{program}.tar")


def _apply_manifests(instance: Instance) -> None:
    values = {"dns": instance.dns_service, "coredns": binaries.IMAGES["coredns"]}
    for path in sorted((HERE / "manifests").glob("*.yaml")):
        kubectl(instance, "apply", "-f", "-", stdin=string.Template(path.read_text()).substitute(values))


def _expect_ready(instance: Instance) -> None:
    node = json.loads(kubectl(instance, "get", "node", "node", "-o", "json"))
    ready = next((one for one in node["status"].get("conditions", []) if one["type"] == "Ready"), None)
    if ready is None or ready["status"] != "True":
        raise Failure(f"the node is not ready: {ready['message'] if ready else 'the kubelet has not reported yet'}")


def _expect_steady(instance: Instance) -> None:
    """Every component runs; one that ended before must have run for a while, or it may be about to end again."""
    for one in supervisor.read_status(instance):
        if one.pid is None or (one.quick_ends and time.monotonic() - one.since < _STEADY_S):
            raise Failure(f"{one.name} {one.last_end or 'has not been started yet'}")


def _finish_removal(instance: Instance) -> None:
    for remains in instance.state.parent.glob(f"{instance.name}.removing-*"):
        shutil.rmtree(remains)

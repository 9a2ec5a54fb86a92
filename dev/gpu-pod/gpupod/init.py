"""Process 1 of the node's namespaces: starts the components, waits until they answer, and then reaps what is orphaned.

A component that ends takes the node with it: this node is for one measurement, and a restart would only hide why.
Called by node.py as `python -m gpupod.init PACK STATE DESCRIPTOR DEVICES`; writes a 1 to the descriptor when all is up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from devcluster import binaries, sandbox
from devcluster.instance import Instance
from devcluster.kubectl import kubectl
from devcluster.progress import Failure, run, say, tail

from gpupod import node

_AFTER_API = ("kubelet", "kube-controller-manager", "kube-scheduler")
_PATIENCE_S = 90.0
_KUBELET_FOLDER = Path("/var/lib/kubelet")
"""Fixed: device plugins meet the kubelet below it."""


class Components:
    """The running processes, by name."""

    def __init__(self, own: Instance) -> None:
        self._own = own
        self._environment = node.environment(own)
        self._running: dict[int, str] = {}

    def start(self, name: str, command: tuple[str, ...]) -> None:
        with (self._own.logs / f"{name}.log").open("wb") as output:
            process = subprocess.Popen(
                command, env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/"
            )
        self._running[process.pid] = name

    def check(self) -> None:
        """Raise Failure when one of them ended. Looks without reaping: `run` waits for its own children."""
        for pid, name in self._running.items():
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                raise Failure(f"{name} ended; the end of its log:\n{tail(self._own.logs / f'{name}.log', 40)}")

    def reap(self) -> None:
        """Raise Failure when a component ends; collect everything else that does."""
        while (pid := os.wait()[0]) not in self._running:
            pass
        raise Failure(f"{self._running[pid]} ended")

    def wait(self, what: str, attempt: Callable[[], bool]) -> None:
        """Until `attempt` is true. Raise Failure when a component ends first, or it takes too long."""
        begin, why = time.monotonic(), ""
        while True:
            self.check()
            try:
                if attempt():
                    break
            except Failure as failure:
                why = str(failure)
            if time.monotonic() - begin > _PATIENCE_S:
                logs = "\n".join(f"{path.name}:\n{tail(path, 8)}" for path in sorted(self._own.logs.glob("*.log")))
                raise Failure(f"{what}: not after {_PATIENCE_S:.0f} s. {why}\n{logs}")
            time.sleep(0.1)
        say(f"{what}: {time.monotonic() - begin:.1f} s")


def bring_up(own: Instance, devices: bool) -> Components:
    """All components, the pause image, and with `devices` the device plugin, until the node offers what it has."""
    sandbox.make_mounts(own)
    _KUBELET_FOLDER.mkdir(parents=True, exist_ok=True)
    (own.state / "kubelet").mkdir(exist_ok=True)
    run("mount", "--bind", own.state / "kubelet", _KUBELET_FOLDER)
    node.give_address(own)
    sandbox.make_cgroups(own)
    components, commands = Components(own), node.commands(own)
    for name in commands:
        if name not in _AFTER_API:
            components.start(name, commands[name])
    components.wait("API server", lambda: kubectl(own, "get", "--raw", "/readyz") == "ok")
    for name in _AFTER_API:
        components.start(name, commands[name])
    ctr = (binaries.folder(own) / "ctr", "--address", own.containerd_socket, "--namespace", "k8s.io")
    components.wait("pause image", lambda: bool(run(*ctr, "images", "import", binaries.folder(own) / "pause.tar")))
    components.wait("node", lambda: _is_ready(own))
    if devices:
        components.start(node.DEVICE_PLUGIN, node.device_plugin(own))
        components.wait("device plugin", lambda: int(_status(own)["allocatable"].get(node.RESOURCE, "0")) > 0)
    return components


def _status(own: Instance) -> dict[str, dict[str, str]]:
    status: dict[str, dict[str, str]] = json.loads(kubectl(own, "get", "node", "node", "-o", "json"))["status"]
    return status


def _is_ready(own: Instance) -> bool:
    path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    return kubectl(own, "get", "node", "node", "-o", path) == "True"


def main() -> None:
    pack, state, ready, devices = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1"
    try:
        components = bring_up(node.instance(pack, state), devices)
        os.write(ready, b"1")
        os.close(ready)
        components.reap()
    except Failure as failure:
        say(str(failure))
        sys.exit(1)


if __name__ == "__main__":
    main()

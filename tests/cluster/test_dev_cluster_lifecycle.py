"""dev/cluster survives what happens to development clusters, and leaves nothing behind.

An instance of its own, beside the one that the other tests use: its processes are killed, its commands interrupted.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAME = "lifecycle"
PATIENCE_S = 240


class Lifecycle:
    """The commands of dev/cluster on an instance of the tests' own, whose state lies in `states`."""

    def __init__(self, states: Path) -> None:
        self.states = states
        self.state = states / NAME
        self.environment = {**os.environ, "KERNELSEARCH_CLUSTER": NAME, "KERNELSEARCH_STATE": str(states)}
        self.environment.pop("KERNELSEARCH_KUBECONFIG", None)

    def start(self, command: str) -> subprocess.Popen[str]:
        script = ROOT / "dev/cluster" / command
        pipe = subprocess.PIPE
        # A shell lets what it starts in the background ignore Ctrl-C; these tests may run there.
        command_line = ["env", "--default-signal=INT", script]
        return subprocess.Popen(command_line, env=self.environment, text=True, stdout=pipe, stderr=pipe)

    def run(self, command: str) -> str:
        process = self.start(command)
        output, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, f"{command}: {output}{errors}"
        return output

    def interrupt(self, command: str, step: str, how: signal.Signals) -> None:
        """Starts the command and sends it a signal as soon as it says that it is at `step`."""
        process = self.start(command)
        assert process.stderr is not None
        seen = ""
        while step not in seen:
            ready, _, _ = select.select([process.stderr], [], [], PATIENCE_S)
            part = os.read(process.stderr.fileno(), 4096).decode() if ready else ""
            assert part, f"{command} never came to {step!r}: {seen}"
            seen += part
        process.send_signal(how)
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode != 0

    def pids(self) -> dict[str, int]:
        """Pid on this machine of each component that `status` shows, and of the keeper."""
        output = self.run("status")
        found = {name: int(pid) for name, pid in re.findall(r"^  (\S+) +pid (\d+)", output, re.MULTILINE)}
        keeper = re.search(r"keeper (\d+)", output)
        assert keeper, output
        return {**found, "keeper": int(keeper[1])}

    def members(self) -> list[int]:
        """Every process of the cluster, those of its pods too."""
        show = (
            "from devcluster import instance, sandbox; import json;"
            "print(json.dumps(list(sandbox.processes(instance.current()).values())))"
        )
        command = [sys.executable, "-c", show]
        return list(json.loads(subprocess.check_output(command, env=self.environment, cwd=ROOT / "dev/cluster")))

    def kubectl(self, *words: str) -> str:
        """Runs kubectl in the environment that `env` prints; returns its standard output."""
        assignments = subprocess.check_output([ROOT / "dev/cluster/env"], env=self.environment, text=True)
        command = ["sh", "-c", f'{assignments}\nkubectl "$@"', "sh", *words]
        return subprocess.check_output(command, env=self.environment, text=True)


def footprint() -> dict[str, object]:
    """Everything on this machine that a cluster might leave: mounts, network, rules, groups, kernel settings."""

    def shown(*command: str) -> list[str]:
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return sorted(line for line in output.splitlines() if not line.startswith("#"))

    settings = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")
    netns = Path("/run/netns")
    return {
        "mounts": sorted(Path("/proc/mounts").read_text().splitlines()),
        "links": sorted(link["ifname"] for link in json.loads(subprocess.check_output(["ip", "-json", "link"]))),
        "routes": shown("ip", "route", "show", "table", "all"),
        "rules": shown("iptables-save") + shown("ip6tables-save"),
        "network namespaces": sorted(os.listdir(netns)) if netns.exists() else [],
        "groups": sorted(map(str, Path("/sys/fs/cgroup").glob(f"**/kernelsearch-{NAME}"))),
        "settings": {name: Path("/proc/sys", name).read_text() for name in settings},
    }


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def lifecycle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lifecycle]:
    if os.geteuid() != 0 or "KERNELSEARCH_KUBECONFIG" in os.environ:
        pytest.skip("needs to be root, and to be asked for dev/cluster rather than for another cluster")
    cluster = Lifecycle(tmp_path_factory.mktemp("c"))
    yield cluster
    cluster.run("down")


def test_up_twice_leaves_every_process_as_it_was(lifecycle: Lifecycle) -> None:
    lifecycle.run("up")
    before = lifecycle.pids()
    assert {"etcd", "kube-apiserver", "kubelet", "containerd", "kube-proxy"} <= set(before)
    lifecycle.run("up")
    assert lifecycle.pids() == before


@pytest.mark.parametrize("component", ["containerd", "etcd"])
def test_a_killed_component_is_back_after_up_and_the_others_never_left(lifecycle: Lifecycle, component: str) -> None:
    lifecycle.run("up")
    before = lifecycle.pids()
    os.kill(before[component], signal.SIGKILL)
    lifecycle.run("up")
    after = lifecycle.pids()
    assert after[component] != before[component]
    assert after["keeper"] == before["keeper"]
    assert f"{component} " in lifecycle.run("status")
    assert "killed by SIGKILL" in lifecycle.run("status")


def test_when_its_keeper_is_killed_no_process_survives_and_up_continues_where_it_was(lifecycle: Lifecycle) -> None:
    lifecycle.run("up")
    lifecycle.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    members = lifecycle.members()
    watched = [os.pidfd_open(pid) for pid in members]
    os.kill(lifecycle.pids()["keeper"], signal.SIGKILL)
    for descriptor in watched:
        assert select.select([descriptor], [], [], PATIENCE_S)[0]
        os.close(descriptor)
    status = subprocess.run([ROOT / "dev/cluster/status"], env=lifecycle.environment, capture_output=True, text=True)
    assert status.returncode == 3
    assert "down (its state is kept" in status.stdout
    lifecycle.run("up")
    assert lifecycle.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.a}") == "b"


@pytest.mark.parametrize(
    ("step", "how"),
    [
        ("starting the processes", signal.SIGKILL),
        ("API server", signal.SIGINT),
        ("DNS, storage", signal.SIGKILL),
    ],
)
def test_an_interrupted_up_is_finished_by_the_next(lifecycle: Lifecycle, step: str, how: signal.Signals) -> None:
    lifecycle.run("down")
    lifecycle.interrupt("up", step, how)
    lifecycle.run("up")
    assert "Ready" in lifecycle.run("status")


def test_an_interrupted_down_is_finished_by_the_next_up_which_starts_afresh(lifecycle: Lifecycle) -> None:
    lifecycle.run("up")
    lifecycle.kubectl("create", "configmap", "forgotten")
    lifecycle.interrupt("down", "removing its state", signal.SIGKILL)
    lifecycle.run("up")
    assert "forgotten" not in lifecycle.kubectl("get", "configmaps")
    assert list(lifecycle.states.glob("*.removing-*")) == []


def test_a_component_that_cannot_start_is_named_with_its_last_words(lifecycle: Lifecycle) -> None:
    lifecycle.run("up")
    scheduler = lifecycle.pids()["kube-scheduler"]
    (lifecycle.state / "pki" / "kube-scheduler.crt").write_text("not a certificate")
    lifecycle.run("up")  # writes it into the kubeconfig, which the running scheduler read long ago
    os.kill(scheduler, signal.SIGKILL)
    process = lifecycle.start("up")
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "kube-scheduler exited with 1, again and again" in errors
    assert "failed to find any PEM data" in errors
    status = subprocess.run([ROOT / "dev/cluster/status"], env=lifecycle.environment, check=False)
    assert status.returncode == 3
    lifecycle.run("down")


def test_down_in_the_middle_of_up_and_with_pods_running_leaves_nothing(lifecycle: Lifecycle) -> None:
    lifecycle.run("down")
    before = footprint()
    lifecycle.interrupt("up", "API server", signal.SIGKILL)
    lifecycle.run("down")
    assert footprint() == before

    lifecycle.run("up")
    members = lifecycle.members()
    assert len(members) > len(lifecycle.pids())  # CoreDNS is a pod
    lifecycle.run("down")
    assert footprint() == before
    assert [pid for pid in members if alive(pid)] == []
    assert list(lifecycle.states.iterdir()) == [lifecycle.states / f"{NAME}.lock"]
    lifecycle.run("down")

"""What the node for a bare GPU machine adds to the operator's Job, and what its network gives a pod: nothing."""

from __future__ import annotations

import copy
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def _load(name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "dev/gpu-pod"), str(REPOSITORY / "dev/cluster"), *sys.path])
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_stand_in_adds_read_only_host_paths_and_changes_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    image = _load("image", Path("dev/gpu-pod/gpupod/image.py"), monkeypatch)
    container: dict[str, Any] = {"image": "i", "volumeMounts": [{"name": "batch", "mountPath": "/batch"}]}
    job = {"spec": {"template": {"spec": {"volumes": [{"name": "batch"}], "containers": [container]}}}}
    before = copy.deepcopy(job)

    changed = image.with_machine(job, Path("/packages"))

    assert job == before
    pod = changed["spec"]["template"]["spec"]
    added = pod["containers"][0]["volumeMounts"][1:]
    assert {mount["mountPath"] for mount in added} >= {"/usr", image.EXTRA}
    assert all(mount["readOnly"] for mount in added)
    assert [volume["name"] for volume in pod["volumes"][1:]] == [mount["name"] for mount in added]
    del pod["volumes"][1:], pod["containers"][0]["volumeMounts"][1:]
    assert changed == before


def test_nested_folders_are_mounted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    image = _load("image", Path("dev/gpu-pod/gpupod/image.py"), monkeypatch)
    monkeypatch.setattr(sys, "prefix", "/usr/local/python")
    monkeypatch.setattr(sys, "base_prefix", "/usr")

    assert "/usr/local/python" not in image.mounts(None)


@pytest.mark.parametrize(("quantity", "number"), [("4", 4), ("1500m", 1.5), ("32Gi", 32 << 30), ("5000000k", 5e9)])
def test_quantities_are_compared_as_numbers(quantity: str, number: float, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = _load("gpu_pod", Path("benchmarks/gpu_pod.py"), monkeypatch)
    assert benchmark.amount(quantity) == number


def test_network_of_a_pod_is_an_address_without_an_interface() -> None:
    environment = {"CNI_COMMAND": "ADD", "CNI_IFNAME": "eth0", "CNI_NETNS": "/run/netns/a", "PATH": "/usr/bin:/bin"}
    plugin = REPOSITORY / "dev/gpu-pod/cni/nowhere"
    done = subprocess.run([plugin], input="{}", env=environment, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["interfaces"] == [{"name": "eth0", "sandbox": "/run/netns/a"}]
    assert answer["ips"] == [{"interface": 0, "address": "192.0.2.1/32"}]
    assert "routes" not in answer

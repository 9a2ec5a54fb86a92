"""The models are the source: what is generated from them, what bounds a status, what an older reader ignores."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kernelsearch.api.crds import FOLDERS, generate_crds, main, stale_files, write_files
from kernelsearch.api.profile import LabelSelector
from kernelsearch.api.profiles import HARNESS_VARIANTS, packaged_profiles
from kernelsearch.api.resources import KINDS, KernelSearch
from kernelsearch.api.schema import object_schema
from kernelsearch.api.search_status import KernelSearchStatus, Progress

ROOT = Path(__file__).resolve().parents[2]


def test_generated_files_in_the_repository_are_those_of_the_models() -> None:
    assert stale_files(ROOT) == []


def test_check_fails_for_what_is_missing_changed_or_left_over(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0
    changed, missing, *_ = sorted((tmp_path / FOLDERS[0]).iterdir())
    changed.write_text("changed")
    missing.unlink()
    left_over = tmp_path / FOLDERS[-1] / "old.yaml"
    left_over.write_text("")
    assert set(stale_files(tmp_path)) == {changed, missing, left_over}
    assert main(["--check", str(tmp_path)]) == 1
    assert set(write_files(tmp_path)) == {changed, missing, left_over}
    assert stale_files(tmp_path) == []


def test_uninstalling_the_chart_keeps_the_kinds() -> None:
    for text in generate_crds().values():
        assert yaml.safe_load(text)["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def _parts(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from _parts(part, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _parts(schema[key], f"{path}[]")


SPEC_PARTS = [
    (f"{model.resource.kind}{path}", part)
    for model in KINDS
    for path, part in _parts(object_schema(model)["properties"]["spec"], ".spec")
]
STATUS_PARTS = [
    (f"{model.resource.kind}{path}", part)
    for model in KINDS
    for path, part in _parts(object_schema(model)["properties"]["status"], ".status")
]


@pytest.mark.parametrize(("path", "part"), SPEC_PARTS + STATUS_PARTS, ids=lambda value: str(value)[:60])
def test_everything_that_can_grow_has_a_bound(path: str, part: dict[str, Any]) -> None:
    if part.get("type") == "array":
        assert "maxItems" in part
        assert "x-kubernetes-list-type" in part, "server-side apply must know how the list merges"
    if "additionalProperties" in part:
        assert "maxProperties" in part
    if part.get("type") == "string":
        bounded = "maxLength" in part or "enum" in part or part.get("format") == "date-time"
        assert bounded or part.get("pattern") == "^[A-Z]{3}$"


@pytest.mark.parametrize(("targets", "kib"), [(5, 64), (16, 116)])
def test_the_largest_status_has_a_known_size(targets: int, kib: int) -> None:
    status = object_schema(KernelSearch)["properties"]["status"]
    status["properties"]["targets"]["maxItems"] = targets
    assert _largest(status) <= kib * 1024


def _largest(schema: dict[str, Any]) -> int:
    """Bytes of the largest JSON of this schema, in ASCII."""
    match schema["type"]:
        case "object":
            return 2 + sum(len(name) + 4 + _largest(part) for name, part in schema["properties"].items())
        case "array":
            return 2 + schema["maxItems"] * (1 + _largest(schema["items"]))
        case "integer":
            return 20
        case "boolean":
            return 5
        case _:
            longest = max((len(value) for value in schema.get("enum", [])), default=20)
            return 2 + int(schema.get("maxLength", longest))


def test_an_older_reader_ignores_what_a_newer_crd_added() -> None:
    body = {
        "metadata": {"name": "a", "managedFields": []},
        "spec": {
            "problem": {"source": {"configMap": {"name": "p"}}, "newer": 1},
            "targets": [{"name": "t", "profile": "p", "language": "l"}],
            "budget": {"candidates": 1},
        },
    }
    assert KernelSearch.model_validate(body).spec.budget.candidates == 1


def test_a_status_is_written_with_what_was_set_and_nothing_else() -> None:
    written = KernelSearchStatus(phase="Running", progress=Progress(evaluated=3)).to_manifest()
    assert written == {"phase": "Running", "progress": {"evaluated": 3}}


def test_packaged_profiles_name_an_image_variant_that_the_chart_fills_in() -> None:
    names = set(packaged_profiles())
    assert names == {
        "x86-64-v3",
        "x86-64-v4",
        "nvidia-a100",
        "nvidia-h100",
        "nvidia-h200",
        "nvidia-b200",
        "amd-mi300x",
        "amd-mi350x",
    }
    for profile in packaged_profiles().values():
        assert {toolchain.image for toolchain in profile.spec.toolchains} <= set(HARNESS_VARIANTS)


@pytest.mark.parametrize("name", [name for name in packaged_profiles() if not name.startswith("x86")])
def test_accelerator_facts_are_complete_and_plausible(name: str) -> None:
    profile = packaged_profiles()[name].spec
    facts = profile.hardware
    assert facts is not None
    assert facts.memory_bandwidth_bytes_per_second is not None
    assert facts.memory_bytes is not None
    assert 10e9 < facts.memory_bytes < 1e12
    assert 1e12 < facts.memory_bandwidth_bytes_per_second < 1e13
    rates = facts.peak_ops_per_second
    assert rates["fp64"] < rates["fp32"] < rates["bf16"] == rates["fp16"]
    assert facts.warp_size == {"nvidia": 32, "amd": 64}[profile.vendor]
    assert profile.scheduling.resource_name == {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu"}[profile.vendor]


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ({}, {}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "2"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, {"a": "2"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {"a": "1"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": ""}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {"a": ""}, False),
        ({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}, {"a": "1"}, False),
    ],
)
def test_namespaces_are_selected_as_kubernetes_selects(
    selector: dict[str, Any], labels: dict[str, str], expected: bool
) -> None:
    assert LabelSelector.model_validate(selector).matches(labels) is expected


def test_importing_the_models_imports_neither_torch_nor_a_kubernetes_client() -> None:
    code = (
        "import sys, kernelsearch.api.documents, kernelsearch.api.translate, kernelsearch.api.profiles;"
        "print([name for name in ('torch', 'kubernetes', 'kopf', 'aiohttp') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

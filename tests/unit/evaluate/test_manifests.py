"""What is sent to a cluster for one batch, against golden files (`UPDATE_GOLDEN=1 pytest` writes them anew)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from kernelharness.protocol import Batch, Candidate, Case, File, Problem, Purpose, Toolchain
from kernelsearch.api.profile import AcceleratorProfileSpec
from kernelsearch.evaluate import manifests
from kernelsearch.evaluate.base import BatchRequest
from kernelsearch.evaluate.manifests import Placement

GOLDEN = Path(__file__).parent / "golden"
UID = "0f8fad5b-d9cb-469f-a165-70867728950e"
ANCHOR = {"metadata": {"name": f"ks-{UID}", "uid": "7c9e6679-7425-40de-944b-e07fc1f90ae7"}}

CPU = AcceleratorProfileSpec.model_validate(
    {
        "vendor": "cpu",
        "arch": "x86-64-v3",
        "scheduling": {
            "nodeSelector": {"kubernetes.io/arch": "amd64"},
            "runtimeClassName": "isolated",
            "resources": {"requests": {"cpu": "1500m"}, "limits": {"memory": "3Gi"}},
        },
        "toolchains": [{"language": "cpp", "image": "registry.example.com/harness@sha256:1234"}],
    }
)
GPU = AcceleratorProfileSpec.model_validate(
    {
        "vendor": "nvidia",
        "arch": "sm_90a",
        "scheduling": {
            "resourceName": "nvidia.com/gpu",
            "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
            "forbiddenNodeLabels": {"nvidia.com/gpu.sharing-strategy": "time-slicing"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "priorityClassName": "low",
            "supplementalGroups": [109],
            "resources": {"requests": {"memory": "32Gi"}, "limits": {"cpu": 8, "ephemeral-storage": "10Gi"}},
        },
        "toolchains": [{"language": "cuda", "image": "registry.example.com/judge-cuda@sha256:5678"}],
    }
)


def a_batch(**changes: Any) -> Batch:
    fields: dict[str, Any] = {
        "id": "cpu-3-0",
        "purpose": Purpose.SEARCH,
        "problem": Problem(files=[File(path="reference.py", content="class Model: ...\n")], cases=[Case(name="small")]),
        "toolchain": Toolchain(language="cpp", arch="x86-64-v3"),
        "candidates": [Candidate(id="c7-cpu", files=[File(path="kernel.cpp", content="// größer\n")])],
    }
    return Batch(**(fields | changes))


def on_cpu() -> tuple[Placement, BatchRequest]:
    placement = Placement(UID, "team-a/rmsnorm", "kernelsearch-evaluation", CPU, "cpp")
    return placement, BatchRequest(UID, "cpu", a_batch())


def on_gpu() -> tuple[Placement, BatchRequest]:
    placement = Placement(UID, "team-a/rmsnorm", "team-a-evaluation", GPU, "cuda", devices=2, queue_name="team-a")
    batch = a_batch(id="h100-12-1", purpose=Purpose.CONFIRM, toolchain=Toolchain(language="cuda", arch="sm_90a"))
    return placement, BatchRequest(UID, "h100", batch, attempt=1, avoid_nodes=("node-1", "node-2"))


@pytest.mark.parametrize(("name", "make"), [("cpu", on_cpu), ("gpu-queued-avoiding-nodes", on_gpu)])
def test_a_batch_becomes_exactly_these_objects(name: str, make: Any) -> None:
    placement, request = make()
    objects = [
        manifests.anchor(placement),
        *manifests.input_config_maps(placement, request, ANCHOR),
        manifests.job(placement, request, ANCHOR),
    ]
    text = yaml.safe_dump_all(objects, sort_keys=True, width=120, allow_unicode=True)
    golden = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert list(yaml.safe_load_all(golden.read_text())) == objects


def test_the_same_batch_has_the_same_name_and_digest_and_is_adopted() -> None:
    placement, request = on_cpu()
    first, second = manifests.job(placement, request, ANCHOR), manifests.job(placement, request, ANCHOR)
    assert first["metadata"]["name"] == "ks-0f8fad5b-cpu-3-0"
    assert manifests.is_same_batch(first, second)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(
            {"labels": {manifests.UID_LABEL: "0f8fad5b-0000-0000-0000-000000000000"}}, id="same uid8, other uid"
        ),
        pytest.param({"annotations": {manifests.DIGEST_ANNOTATION: "00"}}, id="other content"),
        pytest.param({"labels": {}, "annotations": {}}, id="a stranger's"),
    ],
)
def test_another_object_under_the_name_is_never_adopted(other: dict[str, Any]) -> None:
    placement, request = on_cpu()
    wanted = manifests.job(placement, request, ANCHOR)
    found = {"metadata": {**wanted["metadata"], **other}}
    assert not manifests.is_same_batch(found, wanted)


def test_a_large_batch_is_split_below_512_kib_and_comes_back_whole() -> None:
    placement, request = on_cpu()
    source = "// ünïcödé 漢字 🚀\n" * 20_000
    batch = a_batch(
        candidates=[Candidate(id=f"c{n}-cpu", files=[File(path="k.cpp", content=source)]) for n in range(4)]
    )
    request = replace(request, batch=batch)
    parts = manifests.input_config_maps(placement, request, ANCHOR)
    assert len(parts) > 1
    texts = [text for part in parts for text in part["data"].values()]
    assert max(len(text.encode()) for text in texts) <= manifests.MAX_PIECE_BYTES < 512 * 1024
    keys = [key for part in parts for key in part["data"]]
    assert keys == sorted(keys), "the judge joins the parts in the order of their names"
    assert Batch.model_validate_json("".join(texts)) == batch
    mounted = manifests.job(placement, request, ANCHOR)["spec"]["template"]["spec"]["volumes"][0]["projected"][
        "sources"
    ]
    assert [each["configMap"]["name"] for each in mounted] == [part["metadata"]["name"] for part in parts]


def test_a_character_is_never_cut() -> None:
    assert list(manifests.split_utf8("aß🚀b", 4)) == ["aß", "🚀", "b"]


def test_names_fit_a_label_for_the_longest_target_and_numbers() -> None:
    placement, request = on_cpu()
    request = replace(request, batch=a_batch(id=f"{'t' * 20}-99999-99"))
    assert len(manifests.job_name(request)) <= 63
    assert len(manifests.anchor_name(placement.search_uid)) <= 63


def test_a_profile_that_asks_for_more_than_the_default_limit_gets_it() -> None:
    placement, request = on_gpu()
    resources = manifests.job(placement, request, ANCHOR)["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"] == "32Gi"
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == "2"


def test_an_unknown_language_names_those_that_the_profile_has() -> None:
    placement, request = on_cpu()
    with pytest.raises(KeyError, match="cpp"):
        manifests.job(replace(placement, language="cuda"), request, ANCHOR)

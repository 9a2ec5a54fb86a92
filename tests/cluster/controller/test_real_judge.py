"""A search without a scripted anything: the harness's own image compiles, checks and times real kernels in its pods."""

from __future__ import annotations

import json
import os

import pytest
import yaml

from .conftest import ROOT, Operator, Place, conditions

EXAMPLE = ROOT / "examples" / "tune-only.yaml"
PROFILE = ROOT / "operator" / "kernelsearch" / "api" / "profiles" / "x86-64-v3.yaml"
PATIENCE_S = 600


@pytest.mark.timeout(PATIENCE_S + 60, func_only=True)
def test_an_example_is_searched_verified_and_published(place: Place, operator: Operator, harness_image: str) -> None:
    profile = yaml.safe_load(PROFILE.read_text())
    profile["metadata"]["name"] = place.profile
    for toolchain in profile["spec"]["toolchains"]:
        toolchain["image"] = harness_image
    if "KERNELSEARCH_KUBECONFIG" not in os.environ:
        profile["spec"]["scheduling"]["runtimeClassName"] = "isolated"
    problem, search = yaml.safe_load_all(EXAMPLE.read_text())
    search["spec"]["targets"][0]["profile"] = place.profile
    search["spec"]["budget"] = {"candidates": 2}
    search["spec"]["verification"] = {"repeats": 1}
    for document in (problem, search):
        document["metadata"]["namespace"] = place.searches
    for document in (profile, problem, search):
        place.apply(document)

    place.wait("tune-only", "Complete", PATIENCE_S)
    status = place.search("tune-only")["status"]
    assert conditions(status)["Published"] == ("True", "Published"), json.dumps(status)
    assert status["progress"]["correct"] == 2
    assert float(status["bestSpeedup"]) > 1  # what is verified; the other one may look as fast, and need no more pods
    published = place.get("configmap", "tune-only-kernel")
    assert published is not None
    (target,) = json.loads(published["data"]["manifest.json"])["targets"]
    assert target["library"]["file"] in published["binaryData"]

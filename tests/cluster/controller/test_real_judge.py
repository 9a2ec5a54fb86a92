"""A search without a scripted anything: the harness's own image compiles, checks and times real kernels in its pods.

The manifest is an example's, with another problem.
"""

from __future__ import annotations

import json
import os

import pytest
import yaml

from .conftest import ROOT, Operator, Place, conditions

EXAMPLE = ROOT / "examples" / "tune-only.yaml"
PROFILE = ROOT / "operator" / "kernelsearch" / "api" / "profiles" / "x86-64-v3.yaml"
PATIENCE_S = 600
REFERENCE = """
import torch
import torch.nn as nn

ROWS, COLUMNS = 1024, 512


class Model(nn.Module):
    def forward(self, d, b):
        return torch.diag(d) @ b


def get_inputs():
    return [torch.rand(ROWS) + 0.5, torch.rand(ROWS, COLUMNS)]


def get_init_inputs():
    return []
"""
SEED = """
#include "problem.h"

constexpr int64_t BLOCK = 128;  // tune: 64, 128, 256

extern "C" int forward(float* out, const float* d, const float* b, int64_t ROWS, int64_t COLUMNS,
                       KernelContext& context) {
  for (int64_t row = 0; row < ROWS; ++row)
    for (int64_t first = 0; first < COLUMNS; first += BLOCK)
      for (int64_t i = first; i < first + BLOCK && i < COLUMNS; ++i)
        out[row * COLUMNS + i] = d[row] * b[row * COLUMNS + i];
  return 0;
}
"""
"""Wins by algebra, whatever vectors this CPU has: the example's own kernel is not faster than torch.compile on all."""


@pytest.mark.timeout(PATIENCE_S + 60, func_only=True)
def test_a_seed_is_searched_verified_and_published(place: Place, operator: Operator, harness_image: str) -> None:
    profile = yaml.safe_load(PROFILE.read_text())
    profile["metadata"]["name"] = place.profile
    for toolchain in profile["spec"]["toolchains"]:
        toolchain["image"] = harness_image
    if "KERNELSEARCH_KUBECONFIG" not in os.environ:
        profile["spec"]["scheduling"]["runtimeClassName"] = "isolated"
    problem, search = yaml.safe_load_all(EXAMPLE.read_text())
    problem["data"][search["spec"]["problem"]["file"]] = REFERENCE
    search["spec"]["problem"]["seeds"][0]["content"] = SEED
    del search["spec"]["problem"]["cases"]
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

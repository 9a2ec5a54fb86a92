"""The seed kernel in examples/tune-only.yaml is right, at every setting of its tunables, on sizes that no one chose."""

from __future__ import annotations

import subprocess
from itertools import product
from pathlib import Path

import pytest
import torch
from kernelharness.facts import describe
from kernelharness.languages.base import get_language
from kernelharness.languages.native import NativeKernel, TensorSpec
from kernelharness.problem import load_case
from kernelharness.protocol import Case
from kernelsearch.api.documents import load_documents
from kernelsearch.api.profiles import packaged_profiles
from kernelsearch.api.translate import to_protocol_problem, to_toolchain
from kernelsearch.search.tunables import find_tunables, set_tunables

DOCUMENTS = load_documents(Path(__file__).resolve().parents[2] / "examples" / "tune-only.yaml")
PROBLEM = to_protocol_problem(DOCUMENTS.search.spec.problem, DOCUMENTS.problem_files())
SOURCE = DOCUMENTS.search.spec.problem.seeds[0].content
TUNABLES = find_tunables(SOURCE)
SETTINGS = [dict(zip((each.name for each in TUNABLES), values, strict=True))
            for values in product(*(each.values for each in TUNABLES))]  # fmt: skip
CORNERS = [SETTINGS[0], SETTINGS[-1]]


@pytest.mark.parametrize("setting", CORNERS, ids=str)
def test_seed_equals_the_reference(setting: dict[str, str], tmp_path: Path) -> None:
    cpp = get_language("cpp")
    odd = Case(name="odd", dims={"ROWS": 37, "COLUMNS": 1003})
    facts = [describe(load_case(PROBLEM, case)) for case in (*PROBLEM.cases, odd)]
    for name, text in cpp.headers(facts).items():
        (tmp_path / name).write_text(text)
    source, library = tmp_path / "kernel.cpp", tmp_path / "kernel.so"
    source.write_text(set_tunables(SOURCE, setting))
    toolchain = to_toolchain(packaged_profiles()["x86-64-v3"], "cpp")
    subprocess.run(cpp.compile_command(toolchain, str(source), str(library), str(tmp_path)), check=True)

    loaded = load_case(PROBLEM, odd)
    model = loaded.make_model(seed=1)
    x, gate = (value for value in loaded.make_inputs(seed=2) if isinstance(value, torch.Tensor))
    out = torch.empty(37)
    tensors = [out, x, gate, *model.parameters()]
    call = NativeKernel(str(library)).prepare([TensorSpec("float32", tuple(each.shape)) for each in tensors], [1003])
    for index, each in enumerate(tensors):
        call.bind(index, each.data_ptr())
    call()
    torch.testing.assert_close(out, model(x, gate).detach(), rtol=1e-4, atol=1e-4)

"""The judge as a whole: purposes, problems of every kind, and the ends that a batch can come to."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from kernelharness.protocol import (
    EXIT_BAD_INPUT,
    Artifact,
    Candidate,
    Case,
    File,
    Purpose,
    Verdict,
    from_artifacts,
)

from .judging import CPP_FORWARD, CPP_HEAD, RunJudge, cpp, python

pytestmark = pytest.mark.timeout(600)

EMBEDDING = """
import torch
import torch.nn as nn

COUNT, ROWS, WIDTH = 300, 50, 24


class Model(nn.Module):
    def __init__(self, rows, width):
        super().__init__()
        self.table = nn.Embedding(rows, width)

    def forward(self, index, scale: float):
        return self.table(index) * scale, index + 1


def get_inputs():
    return [torch.randint(0, ROWS, (COUNT,)), 0.5]


def get_init_inputs():
    return [ROWS, WIDTH]
"""
EMBEDDING_KERNEL = """
#include "problem.h"

extern "C" int forward(float* out0, int64_t* out1, const int64_t* index, const float* table_weight, int64_t COUNT,
                       int64_t WIDTH, int64_t ROWS, double scale, int64_t rows, int64_t width, KernelContext& context) {
  for (int64_t i = 0; i < COUNT; ++i) {
    for (int64_t w = 0; w < WIDTH; ++w) out0[i * WIDTH + w] = table_weight[index[i] * WIDTH + w] * (float)scale;
    out1[i] = index[i] + 1;
  }
  return 0;
}
"""
BATCH_NORM = """
import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(x)


def get_inputs():
    return [torch.rand(64, 8)]
"""
BATCH_NORM_NEW = """
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(x)
"""
BATCH_NORM_STATELESS = BATCH_NORM_NEW.replace(
    "self.norm(x)", "torch.nn.functional.batch_norm(x, None, None, self.norm.weight, self.norm.bias, True)"
)
SUM_BF16 = """
import torch
import torch.nn as nn


class Model(nn.Module):
    def forward(self, x):
        return (x.float() ** 2).sum().to(x.dtype)


def get_inputs():
    return [torch.randn(1000)]
"""
SUM_BF16_KERNEL = """
#include "problem.h"

extern "C" int forward(bfloat16_t* out, const bfloat16_t* x, KernelContext& context) {
  float sum = 0;
  for (int i = 0; i < 1000; ++i) sum += float(x[i]) * float(x[i]);
  out[0] = bfloat16_t(sum);
  return 0;
}
"""
CONSTANT = """
import torch
import torch.nn as nn


class Model(nn.Module):
    def forward(self, x):
        return torch.softmax(x, dim=1).sum(dim=1)


def get_inputs():
    return [torch.rand(32, 16)]
"""
AGREES_AT_FIRST = """
import itertools

import torch
import torch.nn as nn

DRAWN = itertools.count()


class Model(nn.Module):
    def forward(self, x):
        return x.sum()


def get_inputs():
    return [torch.ones(1000) if next(DRAWN) < 9 else torch.rand(1000)]
"""
UNSUPPORTED = CONSTANT.replace("torch.softmax(x, dim=1).sum(dim=1)", "x.to_sparse()")
BROKEN = CONSTANT.replace("torch.softmax(x, dim=1).sum(dim=1)", "x @ x")


DEEP = """
import torch
import torch.nn as nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(8, 8) for _ in range(80)))

    def forward(self, x):
        return self.layers(x) + x

def get_inputs():
    return [torch.randn(4, 8)]

def get_init_inputs():
    return []
"""


def native(name: str, source: str) -> Candidate:
    return Candidate(id=name, files=[File(path="kernel.cpp", content=source)])


def test_probe_tells_facts_header_and_both_baselines(run_judge: RunJudge) -> None:
    judged = run_judge([], purpose=Purpose.PROBE, torch_compile="auto")
    assert judged.exit_code == 0
    assert judged.problem.verdict is Verdict.OK
    assert [case.case for case in judged.problem.cases] == ["wide", "tall", "hidden"]
    assert judged.problem.cases[0].t_min_ns
    pieces = [message for message in judged.messages if isinstance(message, Artifact)]
    assert b"extern" in from_artifacts(pieces)
    arms = {(baseline.case, baseline.arm): baseline for baseline in judged.baselines}
    assert set(arms) == {(case, arm) for case in ("wide", "tall") for arm in ("eager", "compile")}
    assert all(baseline.ns for baseline in arms.values())
    assert all(baseline.noise_percent is not None for baseline in arms.values())


def test_confirmation_sends_the_very_library_that_it_timed(run_judge: RunJudge) -> None:
    judged = run_judge([cpp("winner")], purpose=Purpose.CONFIRM)
    result = judged.results["winner"]
    if result.verdict is Verdict.NOISY_NODE:
        pytest.skip(f"others use this machine too much to confirm anything: {result.summary}")
    assert result.verdict is Verdict.OK
    pieces = [m for m in judged.messages if isinstance(m, Artifact) and m.candidate == "winner"]
    library = from_artifacts(pieces)
    assert library.startswith(b"\x7fELF")
    assert hashlib.sha256(library).hexdigest() == result.binary_hash


def test_compile_baseline_that_the_batch_knows_is_not_run_again(run_judge: RunJudge) -> None:
    judged = run_judge([cpp("one")], torch_compile="auto", compile_ratios={"wide": 2.0, "tall": 0.5})
    assert all("not timed in this batch" in each.note for each in judged.baselines if each.arm == "compile")
    wide, tall = judged.results["one"].cases
    assert (wide.baseline, tall.baseline) == ("eager", "compile")
    for case, ratio in ((wide, 2.0), (tall, 0.5)):
        assert case.speedup_compile == pytest.approx(ratio * (case.speedup_eager or 0))
        assert case.speedup == min(case.speedup_compile, case.speedup_eager or 0)
        assert case.low <= case.speedup <= case.high


def test_compile_baseline_that_the_probe_could_not_have_is_not_tried_again(run_judge: RunJudge) -> None:
    judged = run_judge([cpp("one")], torch_compile="auto", compile_ratios={})
    assert {each.note for each in judged.baselines if each.arm == "compile"} == {"the probe found none"}
    assert all(case.speedup_compile is None for case in judged.results["one"].cases)


def test_network_with_hundreds_of_parameters_is_described_whole(run_judge: RunJudge) -> None:
    judged = run_judge([], purpose=Purpose.PROBE, reference=DEEP, cases=[], language="pytorch")
    assert judged.problem.verdict is Verdict.OK, judged.problem.reason
    assert len(judged.problem.cases[0].parameters) == 2 * 80


@pytest.mark.parametrize(("layers", "cases"), [("300", ["one", "two"]), ("800", ["one"])])
def test_network_with_too_many_parameters_is_refused_with_what_to_do(
    run_judge: RunJudge, layers: str, cases: list[str]
) -> None:
    reference = DEEP.replace("80", layers)
    named = [Case(name=name) for name in cases]
    judged = run_judge([], purpose=Purpose.PROBE, reference=reference, cases=named, language="pytorch")
    assert judged.problem.verdict is Verdict.UNSUPPORTED_PROBLEM
    assert "too many tensors: " in judged.problem.reason
    assert "take a part of it" in judged.problem.reason


def test_integer_inputs_several_outputs_and_scalars(run_judge: RunJudge) -> None:
    wrong = EMBEDDING_KERNEL.replace("index[i] + 1", "index[i]")
    judged = run_judge([native("right", EMBEDDING_KERNEL), native("wrong", wrong)], reference=EMBEDDING, cases=[])
    assert judged.results["right"].verdict is Verdict.OK, judged.results["right"].diagnostics
    assert judged.results["wrong"].verdict is Verdict.WRONG_VALUES
    assert "out1" in judged.results["wrong"].diagnostics


def test_buffers_that_forward_changes_are_outputs(run_judge: RunJudge) -> None:
    candidates = [python("right", source=BATCH_NORM_NEW), python("stateless", source=BATCH_NORM_STATELESS)]
    judged = run_judge(candidates, language="pytorch", reference=BATCH_NORM, cases=[])
    assert any(tensor.name.endswith("_out") for tensor in judged.problem.cases[0].outputs)
    assert judged.results["right"].verdict is Verdict.OK, judged.results["right"].diagnostics
    assert judged.results["stateless"].verdict is not Verdict.OK


def test_half_precision_and_a_scalar_output(run_judge: RunJudge) -> None:
    cases = [Case(name="half", dtype="bfloat16")]
    judged = run_judge([native("right", SUM_BF16_KERNEL)], reference=SUM_BF16, cases=cases)
    assert judged.results["right"].verdict is Verdict.OK, judged.results["right"].diagnostics


def test_numbers_that_agree_on_the_first_sets_by_chance_refuse_no_problem(run_judge: RunJudge) -> None:
    judged = run_judge([], purpose=Purpose.PROBE, reference=AGREES_AT_FIRST, cases=[])
    assert judged.problem.verdict is Verdict.OK, judged.problem.reason


@pytest.mark.parametrize(
    ("reference", "verdict", "said"),
    [
        (CONSTANT, Verdict.DEGENERATE_PROBLEM, "does not depend"),
        (UNSUPPORTED, Verdict.UNSUPPORTED_PROBLEM, "sparse"),
        (BROKEN, Verdict.UNSUPPORTED_PROBLEM, "the reference fails"),
        ("import nowhere_to_be_found", Verdict.UNSUPPORTED_PROBLEM, "nowhere_to_be_found"),
    ],
    ids=["constant", "sparse", "broken", "import"],
)
def test_problem_that_cannot_be_judged_is_refused_with_the_reason(
    run_judge: RunJudge, reference: str, verdict: Verdict, said: str
) -> None:
    judged = run_judge([cpp("never")], reference=reference, cases=[])
    assert judged.exit_code == 0
    assert judged.problem.verdict is verdict
    assert said in judged.problem.reason
    assert judged.results == {}


def test_termination_message_agrees_with_the_log(run_judge: RunJudge, tmp_path: Path) -> None:
    path = tmp_path / "termination"
    judged = run_judge([], reference=CONSTANT, cases=[], arguments=("--termination-message", str(path)))
    assert json.loads(path.read_text())["count"] == len(judged.messages) - 1


@pytest.mark.parametrize("text", ["", "{}", '{"id": "x", "nonsense": 1}'])
def test_wrong_batch_document_is_said_to_be_wrong(text: str) -> None:
    command = [sys.executable, "-m", "kernelharness", "judge", "--batch", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_BAD_INPUT
    assert done.stdout == ""
    assert "batch document is wrong" in done.stderr


def test_a_light_command_line_never_imports_torch() -> None:
    probe = "import sys, kernelharness.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_source_that_reads_files_at_compile_time_finds_none_of_ours(run_judge: RunJudge, tmp_path: Path) -> None:
    secret = tmp_path / "secret.h"
    secret.write_text("#define STOLEN 1\n")
    source = CPP_HEAD + f'#include "{secret}"\n' + CPP_FORWARD % {"before": "", "after": ""}
    result = run_judge([cpp("thief", source=source)]).results["thief"]
    assert result.verdict is Verdict.COMPILE_ERROR

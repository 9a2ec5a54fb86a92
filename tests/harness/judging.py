"""What harness tests share: problems, candidates, and what a real judge said of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kernelharness.protocol import (
    Baseline,
    Candidate,
    Case,
    File,
    Hello,
    Message,
    ProblemFact,
    Result,
)

PROBLEMS = Path(__file__).with_name("problems")
"""Problem files of KernelBench's kind, each with what the judge must say of it in its first lines."""

NOBODY = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"] if os.geteuid() == 0 else []
"""Begins a command that runs without capabilities, as in a pod: root could do what the judge there cannot."""

SCALED_ROWS = (PROBLEMS / "scaled_rows.py").read_text()
"""A normalisation with weights."""

SCALED_ROWS_CASES = [Case(name="wide"), Case(name="tall", dims={"ROWS": 200, "COLUMNS": 64})]

CPP_HEAD = """
#include "problem.h"
#include <cmath>
"""
CPP_FORWARD = """
extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS,
                       int64_t columns, double eps, KernelContext& context) {
  %(before)s
  for (int64_t r = 0; r < ROWS; ++r) {
    const float* row = x + r * COLUMNS;
    float sum = 0;
    for (int64_t c = 0; c < COLUMNS; ++c) sum += row[c] * row[c];
    const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
    for (int64_t c = 0; c < COLUMNS; ++c) out[r * COLUMNS + c] = row[c] * scale * weight[c];
  }
  %(after)s
  return 0;
}
"""

MODEL_NEW = """
import torch
import torch.nn as nn
{head}

class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
{before}
        result = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
{after}
        return result
"""


def cpp(name: str, *, head: str = "", before: str = "", after: str = "", source: str | None = None) -> Candidate:
    """A right kernel for SCALED_ROWS with something around it."""
    text = source if source is not None else CPP_HEAD + head + CPP_FORWARD % {"before": before, "after": after}
    return Candidate(id=name, files=[File(path="kernel.cpp", content=text)])


def python(name: str, *, head: str = "", before: str = "", after: str = "", source: str | None = None) -> Candidate:
    """A right `ModelNew` for SCALED_ROWS with something around it."""

    def indented(text: str) -> str:
        return "\n".join(f"        {line}" for line in (text or "pass").splitlines())

    text = source or MODEL_NEW.format(head=head, before=indented(before), after=indented(after))
    return Candidate(id=name, files=[File(path="kernel.py", content=text)])


@dataclass(frozen=True)
class Judged:
    """What a judge said and how it ended."""

    messages: list[Message]
    exit_code: int
    stderr: str

    @property
    def results(self) -> dict[str, Result]:
        return {message.candidate: message for message in self.messages if isinstance(message, Result)}

    @property
    def hello(self) -> Hello:
        return next(message for message in self.messages if isinstance(message, Hello))

    @property
    def problem(self) -> ProblemFact:
        return next(message for message in self.messages if isinstance(message, ProblemFact))

    @property
    def baselines(self) -> list[Baseline]:
        return [message for message in self.messages if isinstance(message, Baseline)]


RunJudge = Callable[..., Judged]
"""The fixture `run_judge`: candidates in, a whole run of the command line out."""

JudgeBatch = Callable[..., Judged]
"""The fixture `judge_batch`: a batch document in, the same out."""

"""Correctness sets too large to lie on the device together are made a few at a time: what is seen of them is the same.

An input set is 2 GiB, of which five with their answers never fit beside the rest.
"""

from __future__ import annotations

import pytest
from kernelharness.protocol import Case, Stage, Verdict

from .judging import judge_sources

pytestmark = pytest.mark.timeout(300)

LARGE = Case(name="large", dims={"ROWS": 32768, "COLUMNS": 16384})
MODEL = """
import torch


class ModelNew(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.out, self.calls = None, 0

    def forward(self, x):
        self.calls += 1
        {body}
        return self.out
"""
OWN_MEMORY = MODEL.format(body="self.out = torch.softmax(x, dim=-1)")
ONE_MEMORY = MODEL.format(
    body="self.out = torch.empty_like(x) if self.out is None else self.out; torch.softmax(x, dim=-1, out=self.out)"
)
EVERY_SECOND = MODEL.format(body="self.out = torch.softmax(x, dim=-1) if self.calls % 2 else self.out.clone()")


def test_results_that_share_memory_are_copied_and_every_call_of_a_set_is_looked_at() -> None:
    sources = {"own": OWN_MEMORY, "one": ONE_MEMORY, "second": EVERY_SECOND}
    found = judge_sources("softmax", "pytorch", sources, LARGE)
    assert {name: result.verdict for name, result in found.items()} == {
        "own": Verdict.OK,
        "one": Verdict.OK,
        "second": Verdict.WRONG_VALUES,
    }
    assert "copy_out" not in found["own"].flags
    assert "copy_out" in found["one"].flags
    assert found["second"].stage is Stage.CORRECTNESS
    assert "for input set 2 of 5" in found["second"].summary

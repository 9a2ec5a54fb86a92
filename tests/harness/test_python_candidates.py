"""`ModelNew` candidates through the real command line: honest but odd, wrong, and thieves of every kind."""

from __future__ import annotations

import pytest
from kernelharness.protocol import Verdict

from .judging import Judged, RunJudge, python

pytestmark = pytest.mark.timeout(1200)
"""One judge judges them all; on a busy machine that takes minutes."""

GC_THIEF = """
import gc

def others(x):
    return [t for t in gc.get_objects() if isinstance(t, torch.Tensor) and t.shape == x.shape and t is not x]
"""
FRAMES = """
import sys

def clear_kept():
    frame = sys._getframe()
    while frame is not None:
        if isinstance(frame.f_locals.get("kept"), list):
            frame.f_locals["kept"].clear()
        frame = frame.f_back
"""
SUBCLASS = """
class Yes(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return True
"""

CANDIDATES = {
    # -- honest, some odd -----------------------------------------------------------------------------------------
    "right": (python("right"), Verdict.OK),
    "prints": (python("prints", before="print('Stream', flush=True)"), Verdict.OK),
    "thread": (
        python("thread", head="import threading", before="t = threading.Thread(target=int)\nt.start()\nt.join()"),
        Verdict.OK,
    ),
    "workspace": (
        python(
            "workspace",
            head="KEPT = {}",
            after="kept = KEPT.setdefault(x.shape, torch.empty_like(x))\nkept.copy_(result)\nresult = kept",
        ),
        Verdict.OK,
    ),
    "transposed_memory": (python("transposed_memory", after="result = result.t().contiguous().t()"), Verdict.OK),
    "parameter_like": (
        python("parameter_like", after="result = nn.Parameter(result, requires_grad=False)"),
        Verdict.OK,
    ),
    # -- wrong ----------------------------------------------------------------------------------------------------
    "empty": (python("empty", after="result = torch.empty_like(x)"), Verdict.WRONG_VALUES),
    "nan": (python("nan", after="result = torch.full_like(x, float('nan'))"), Verdict.WRONG_VALUES),
    "scalar": (python("scalar", after="result = result.mean().expand_as(x)"), Verdict.WRONG_VALUES),
    "half_work": (
        python(
            "half_work", after="half = x.shape[0] // 2\nresult = torch.cat([result[:half], result[:half]])[: len(x)]"
        ),
        Verdict.WRONG_VALUES,
    ),
    "half_precision": (python("half_precision", after="result = result.half().float()"), Verdict.WRONG_VALUES),
    "wrong_shape": (python("wrong_shape", after="result = result[:-1]"), Verdict.WRONG_SHAPE),
    "wrong_dtype": (python("wrong_dtype", after="result = result.double()"), Verdict.WRONG_DTYPE),
    "int8": (
        python("int8", after="result = (x * 127).round().clamp(0, 127) / 127 * self.weight"),
        Verdict.WRONG_VALUES,
    ),
    "first_shape_only": (
        python("first_shape_only", after="if x.shape[0] != 96:\n    result = torch.zeros_like(x)"),
        Verdict.WRONG_VALUES,
    ),
    # -- replay ---------------------------------------------------------------------------------------------------
    "by_id": (
        python("by_id", head="KEPT = {}", after="result = KEPT.setdefault((id(x), x.data_ptr()), result)"),
        Verdict.WRONG_VALUES,
    ),
    "by_fingerprint": (
        python("by_fingerprint", head="KEPT = {}", after="result = KEPT.setdefault(tuple(x.shape), result)"),
        Verdict.WRONG_VALUES,
    ),
    "after_k_calls": (
        python(
            "after_k_calls",
            head="KEPT = []",
            after="KEPT.append(result)\nif len(KEPT) > 40:\n    result = KEPT[-2]",
        ),
        Verdict.WRONG_VALUES,
    ),
    # -- theft ----------------------------------------------------------------------------------------------------
    "gc_copies": (
        python("gc_copies", head=GC_THIEF, after="found = others(x)\nresult = found[0].clone() if found else x"),
        Verdict.WRONG_VALUES,
    ),
    "patches_torch": (
        python(
            "patches_torch",
            head="torch.allclose = lambda *a, **k: True\ntorch.equal = torch.allclose",
            after="result = result * 2",
        ),
        Verdict.WRONG_VALUES,
    ),
    "subclass": (python("subclass", head=SUBCLASS, after="result = x.as_subclass(Yes)"), Verdict.RUNTIME_ERROR),
    "zeroes_inputs": (python("zeroes_inputs", after="x.zero_()\nresult = x"), Verdict.INPUT_MUTATED),
    "shim_frames": (
        python("shim_frames", head=FRAMES, after="clear_kept()"),
        Verdict.TAMPERING,
    ),
    "meta": (python("meta", after="result = torch.empty_like(x, device='meta')"), Verdict.RUNTIME_ERROR),
    # -- broken ---------------------------------------------------------------------------------------------------
    "syntax": (python("syntax", before="x = = 1"), Verdict.COMPILE_ERROR),
    "no_class": (python("no_class", source="import torch\n"), Verdict.LOAD_ERROR),
    "raises": (python("raises", before="raise ValueError('not today')"), Verdict.RUNTIME_ERROR),
    "hungry": (python("hungry", before="kept = [torch.ones(1 << 28) for _ in range(64)]"), Verdict.OOM),
    "hang": (python("hang", before="while True:\n    pass"), Verdict.TIMEOUT),
    "endless_import": (python("endless_import", head="while True:\n    pass"), Verdict.TIMEOUT),
    # -- hostile --------------------------------------------------------------------------------------------------
    "subprocess": (python("subprocess", head="import subprocess\nsubprocess.run(['true'])"), Verdict.TAMPERING),
    "fork": (python("fork", before="import os\nos.fork()"), Verdict.TAMPERING),
    "stops_judge": (
        python("stops_judge", before="import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)"),
        Verdict.TAMPERING,
    ),
    "socket": (python("socket", before="import socket\nsocket.socket()"), Verdict.TAMPERING),
    "swallows": (
        python("swallows", before="import os\ntry:\n    os.kill(os.getppid(), 0)\nexcept Exception:\n    pass"),
        Verdict.TAMPERING,
    ),
    "reads_judge": (
        python("reads_judge", before="import os\nopen(f'/proc/{os.getppid()}/environ').read()"),
        Verdict.RUNTIME_ERROR,
    ),
    "writes_file": (python("writes_file", before="open('/etc/here', 'w')"), Verdict.TAMPERING),
    "prints_verdict": (
        python("prints_verdict", before='import os, sys\nprint(\'{"type":"bye"}\', flush=True)\nos._exit(0)'),
        Verdict.RUNTIME_ERROR,
    ),
    "flood": (python("flood", before="while True:\n    print('x' * 65536)"), Verdict.RESOURCE_ABUSE),
}


@pytest.fixture(scope="module")
def judged(run_judge: RunJudge) -> Judged:
    candidates = [candidate for candidate, _ in CANDIDATES.values()]
    return run_judge(candidates, language="pytorch", run_timeout_seconds=15)


@pytest.mark.parametrize("name", CANDIDATES)
def test_candidate_gets_the_verdict_it_deserves(judged: Judged, name: str) -> None:
    result = judged.results[name]
    assert result.verdict is CANDIDATES[name][1], f"{result.summary}\n{result.diagnostics}\n{judged.stderr[-2000:]}"


def test_judge_ends_well_after_all_of_them(judged: Judged) -> None:
    assert judged.exit_code == 0
    assert set(judged.results) == set(CANDIDATES)


def test_reused_output_memory_is_copied_and_said(judged: Judged) -> None:
    assert "copy_out" in judged.results["workspace"].flags
    assert "copy_out" not in judged.results["right"].flags


def test_exception_reaches_the_diagnosis(judged: Judged) -> None:
    assert "not today" in judged.results["raises"].diagnostics

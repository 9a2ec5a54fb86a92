"""`ModelNew` candidates through the real command line: right, wrong and broken ones.

Hostile and odd ones are files: adversarial/ and test_adversarial.py.
"""

from __future__ import annotations

import pytest
from kernelharness.protocol import Verdict

from .judging import Judged, RunJudge, python

pytestmark = pytest.mark.timeout(1200)
"""One judge judges them all; on a busy machine that takes minutes."""

CANDIDATES = {
    "right": (python("right"), Verdict.OK),
    "wrong_shape": (python("wrong_shape", after="result = result[:-1]"), Verdict.WRONG_SHAPE),
    "wrong_dtype": (python("wrong_dtype", after="result = result.double()"), Verdict.WRONG_DTYPE),
    "syntax": (python("syntax", before="x = = 1"), Verdict.COMPILE_ERROR),
    "no_class": (python("no_class", source="import torch\n"), Verdict.LOAD_ERROR),
    "raises": (python("raises", before="raise ValueError('not today')"), Verdict.RUNTIME_ERROR),
    "hungry": (python("hungry", before="kept = [torch.ones(1 << 28) for _ in range(64)]"), Verdict.OOM),
    "hang": (python("hang", before="while True:\n    pass"), Verdict.TIMEOUT),
}
"""Small variants of one module, whose few lines say more than a file would."""


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


def test_exception_reaches_the_diagnosis(judged: Judged) -> None:
    assert "not today" in judged.results["raises"].diagnostics

"""Every kernel of the scripted model, judged: none of its cheats passes, each of its honest kernels does.

What a reply says of itself (`expect`) is what a real judge must say of it. So the demo shows real verdicts, and a
change of the judge that lets a cheat through, or refuses honest work, is seen here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from kernelharness.protocol import MAX_CANDIDATE_BYTES, Candidate, Case, File, Verdict
from replies import Scripted, load_problems, load_replies, source_of

from .judging import RunJudge

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "dev/llm/replies"
MANIFESTS = {"rmsnorm": "rmsnorm", "gelu_rowsum": "gelu-rowsum", "matmul_epilogue": "matmul-epilogue"}
"""The manifest under examples/ that holds each problem's cases."""


def cases_of(problem: str) -> list[Case]:
    documents = yaml.safe_load_all((ROOT / f"examples/{MANIFESTS[problem]}.yaml").read_text())
    search = next(document for document in documents if document["kind"] == "KernelSearch")
    return [Case.model_validate(case) for case in search["spec"]["problem"]["cases"]]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("problem", sorted(load_problems(FOLDER)))
def test_every_reply_gets_the_verdict_that_it_deserves(problem: str, run_judge: RunJudge) -> None:
    replies = load_replies(FOLDER / problem)
    judged = {reply.name: reply for reply in replies if reply.kind != "malformed"}
    outcome = run_judge(
        [candidate(reply, replies) for reply in judged.values()],
        reference=(ROOT / f"examples/problems/{problem}.py").read_text(),
        cases=cases_of(problem),
        run_timeout_seconds=10,
    )
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.problem.verdict is Verdict.OK, outcome.problem.reason
    assert set(outcome.results) == set(judged)
    surprises = {
        name: f"{result.verdict}: {result.diagnostics[:300]}"
        for name, result in outcome.results.items()
        if result.verdict not in judged[name].expect
    }
    assert surprises == {}


def candidate(reply: Scripted, replies: list[Scripted]) -> Candidate:
    source = source_of(reply, replies)
    assert len(source.encode()) < MAX_CANDIDATE_BYTES
    return Candidate(id=reply.name, files=[File(path="kernel.cpp", content=source)])

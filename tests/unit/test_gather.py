"""What the journal knows of a winner becomes what is published: its source, its library, its confirmation."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from kernelharness.protocol import Result, Stage, Verdict
from kernelsearch.publish.bundle import BundleError
from kernelsearch.publish.gather import Built, gather_kernels
from kernelsearch.search.journal import CandidateProposed, Operator, TargetLimits, TargetProbed
from kernelsearch.search.records import Candidate, Confirmation, TargetState
from kernelsearch.search.scoring import Score
from kernelsearch.search.state import State

BLOBS = {"source": b"int x;", "header": b"#pragma once", "library": b"ELF"}
BUILT = {"cpu": Built("cpu", ".cc", "x86-64-v3")}


async def read_blob(ref: str) -> bytes:
    return BLOBS[ref]


def confirmation(batch: str, artifact: str = "library", verdict: Verdict = Verdict.OK) -> Confirmation:
    result = Result(
        candidate="c1-cpu",
        verdict=verdict,
        stage=Stage.TIMING,
        summary=batch,
        binary_hash=hashlib.sha256(b"ELF").hexdigest(),
    )
    score = Score(0.7, 0.01) if verdict is Verdict.OK else None
    return Confirmation(batch=batch, node="n", result=result, score=score, artifact_ref=artifact)


def state(*confirmations: Confirmation, language: str = "cpp") -> State:
    proposal = CandidateProposed(
        at_ns=1,
        id="c1-cpu",
        ask_no=1,
        target="cpu",
        operator=Operator.DRAFT,
        lane="c1-cpu",
        model="m",
        source_ref="source",
    )
    candidate = Candidate(proposal=proposal, score=0.7, se=0.01, verified=True, confirmations=confirmations)
    probed = TargetProbed(at_ns=1, target="cpu", device="some CPU", cases=(), baselines=(), header_ref="header")
    target = TargetState(TargetLimits(name="cpu", profile="p", language=language), probed, confirmed_best="c1-cpu")
    known = State()
    return replace(known, candidates=known.candidates.put("c1-cpu", candidate), targets={"cpu": target})


async def test_winner_comes_with_source_header_library_and_its_last_confirmation() -> None:
    (kernel,) = await gather_kernels(state(confirmation("one"), confirmation("two")), BUILT, read_blob)
    assert (kernel.source, kernel.header, kernel.library) == ("int x;", "#pragma once", b"ELF")
    assert (kernel.target, kernel.vendor, kernel.arch, kernel.device) == ("cpu", "cpu", "x86-64-v3", "some CPU")
    assert kernel.suffix == ".cc"
    assert (kernel.candidate, kernel.model, kernel.result.summary) == ("c1-cpu", "m", "two")


async def test_confirmation_of_the_published_library_counts_and_not_a_failed_one() -> None:
    given = state(confirmation("one"), confirmation("two", artifact="", verdict=Verdict.TIMEOUT))
    (kernel,) = await gather_kernels(given, BUILT, read_blob)
    assert kernel.result.summary == "one"


async def test_winner_without_a_confirmation_is_not_published() -> None:
    with pytest.raises(BundleError, match="candidate c1-cpu has no confirmation that fits its library"):
        await gather_kernels(state(), BUILT, read_blob)


async def test_no_winner_is_no_kernel() -> None:
    assert await gather_kernels(State(), BUILT, read_blob) == []

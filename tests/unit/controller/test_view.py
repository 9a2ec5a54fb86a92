"""The status as a view of the journal: what is counted, who leads, why nothing runs, and that it stays small."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from kernelharness.protocol import Baseline, CaseFact, CaseResult, Purpose, Result, Stage, TensorFact, Verdict
from kernelsearch.api.search_status import (
    CandidateStatus,
    Condition,
    FailureStatus,
    KernelSearchStatus,
    TargetStatus,
)
from kernelsearch.controller.conditions import Situation
from kernelsearch.controller.status import turn
from kernelsearch.controller.view import MAX_BYTES, Origin, fitting, geometric_mean_ns, size, status_of
from kernelsearch.evaluate.base import Progress
from kernelsearch.search.journal import (
    BatchDone,
    BatchSubmitted,
    CandidateProposed,
    Event,
    Limits,
    LimitsChanged,
    Operator,
    Published,
    SearchStarted,
    TargetFailed,
    TargetLimits,
    TargetProbed,
)
from kernelsearch.search.state import State, fold

SECOND = 1_000_000_000
START = 1_900_000_000 * SECOND
TENSOR = TensorFact(name="x", shape=[4], dtype="float32")
CASES = (
    CaseFact(case="small", weight=1, inputs=[TENSOR], outputs=[TENSOR]),
    CaseFact(case="large", weight=3, inputs=[TENSOR], outputs=[TENSOR]),
    CaseFact(case="odd", hidden=True, inputs=[TENSOR], outputs=[TENSOR]),
)
ORIGIN = Origin(generation=2, problem_digest="d", epoch=5)


def begun(*targets: str) -> list[Event]:
    limits = Limits(targets=tuple(TargetLimits(name=name, profile="p", language="cpp") for name in targets))
    return [
        SearchStarted(at_ns=START, uid="u", name="s", problem_digest="d", seed=1),
        LimitsChanged(at_ns=START, generation=2, limits=limits),
    ]


def probed(target: str = "cpu") -> TargetProbed:
    times = [("small", "eager", 100), ("small", "compile", 80), ("large", "eager", 1000), ("large", "compile", None)]
    baselines = tuple(Baseline(case=case, arm=arm, ns=ns) for case, arm, ns in times)
    return TargetProbed(
        at_ns=START + SECOND, target=target, device="EPYC", driver="6.1", cases=CASES, baselines=baselines
    )


def proposed(number: int, target: str = "cpu") -> CandidateProposed:
    return CandidateProposed(
        at_ns=START + 2 * SECOND,
        id=f"c{number}-{target}",
        ask_no=number,
        target=target,
        operator=Operator.DRAFT,
        lane=f"c{number}-{target}",
        source_ref=hashlib.sha256(f"{number}".encode()).hexdigest(),
    )


def judged(number: int, ns: tuple[int, int] | None) -> Result:
    cases = [
        CaseResult(case=case, ns=time, low=1, high=1, speedup=base / time, baseline_ns=base, mean_log_ratio=0.7)
        for case, time, base in zip(("small", "large"), ns or (), (80, 1000), strict=False)
    ]
    verdict = Verdict.OK if ns else Verdict.WRONG_VALUES
    return Result(
        candidate=f"c{number}-cpu",
        verdict=verdict,
        stage=Stage.TIMING,
        cases=cases,
        summary="3 of 4 elements differ",
        binary_hash=f"{number}" * 8,
    )


def a_batch(id: str, *results: Result, purpose: Purpose = Purpose.SEARCH, end: bool = True) -> list[Event]:
    candidates = tuple(result.candidate for result in results)
    submitted = BatchSubmitted(at_ns=START + 3 * SECOND, id=id, target="cpu", purpose=purpose, candidates=candidates)
    return [submitted, *([BatchDone(at_ns=START + 9 * SECOND, id=id, results=results)] if end else [])]


def view(state: State, progress: dict[str, Progress] | None = None, **situation: Any) -> KernelSearchStatus:
    return status_of(state, progress or {}, Situation(**situation), ORIGIN, START + 60 * SECOND)


def test_candidates_are_counted_and_ranked() -> None:
    events = [*begun("cpu"), probed(), proposed(1), proposed(2), proposed(3)]
    events += a_batch("cpu-2-0", judged(1, (40, 500)), judged(2, None))
    status = view(fold(events))
    assert status.progress is not None
    assert (status.progress.proposed, status.progress.evaluated, status.progress.correct) == (3, 2, 1)
    assert (status.progress.failed, status.progress.pending) == (1, 1)
    (target,) = status.targets
    assert target.best is not None
    assert (target.best.id, target.best.speedup, target.best.verified) == ("c1-cpu", "2.014", False)
    assert [leader.id for leader in target.leaderboard] == ["c1-cpu"]
    assert status.best_speedup is None, "only what was verified counts as the search's best"
    assert [failure.count for failure in status.failures] == [1]
    assert status.controller_epoch == 5
    assert status.start_time == "2030-03-17T17:46:40Z"


def test_times_are_averaged_as_speedups_are() -> None:
    """Weighted geometric mean of the faster baseline per case; the hidden case has no time."""
    (target,) = view(fold([*begun("cpu"), probed()])).targets
    assert target.baseline_nanoseconds == round((80 * 1000**3) ** 0.25)
    assert target.device == "EPYC, driver 6.1"


@pytest.mark.parametrize("times", [[], [(10, 0)], [(0, 1)]])
def test_no_time_is_better_than_a_wrong_one(times: list[tuple[float, int]]) -> None:
    assert geometric_mean_ns(times) is None


def a_running(purpose: Purpose = Purpose.SEARCH) -> State:
    return fold(
        [*begun("cpu"), probed(), proposed(1), *a_batch("cpu-2-0", judged(1, None), purpose=purpose, end=False)]
    )


WAITING = Progress("cpu", "Unschedulable", "Unschedulable: 0/3 nodes are available", reason="Unschedulable")
STARTING = Progress("cpu", "Pending", "pod x is starting")


@pytest.mark.parametrize(
    ("state", "progress", "expected"),
    [
        pytest.param(fold(begun("cpu")), {}, ("Pending", "waits for its first pod"), id="nothing yet"),
        pytest.param(a_running(), {"cpu-2-0": Progress("cpu", "Running", "pod x")}, ("Searching", ""), id="running"),
        pytest.param(a_running(), {"cpu-2-0": STARTING}, ("Searching", ""), id="between two pods"),
        pytest.param(a_running(Purpose.CONFIRM), {"cpu-2-0": STARTING}, ("Verifying", ""), id="confirming"),
        pytest.param(a_running(), {"cpu-2-0": WAITING}, ("Unschedulable", WAITING.message), id="no node"),
        pytest.param(
            fold([*begun("cpu"), TargetFailed(at_ns=START, target="cpu", reason="NoPod", message="why")]),
            {},
            ("Failed", "NoPod: why"),
            id="failed",
        ),
    ],
)
def test_a_target_says_where_it_stands(state: State, progress: dict[str, Progress], expected: tuple[str, str]) -> None:
    (target,) = view(state, progress).targets
    assert (target.state, target.message) == expected


def test_a_published_config_map_is_named_as_kubectl_names_it() -> None:
    published = Published(at_ns=START, digest="d" * 64, reference="configmap/team-a/kernel", candidates={})
    outputs = view(fold([*begun("cpu"), published])).outputs
    assert outputs is not None
    assert (outputs.reference, outputs.config_map_name) == ("configmap/kernel", "kernel")


def the_largest_status() -> KernelSearchStatus:
    """Every list as long and every string as large as the schema allows."""
    text, word = "\u00e4" * 1024, "w" * 64
    now = "2030-01-01T00:00:00Z"
    candidate = CandidateStatus(
        id=word[:40],
        digest=word,
        nanoseconds=2**62,
        speedup="9" * 12,
        verified=False,
        model="\u00e4" * 64,
        found_at=now,
    )
    target = TargetStatus(
        name=word[:20], state=word[:32], message=text, device=text[:256], best=candidate, leaderboard=(candidate,) * 10
    )
    condition = Condition(
        type=word, status="True", observed_generation=1, last_transition_time=now, reason=word, message=text
    )
    failure = FailureStatus(reason=word, count=1, last_message=text[:512], last_time=now)
    return KernelSearchStatus(conditions=(condition,) * 7, targets=(target,) * 16, failures=(failure,) * 20)


def test_no_search_outgrows_its_status() -> None:
    largest = the_largest_status()
    assert size(largest) > MAX_BYTES
    cut, dropped = fitting(largest)[0]
    assert size(cut) <= MAX_BYTES
    assert "leaderboards" in dropped
    assert [target.best for target in cut.targets] == [target.best for target in largest.targets]
    assert cut.conditions == largest.conditions


def test_a_status_that_fits_is_left_alone() -> None:
    status = view(fold([*begun("cpu"), probed()]))
    assert fitting(status)[0] == (status, "")


def test_searching_and_verifying_alternate_without_a_write_of_their_own() -> None:
    searching, verifying = (
        view(a_running(), activity="Searching"),
        view(a_running(Purpose.CONFIRM), activity="Verifying"),
    )
    assert searching.targets[0].state != verifying.targets[0].state
    assert turn(searching) == turn(verifying)
    held_up = view(a_running(), {"cpu-2-0": WAITING}, activity="Searching")
    assert turn(held_up) != turn(searching)

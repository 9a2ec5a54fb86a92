import math

import pytest
from kernelharness.protocol import CaseFact, CaseResult, Result, Stage, Verdict
from kernelsearch.search.scoring import BASELINE, Score, combine, percent_of_bound, score_of, slow_cases


def fact(name: str, weight: int = 1, hidden: bool = False) -> CaseFact:
    return CaseFact(case=name, weight=weight, hidden=hidden, inputs=[], outputs=[])


def timed(name: str, log_ratio: float, se: float = 0.0, bound: float | None = None) -> CaseResult:
    speedup = math.exp(log_ratio)
    return CaseResult(
        case=name, ns=1, low=speedup, high=speedup, speedup=speedup, baseline_ns=1, mean_log_ratio=log_ratio,
        standard_error=se, percent_of_bound=bound,
    )  # fmt: skip


def judged(*cases: CaseResult, verdict: Verdict = Verdict.OK) -> Result:
    return Result(candidate="c", verdict=verdict, stage=Stage.TIMING, cases=list(cases))


def test_the_score_is_the_weighted_mean_of_log_speedups() -> None:
    score = score_of(judged(timed("a", 0.4, 0.02), timed("b", 0.0, 0.04)), [fact("a", 3), fact("b", 1)])
    assert score is not None
    assert score.mean == pytest.approx(0.3)
    assert score.se == pytest.approx(math.hypot(0.06, 0.04) / 4)


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict is not Verdict.OK])
def test_no_failure_ever_scores(verdict: Verdict) -> None:
    assert score_of(judged(timed("a", 3.0), verdict=verdict), [fact("a")]) is None


def test_a_result_without_all_timed_cases_does_not_score() -> None:
    assert score_of(judged(timed("a", 1.0)), [fact("a"), fact("b")]) is None
    assert score_of(judged(), []) is None


def test_hidden_cases_need_no_time_and_have_no_weight() -> None:
    score = score_of(judged(timed("a", 0.2)), [fact("a"), fact("secret", hidden=True)])
    assert score == Score(0.2, 0.0)


def test_a_score_that_is_no_number_is_no_score() -> None:
    assert score_of(judged(timed("a", math.nan)), [fact("a")]) is None


@pytest.mark.parametrize(
    ("better", "worse", "beats"),
    [
        (Score(0.02, 0.0), BASELINE, True),
        (Score(0.009, 0.0), BASELINE, False),
        (Score(0.10, 0.05), BASELINE, True),
        (Score(0.08, 0.05), BASELINE, False),
        (Score(0.30, 0.03), Score(0.25, 0.03), False),
    ],
)
def test_beating_takes_one_percent_and_significance(better: Score, worse: Score, beats: bool) -> None:
    assert better.beats(worse) is beats


def test_scattered_measurements_are_not_more_certain_than_their_scatter() -> None:
    agreed = combine([Score(0.2, 0.001), Score(0.2, 0.001)])
    scattered = combine([Score(0.1, 0.001), Score(0.3, 0.001)])
    assert agreed.se < 0.001
    assert scattered.se == pytest.approx(0.1)


def test_cases_below_95_percent_are_named() -> None:
    assert slow_cases(judged(timed("a", 0.5), timed("b", math.log(0.94)))) == ("b",)


def test_the_bound_is_unknown_unless_every_case_knows_it() -> None:
    assert percent_of_bound(judged(timed("a", 0.1, bound=96.0), timed("b", 0.1))) is None
    assert percent_of_bound(judged(timed("a", 0.1, bound=90.0), timed("b", 0.1, bound=40.0))) == pytest.approx(60.0)
    assert percent_of_bound(judged(timed("a", 0.1, bound=102.0))) == pytest.approx(100.0)


def test_a_kernel_far_beyond_the_bound_shows_that_the_bound_is_none() -> None:
    assert percent_of_bound(judged(timed("a", 0.1, bound=54.0), timed("b", 0.1, bound=177.0))) is None

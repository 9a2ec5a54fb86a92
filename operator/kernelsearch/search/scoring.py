"""What a result is worth, and when one candidate is better than another.

The score is the logarithm of the headline speedup: the weighted mean over the timed cases of ln(t_base / t_candidate),
with its standard error. Only verdict OK scores; a failure has no score at all, so it can never rank above anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from kernelharness.protocol import CaseFact, Result, Verdict

SIGNIFICANT = 0.01
"""Differences of less than 1 % are not worth calling a win, however well measured."""
ONE_SIDED_95 = 1.64
BEYOND_BOUND_PERCENT = 105.0
"""From here on it is no error of measurement."""
WORST_CASE = math.log(0.95)
"""A kernel that makes any case slower than 0.95x is never published, whatever its mean."""


@dataclass(frozen=True)
class Score:
    """Weighted mean of ln(speedup) and its standard error, both dimensionless."""

    mean: float
    se: float

    @property
    def speedup(self) -> float:
        return math.exp(self.mean)

    def beats(self, other: Score) -> bool:
        """True when the difference is both significant and large enough to matter."""
        margin = max(SIGNIFICANT, ONE_SIDED_95 * math.hypot(self.se, other.se))
        return self.mean - other.mean > margin


BASELINE = Score(0.0, 0.0)
"""The faster arm of the reference: what a kernel has to beat to be an improvement."""


def score_of(result: Result, facts: Iterable[CaseFact]) -> Score | None:
    """None unless the verdict is OK and every timed case of the problem is among the result's cases."""
    if result.verdict is not Verdict.OK or not result.cases:
        return None
    timed = {case.case: case for case in result.cases}
    weights = {fact.case: fact.weight for fact in facts if not fact.hidden} or dict.fromkeys(timed, 1)
    if any(weight > 0 and name not in timed for name, weight in weights.items()):
        return None
    weights = {name: weights.get(name, 0) for name in timed}
    total = sum(weights.values())
    if total == 0:
        weights, total = dict.fromkeys(timed, 1), len(timed)
    mean = sum(weights[name] * case.mean_log_ratio for name, case in timed.items()) / total
    se = math.hypot(*(weights[name] * case.standard_error for name, case in timed.items())) / total
    return Score(mean, se) if math.isfinite(mean) and math.isfinite(se) else None


def combine(scores: Iterable[Score]) -> Score:
    """The mean of independent measurements of one kernel. Its error is never below their scatter."""
    known = tuple(scores)
    mean = sum(score.mean for score in known) / len(known)
    error = math.hypot(*(score.se for score in known)) / len(known)
    if len(known) > 1:
        scatter = math.sqrt(sum((score.mean - mean) ** 2 for score in known) / (len(known) - 1) / len(known))
        error = max(error, scatter)
    return Score(mean, error)


def slow_cases(result: Result) -> tuple[str, ...]:
    """Names of the cases that the kernel makes slower than 0.95x."""
    return tuple(case.case for case in result.cases if case.mean_log_ratio < WORST_CASE)


def percent_of_bound(result: Result) -> float | None:
    """Geometric mean over the cases of t_min / t in percent; None when a case has no known bound.

    A kernel that is faster than the bound shows that the bound is none: the case fits a cache, say, and its ceiling
    was measured on memory.
    """
    shares = [case.percent_of_bound for case in result.cases]
    known = [min(share, 100.0) for share in shares if share is not None and 0 < share <= BEYOND_BOUND_PERCENT]
    if not known or len(known) < len(shares):
        return None
    return math.exp(sum(math.log(share) for share in known) / len(known))

"""The statistics of a comparison: from block times to a speedup with an interval that covers.

A block gives d = ln(baseline time / candidate time). The estimate is Hodges-Lehmann (the median of all Walsh averages),
the interval is the exact Wilcoxon signed-rank one: neither is moved by the outliers that every shared CPU produces.
Pure functions. Neighbour: samples.py, which produces the blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import NormalDist

CONFIDENCE = 0.97
MIN_BLOCKS = 10
"""Below this the interval does not cover what it says."""
_NORMAL_QUANTILE = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_SPREAD_QUANTILE = 1.96
"""Of 95 %, which is what an interval of blocks covers when measuring stops as soon as it is narrow."""
_COUNTED = 64
"""So many signs are counted in all their patterns."""
_PATIENT = 8
"""So many times the most blocks of a rule are measured while others disturb them."""


@dataclass(frozen=True)
class Estimate:
    """A log ratio with its interval: mean > 0 means that the candidate is faster."""

    mean: float
    low: float
    high: float
    samples: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def shifted(self, by: float) -> Estimate:
        """The same against another baseline, whose time is known as exp(by) of this one's."""
        return Estimate(self.mean + by, self.low + by, self.high + by, self.samples)

    def widened(self, spread: float) -> Estimate:
        """The same with something that no number of blocks shows, of this standard deviation."""
        extra = _SPREAD_QUANTILE * spread
        low, high = math.hypot(self.mean - self.low, extra), math.hypot(self.high - self.mean, extra)
        return Estimate(self.mean, self.mean - low, self.mean + high, self.samples)

    @property
    def standard_error(self) -> float:
        return self.half_width / _NORMAL_QUANTILE


@dataclass(frozen=True)
class Rule:
    """When to stop measuring."""

    half_width: float
    """Enough when the interval of the blocks is this narrow."""
    relative: float
    """Or this share of the estimate."""
    max_blocks: int
    budget_ns: int
    """Wall time for one case."""
    block_ns: int
    """Least time of the slowest arm in one block."""
    patience_ns: int
    """Wall time for one case after which whatever there is must do."""
    slower_stops: bool
    """Stop early at a candidate that is clearly slower."""
    balanced_ns: int = 0
    """A block that is balanced may take all arms so long."""
    widened: float = 0.0
    """Or when it is this narrow with what no number of blocks shows."""

    def balanced(self, rounds: int, arms: int, run_ns: float) -> int:
        """Rounds of a block in which every arm has every place equally often, where that is cheap.

        Whoever is first in a round finds other caches than the next: worth a tenth of a short run. `run_ns`: of one
        arm in one round.
        """
        whole = arms * math.ceil(rounds / arms)
        return whole if whole * arms * run_ns <= self.balanced_ns else rounds

    def is_enough(self, ratios: Sequence[float], spent_ns: int, spread: float) -> bool:
        """Of undisturbed blocks. `spread`: what `Estimate.widened` adds to their interval."""
        count = len(ratios)
        if self.slower_stops and count >= MIN_BLOCKS // 2 and max(ratios) < math.log(0.9):
            return True
        if count < MIN_BLOCKS:
            return False
        found = estimate(ratios)
        narrow = found.half_width <= max(self.half_width, self.relative * abs(found.mean))
        told = found.widened(spread).half_width <= self.widened
        return narrow or told or count >= self.max_blocks or spent_ns >= self.budget_ns

    def gives_up(self, blocks: int, spent_ns: int) -> bool:
        """Whether what there is must do, of so many blocks, disturbed or not."""
        return spent_ns > self.patience_ns or blocks >= _PATIENT * self.max_blocks


SCREENING = Rule(
    0.035,
    0.1,
    max_blocks=16,
    budget_ns=600_000_000,
    patience_ns=4_000_000_000,
    block_ns=3_000_000,
    slower_stops=True,
    balanced_ns=100_000_000,
)
"""The half-width is near what two processes of one program differ by on a CPU (devices/cpu.py): the interval is widened
by that, so more blocks would hardly make it narrower. Where noise decides, longer blocks would not either, nor would
more time by much: docs/decisions/0014.
"""
SCREENING_DEVICE = replace(
    SCREENING,
    half_width=0.0055,
    relative=0.03,
    max_blocks=64,
    budget_ns=3_000_000_000,
    block_ns=14_000_000,
    balanced_ns=0,
    widened=0.0095,
)
"""Of a device with a clock of its own: less noise, but rounds that cost more than the calls in them. What is told is to
be within 1 %.
"""
CONFIRMING = Rule(
    0.005,
    0.1,
    max_blocks=40,
    budget_ns=20_000_000_000,
    patience_ns=25_000_000_000,
    block_ns=50_000_000,
    slower_stops=False,
    balanced_ns=600_000_000,
)


def estimate(ratios: Sequence[float]) -> Estimate:
    """Hodges-Lehmann with the signed-rank interval. Raise ValueError without any ratio.

    With fewer than six ratios no such interval exists at this confidence: then the extremes are the ends.
    """
    if not ratios:
        raise ValueError("an estimate needs at least one block")
    walsh = walsh_averages(ratios)
    rank = interval_rank(len(ratios))
    return Estimate(_median(walsh), walsh[rank], walsh[-1 - rank], len(ratios))


def walsh_averages(values: Sequence[float]) -> list[float]:
    """All (x_i + x_j) / 2 with i <= j, sorted."""
    return sorted((x + y) / 2 for index, x in enumerate(values) for y in values[index:])


@cache
def interval_rank(count: int, confidence: float = CONFIDENCE) -> int:
    """How many Walsh averages to leave out at each end: the largest k with P(W+ < k) <= (1 - confidence) / 2.

    W+ is the signed-rank statistic of `count` symmetric values, counted exactly; of many, as the normal distribution
    has it.
    """
    if count > _COUNTED:
        mean, variance = count * (count + 1) / 4, count * (count + 1) * (2 * count + 1) / 24
        return math.floor(mean - NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(variance))
    ways = [1]
    for rank in range(1, count + 1):
        longer = ways + [0] * rank
        for index, number in enumerate(ways):
            longer[index + rank] += number
        ways = longer
    limit = (1 - confidence) / 2 * 2**count
    total, rank = 0, 0
    while total + ways[rank] <= limit:
        total += ways[rank]
        rank += 1
    return max(0, rank - 1) if rank else 0


def noise_of(ratios: Sequence[float]) -> float:
    """What two copies of the same arm differ by: the farther end of their interval, as a log ratio."""
    found = estimate(ratios)
    return max(abs(found.low), abs(found.high))


def calls_per_round(call_ns: float, block_ns: int, most: int) -> tuple[int, int]:
    """(R, K): calls of a round, `most` of them or fewer, each on a slot of its own, and rounds of a block, so that a
    block is long enough; where memory allows few calls, nearly: with one round more it could be twice as long.
    """
    fitting = block_ns / max(1.0, call_ns)
    calls = max(1, min(math.ceil(fitting), most))
    return calls, max(1, round(fitting / calls))


def _median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2

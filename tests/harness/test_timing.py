"""The interval covers what it says, the estimate is Hodges and Lehmann's, and measuring stops when it should."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest
from kernelharness.bench import AGAIN, CaseBench
from kernelharness.protocol import CaseFact
from kernelharness.reference import again_is_better
from kernelharness.timing import (
    CONFIDENCE,
    MIN_BLOCKS,
    SCREENING,
    SCREENING_DEVICE,
    Rule,
    calls_per_round,
    estimate,
    interval_rank,
    noise_of,
    walsh_averages,
)


def test_estimate_is_the_median_of_all_pairwise_means() -> None:
    values = [0.1, 0.4, -0.2, 0.9]
    pairs = sorted((a + b) / 2 for a, b in itertools.combinations_with_replacement(values, 2))
    assert walsh_averages(values) == pytest.approx(pairs)
    assert estimate(values).mean == pytest.approx((pairs[4] + pairs[5]) / 2)


def test_one_wild_block_moves_neither_estimate_nor_interval_far() -> None:
    calm = [0.1 + 0.001 * i for i in range(12)]
    wild = [*calm[:-1], 50.0]
    assert estimate(wild).mean == pytest.approx(estimate(calm).mean, abs=0.01)
    assert estimate(wild).low == pytest.approx(estimate(calm).low, abs=0.01)


def test_what_no_block_shows_widens_the_interval() -> None:
    narrow = estimate([0.1 + 0.0001 * i for i in range(12)])
    wide = narrow.widened(0.01)
    assert wide.mean == narrow.mean
    assert wide.half_width == pytest.approx(0.0196, abs=0.0002)
    assert narrow.widened(0.0).half_width == pytest.approx(narrow.half_width)


def test_interval_rank_is_the_exact_signed_rank_quantile() -> None:
    # By enumeration of all sign patterns: the statistic is the sum of the ranks with a positive sign.
    for count in (8, 10, 12, 13):
        sums = [
            sum(rank for rank, sign in enumerate(signs, 1) if sign) for signs in itertools.product((0, 1), repeat=count)
        ]
        left_out = interval_rank(count) + 1
        assert sum(total < left_out for total in sums) / len(sums) <= (1 - CONFIDENCE) / 2 + 1e-12
        assert sum(total < left_out + 1 for total in sums) / len(sums) > (1 - CONFIDENCE) / 2


def test_interval_rank_of_many_blocks_goes_on_as_that_of_few() -> None:
    def near(count: int) -> float:
        return count * (count + 1) / 4 - 2.17009 * math.sqrt(count * (count + 1) * (2 * count + 1) / 24)

    for count in (40, 64, 65, 100, 5000):
        assert interval_rank(count) == pytest.approx(near(count), abs=1.5)


@pytest.mark.parametrize("shape", ["normal", "heavy tails", "outliers on one side"])
def test_interval_covers_the_true_ratio(shape: str) -> None:
    draw = random.Random(7)

    def block() -> float:
        if shape == "normal":
            return draw.gauss(0.3, 0.02)
        if shape == "heavy tails":
            return 0.3 + 0.01 * draw.gauss(0, 1) / max(0.05, abs(draw.gauss(0, 1)))
        return draw.gauss(0.3, 0.02) + (0.3 if draw.random() < 0.05 else 0.0)

    runs = 1500
    covered = 0
    for _ in range(runs):
        found = estimate([block() for _ in range(MIN_BLOCKS)])
        covered += found.low <= 0.3 <= found.high
    assert covered / runs >= 0.945


def test_optional_stopping_keeps_the_coverage() -> None:
    draw = random.Random(11)
    rule = Rule(0.01, 0.0, max_blocks=40, budget_ns=10**12, patience_ns=10**12, block_ns=1, slower_stops=False)
    runs = 400
    covered = 0
    for _ in range(runs):
        ratios: list[float] = []
        while not rule.is_enough(ratios, 0, 0.0):
            ratios.append(draw.gauss(0.2, 0.03))
        found = estimate(ratios)
        covered += found.low <= 0.2 <= found.high
    assert covered / runs >= 0.93


def test_standard_error_is_the_normal_equivalent_of_the_interval() -> None:
    draw = random.Random(3)
    errors = [estimate([draw.gauss(0, 1) for _ in range(40)]).standard_error for _ in range(200)]
    assert sum(errors) / len(errors) == pytest.approx(1 / math.sqrt(40), rel=0.15)


def test_no_ratio_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        estimate([])


def test_screening_stops_early_only_for_what_is_clearly_slower() -> None:
    assert SCREENING.is_enough([math.log(0.5)] * 5, 0, 0.0)
    assert not SCREENING.is_enough([math.log(0.97)] * 5, 0, 0.0)
    assert not SCREENING.is_enough([math.log(0.5)] * 4, 0, 0.0)


def test_a_narrow_interval_is_enough_and_a_wide_one_runs_until_the_budget_ends() -> None:
    narrow = [0.5 + 0.001 * (i % 3) for i in range(MIN_BLOCKS)]
    wide = [0.5 + 0.3 * (i % 3) for i in range(MIN_BLOCKS)]
    assert SCREENING.is_enough(narrow, 0, 0.0)
    assert not SCREENING.is_enough(wide, 0, 0.0)
    assert SCREENING.is_enough(wide, SCREENING.budget_ns, 0.0)
    assert SCREENING.is_enough(wide * 2, 0, 0.0)


def test_what_two_processes_differ_by_counts_where_a_whole_interval_is_to_be_narrow() -> None:
    blocks = [0.5 + 0.0126 * (i % 3) for i in range(2 * MIN_BLOCKS)]
    rule = replace(SCREENING_DEVICE, relative=0.0)
    widths = {spread: estimate(blocks).widened(spread).half_width for spread in (0.0, 0.003, 0.006)}
    assert rule.half_width < widths[0.0] < widths[0.003] < rule.widened < widths[0.006]
    assert rule.is_enough(blocks, 0, 0.003)
    assert not rule.is_enough(blocks, 0, 0.006)


def test_measuring_gives_up_by_time_and_by_number_of_disturbed_blocks() -> None:
    assert not SCREENING.gives_up(SCREENING.max_blocks, SCREENING.patience_ns)
    assert SCREENING.gives_up(0, SCREENING.patience_ns + 1)
    assert SCREENING.gives_up(8 * SCREENING.max_blocks, 0)


def test_noise_is_the_farther_end_of_an_a_a_interval() -> None:
    ratios = [0.01, -0.02, 0.015, 0.0, -0.005, 0.01, 0.0, -0.01, 0.005, 0.02]
    found = estimate(ratios)
    assert noise_of(ratios) == max(abs(found.low), abs(found.high))


def test_rounds_are_long_enough_and_fit_the_memory() -> None:
    calls, rounds = calls_per_round(call_ns=1000, block_ns=1_000_000, most=256)
    assert calls == 256
    assert calls * rounds * 1000 >= 1_000_000
    assert calls_per_round(1e9, 1_000_000, 256) == (1, 1)
    assert calls_per_round(11e6, 14_000_000, 1) == (1, 1)
    assert calls_per_round(6e6, 14_000_000, 1) == (1, 2)
    assert calls_per_round(6e6, 14_000_000, 2) == (2, 1)


def test_short_blocks_are_balanced_and_long_ones_need_not_be() -> None:
    assert SCREENING.balanced(1, 2, 6e6) == 2
    assert SCREENING.balanced(4, 3, 5e6) == 6
    assert SCREENING.balanced(1, 3, 50e6) == 1


def test_an_eager_arm_that_is_slower_than_chance_makes_room_for_its_twin() -> None:
    def case(eager: float) -> CaseBench:
        fact = CaseFact(case="one", inputs=[], outputs=[], bytes_min=0)
        found = CaseBench.of(0, fact)
        found.baseline_ns = {"eager": eager, AGAIN: 100.0}
        return found

    assert again_is_better([case(110.0), case(100.0)], 0.012)
    assert not again_is_better([case(102.0)], 0.012)
    assert not again_is_better([case(110.0), case(92.0)], 0.012)

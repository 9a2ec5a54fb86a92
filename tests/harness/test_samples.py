"""Disturbed blocks count only when there is nothing better, and that is said."""

from __future__ import annotations

import math

import pytest
from kernelharness.bench import CANDIDATE
from kernelharness.samples import Block, Samples
from kernelharness.timing import MIN_BLOCKS


def block(eager: float, candidate: float, *, disturbed: bool = False) -> Block:
    return Block({"eager": eager, CANDIDATE: candidate}, disturbed)


def test_disturbed_blocks_are_left_out_when_there_are_enough_others() -> None:
    samples = Samples(["eager", CANDIDATE], calls=10)
    for _ in range(MIN_BLOCKS):
        samples.add(block(200, 100))
        samples.add(block(9000, 100, disturbed=True))
    assert samples.ratios("eager", CANDIDATE) == pytest.approx([math.log(2)] * MIN_BLOCKS)
    assert samples.call_ns("eager") == 20
    assert samples.run_ns("eager") == 200
    assert samples.disturbed == MIN_BLOCKS
    assert not samples.is_noisy


def test_disturbed_blocks_count_when_there_are_too_few_others() -> None:
    samples = Samples(["eager", CANDIDATE], calls=1)
    samples.add(block(200, 100))
    for _ in range(3):
        samples.add(block(400, 100, disturbed=True))
    assert len(samples.ratios("eager", CANDIDATE)) == 4
    assert samples.clean_ratios("eager", CANDIDATE) == pytest.approx([math.log(2)])
    assert samples.is_noisy


def test_a_block_is_the_time_of_all_its_rounds() -> None:
    samples = Samples(["eager", CANDIDATE], calls=10, rounds=4)
    samples.add(block(800, 400))
    assert samples.run_ns("eager") == 200
    assert samples.call_ns(CANDIDATE) == 10

"""Disturbed blocks count only when there is nothing better, and that is said."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from kernelharness.bench import AGAIN, CANDIDATE, Bench, CaseBench
from kernelharness.devices.base import Interference
from kernelharness.protocol import CaseFact
from kernelharness.reference import time_baselines
from kernelharness.samples import Block, Samples
from kernelharness.secret import Secret
from kernelharness.timing import CONFIRMING, MIN_BLOCKS


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


class _BusyUntilTimed(Bench):
    """A machine on which first calls took 25 ms because of others; from then on they take 0.1 ms, and still wait."""

    def __init__(self, *, clean_from: int) -> None:
        waiting: Any = SimpleNamespace(watch=Interference, round_bytes=1 << 30)
        waiting.capacity = lambda name: 1 << 30
        super().__init__(waiting, reference=SimpleNamespace(), secret=Secret(bytes(32)), limit_seconds=1.0)  # type: ignore[arg-type]
        self.planned: list[int] = []
        self._clean_from = clean_from

    def load(self, runner: Any, case: CaseBench) -> None: ...
    def calibrate(self, case: CaseBench) -> None: ...
    def settle(self, arms: dict[str, Any]) -> None: ...
    def warm_up(self, case: CaseBench, arms: dict[str, Any], calls: int, flags: int = 0) -> None: ...

    def show_arena(self, runner: Any, case: CaseBench, calls: int) -> None:
        self.planned.append(calls)

    def call_ns(self, case: CaseBench, runner: Any, flags: int = 0) -> float:
        return 25e6

    def round(self, case: CaseBench, arms: Any, order: Any, calls: int, *_: Any, **__: Any) -> dict[str, float]:
        self.waited_ns += 0 if calls >= self._clean_from else 100_000
        return dict.fromkeys(order, calls * 1e5)


def test_baselines_whose_first_calls_were_slow_are_timed_in_blocks_that_are_long_enough() -> None:
    bench = _BusyUntilTimed(clean_from=100)
    case = CaseBench.of(0, CaseFact(case="one", inputs=[], parameters=[], outputs=[], bytes_min=0))
    time_baselines(bench, case, {"eager": None, AGAIN: None}, CONFIRMING)  # type: ignore[dict-item]
    assert bench.planned == [2, 2, 256, 256]
    assert case.baseline_ns == {"eager": 1e5, AGAIN: 1e5}


def test_baselines_that_are_disturbed_for_ever_are_what_there_is() -> None:
    bench = _BusyUntilTimed(clean_from=10_000)
    case = CaseBench.of(0, CaseFact(case="one", inputs=[], parameters=[], outputs=[], bytes_min=0))
    time_baselines(bench, case, {"eager": None, AGAIN: None}, CONFIRMING)  # type: ignore[dict-item]
    assert case.baseline_ns == {"eager": 1e5, AGAIN: 1e5}
    assert case.noise == 0

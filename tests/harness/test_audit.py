"""A call that needs its inputs takes as long alone as in a row; one that does not gains nothing, or is rejected."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from kernelharness.audit import Audit
from kernelharness.bench import CANDIDATE, CaseBench
from kernelharness.devices.base import Alone, Device
from kernelharness.protocol import CaseFact, Verdict
from kernelharness.samples import Block, Samples
from kernelharness.timing import MIN_BLOCKS
from kernelharness.verdicts import Rejection

EAGER_US, ROW_US, NOTHING_US = 100.0, 50.0, 70.0
CPU = {"gates_calls": True, "alone_limit": Device.alone_limit, "singly_spread_ns": 5_000.0}
GPU = {"gates_calls": True, "alone_limit": (1.1, 5_000.0), "singly_spread_ns": 0.0}
ELSEWHERE = {"gates_calls": False, "alone_limit": Device.alone_limit, "singly_spread_ns": 0.0}


def audit(kind: dict[str, Any], alone_us: list[float], *, eager_us: float = EAGER_US, waits: bool = True) -> Audit:
    """Of a candidate with these times, one audit after the other, the last for ever; beside what nothing takes."""
    took = iter(alone_us)
    last = alone_us[-1]

    def one_by_one(_case: Any, arms: Any, calls: int, _flags: int) -> tuple[dict[str, Alone], float]:
        assert calls == 16
        us = {"eager": eager_us, CANDIDATE: next(took, last)}
        return {name: Alone(1e3 * (us[name] + NOTHING_US), waits) for name in arms}, 1e3 * NOTHING_US

    def round_(_case: Any, arms: Any, *_: Any, **__: Any) -> dict[str, float]:
        return {"eager": 1e3 * eager_us, CANDIDATE: 1e3 * next(took, last)}

    case = CaseBench.of(0, CaseFact(case="one", inputs=[], parameters=[], outputs=[], bytes_min=0))
    case.baseline_ns = {"eager": 1e3 * EAGER_US}
    row = Samples(["eager", CANDIDATE], calls=40)
    for _ in range(MIN_BLOCKS):
        row.add(Block({"eager": 40e3 * EAGER_US, CANDIDATE: 40e3 * ROW_US}, disturbed=False))
    bench: Any = SimpleNamespace(device=SimpleNamespace(**kind), one_by_one=one_by_one, round=round_)
    arms: Any = {"eager": None, CANDIDATE: None}
    return Audit(bench, case, arms, 40, row, "eager", 0, lambda count: None)


def test_calls_that_are_no_slower_one_by_one_are_asked_three_times() -> None:
    singly = audit(CPU, [ROW_US + 20], eager_us=EAGER_US + 60).run()
    assert singly is not None
    assert singly.count == 3


def test_the_arms_take_turns_in_being_the_first() -> None:
    asked = audit(CPU, [ROW_US + 40])
    one_by_one, orders = asked.bench.one_by_one, []

    def recorded(case: Any, arms: Any, *more: Any) -> Any:
        orders.append(list(arms))
        return one_by_one(case, arms, *more)

    asked.bench.one_by_one = recorded  # type: ignore[method-assign]
    asked.run()
    assert orders[0] != orders[1]
    assert orders == orders[:2] * (MIN_BLOCKS // 2)


def test_a_bad_moment_for_doing_nothing_leaves_the_calls_their_times() -> None:
    asked = audit(CPU, [ROW_US + 40])
    one_by_one = asked.bench.one_by_one
    empty = iter([1e3 * NOTHING_US, 1e6])

    def disturbed(*given: Any) -> Any:
        found, nothing = one_by_one(*given)
        return found, next(empty, nothing)

    asked.bench.one_by_one = disturbed  # type: ignore[method-assign]
    singly = asked.run()
    assert singly is not None
    assert singly.ratios("eager", CANDIDATE) == pytest.approx([math.log(EAGER_US / (ROW_US + 40))] * MIN_BLOCKS)


def test_calls_that_are_slower_one_by_one_are_timed_as_often_as_an_interval_needs() -> None:
    singly = audit(CPU, [ROW_US + 40]).run()
    assert singly is not None
    assert singly.count == MIN_BLOCKS
    assert singly.call_ns(CANDIDATE) == pytest.approx(1e3 * (ROW_US + 40))
    assert singly.call_ns("eager") == pytest.approx(1e3 * EAGER_US)


@pytest.mark.parametrize(("kind", "alone_us"), [(CPU, 460.0), (GPU, 62.0), (ELSEWHERE, 460.0)])
def test_calls_that_are_far_slower_alone_work_ahead(kind: dict[str, Any], alone_us: float) -> None:
    with pytest.raises(Rejection) as rejection:
        audit(kind, [alone_us]).run()
    assert rejection.value.verdict is Verdict.TIMING_MISMATCH
    assert str(rejection.value) == (
        f"a call alone took {alone_us:.0f} us, one of 40 in a row 50 us: it works ahead, on inputs that users do not "
        "have yet, or waits for its own threads"
    )


@pytest.mark.parametrize(("kind", "alone_us"), [(CPU, 440.0), (GPU, 59.0), (ELSEWHERE, 440.0)])
def test_a_little_slower_is_no_proof(kind: dict[str, Any], alone_us: float) -> None:
    singly = audit(kind, [alone_us]).run()
    assert (singly.count if singly else 0) == (MIN_BLOCKS if kind is CPU else 0)


def test_others_on_the_machine_do_not_make_a_candidate_guilty() -> None:
    assert audit(GPU, [900.0, 900.0, 900.0, 900.0, ROW_US]).run() is None
    with pytest.raises(Rejection):
        audit(GPU, [900.0]).run()


def test_what_waking_up_costs_eager_is_no_proof_either() -> None:
    singly = audit(CPU, [200.0], eager_us=EAGER_US + 60).run()
    assert singly is not None
    assert singly.call_ns(CANDIDATE) == pytest.approx(200e3)


def test_a_candidate_whose_calls_wait_for_the_device_may_when_eager_does() -> None:
    assert audit(GPU, [ROW_US + 40], eager_us=EAGER_US + 60).run() is None

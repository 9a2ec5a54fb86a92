"""The bound is of the function, not of the kernel."""

from __future__ import annotations

import pytest
from kernelharness.devices.base import Ceilings
from kernelharness.protocol import CaseFact, TensorFact
from kernelharness.roofline import bound_of, compute_dtype, is_extraordinary, is_impossible, with_bound

CEILINGS = Ceilings(10e9, {"float32": 100e9, "bfloat16": 400e9})


def case(rows: int, columns: int, flops: int | None = None, dtype: str = "float32") -> CaseFact:
    fact = TensorFact(name="x", shape=[rows, columns], dtype=dtype)
    nbytes = 2 * rows * columns * (4 if dtype == "float32" else 2)
    return CaseFact(case="c", inputs=[fact], outputs=[fact], bytes_min=nbytes, flops=flops)


def test_memory_bound_is_bytes_over_bandwidth() -> None:
    bound = bound_of(case(1000, 1000), CEILINGS)
    assert (bound.t_min_ns, bound.kind) == (800_000, "memory")
    assert bound.percent(1_600_000) == pytest.approx(50.0)
    assert bound.gigabytes_per_second(800_000) == pytest.approx(10.0)


def test_compute_bound_is_operations_over_the_rate_of_the_dtype() -> None:
    assert bound_of(case(10, 10, 10**9), CEILINGS).t_min_ns == 10_000_000
    bound = bound_of(case(10, 10, 10**9, "bfloat16"), CEILINGS)
    assert (bound.t_min_ns, bound.kind) == (2_500_000, "compute")


def test_unknown_dtype_takes_the_best_rate_so_that_the_bound_stays_one() -> None:
    fact = case(10, 10, 10**9, "float16")
    assert compute_dtype(fact) == "float16"
    assert bound_of(fact, CEILINGS).t_min_ns == 2_500_000


def test_fact_is_sent_with_its_bound() -> None:
    fact = with_bound(case(1000, 1000), CEILINGS)
    assert (fact.t_min_ns, fact.bound) == (800_000, "memory")


def test_faster_than_writing_the_outputs_is_impossible_and_faster_than_the_bound_only_extraordinary() -> None:
    fact = case(1000, 1000)
    assert is_impossible(fact, 300_000, CEILINGS, cache_bytes=0)
    assert not is_impossible(fact, 400_000, CEILINGS, cache_bytes=0)
    assert is_extraordinary(fact, 400_000, CEILINGS)
    assert not is_extraordinary(fact, 900_000, CEILINGS)


def test_outputs_that_fit_into_caches_may_be_written_faster_than_memory() -> None:
    fact = case(1000, 1000)
    assert not is_impossible(fact, 300_000, CEILINGS, cache_bytes=32 << 20)
    assert is_impossible(fact, 10_000, CEILINGS, cache_bytes=32 << 20)

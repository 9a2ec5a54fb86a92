"""What a round owes a candidate, and what it does not: secrets it cannot foresee, and no say in the others' work."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from kernelharness.bench import CANDIDATE, WHOLE, Bench, CaseBench
from kernelharness.channel import RunFlag
from kernelharness.protocol import CaseFact
from kernelharness.secret import Secret


def test_what_a_candidates_results_need_costs_no_baseline_time() -> None:
    asked: dict[Any, int] = {}
    device: Any = SimpleNamespace(evict=lambda nbytes: None, waited_ns=lambda runner: 0)
    bench = Bench(device, reference=SimpleNamespace(), secret=Secret(bytes(32)), limit_seconds=1.0)  # type: ignore[arg-type]
    bench.fill_arena = lambda case, calls: None  # type: ignore[method-assign]
    bench.run = lambda runner, flags=0, part=WHOLE: asked.setdefault(runner, flags) + 1  # type: ignore[method-assign]
    case = CaseBench.of(0, CaseFact(case="one", inputs=[], parameters=[], outputs=[], bytes_min=0))
    arms: Any = {"eager": "E", CANDIDATE: "U", "again": "A"}
    bench.round(case, arms, list(arms), 1, RunFlag.COPY_OUT)
    assert asked == {"E": RunFlag.NONE, "U": RunFlag.COPY_OUT, "A": RunFlag.NONE}


def test_only_what_baselines_wait_in_their_turns_is_waiting() -> None:
    waited = dict.fromkeys("EUA", 0)

    def let_all_wait(*_: Any, **__: Any) -> int:
        for runner in waited:
            waited[runner] += 7
        return 1

    device: Any = SimpleNamespace(evict=lambda nbytes: None, waited_ns=lambda runner: waited[runner])
    bench = Bench(device, reference=SimpleNamespace(), secret=Secret(bytes(32)), limit_seconds=1.0)  # type: ignore[arg-type]
    bench.fill_arena = let_all_wait  # type: ignore[method-assign, assignment]
    bench.run = let_all_wait  # type: ignore[method-assign]
    case = CaseBench.of(0, CaseFact(case="one", inputs=[], parameters=[], outputs=[], bytes_min=0))
    arms: Any = {"eager": "E", CANDIDATE: "U", "again": "A"}
    bench.round(case, arms, list(arms), 1)
    assert bench.waited_ns == 2 * 7

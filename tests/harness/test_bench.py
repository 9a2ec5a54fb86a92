"""What a round owes a candidate, and what it does not: secrets it cannot foresee, and no say in the others' work."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from kernelharness.bench import CANDIDATE, WHOLE, Bench, CaseBench, Secret
from kernelharness.channel import RunFlag
from kernelharness.protocol import CaseFact


def test_every_byte_of_the_entropy_counts() -> None:
    keys = [bytearray(32) for _ in range(33)]
    for place in range(32):
        keys[place][place] = 1
    assert len({Secret(bytes(key)).draw() for key in keys}) == len(keys)


def test_a_secret_never_repeats_itself() -> None:
    secret = Secret(bytes(32))
    drawn = [secret.draw() for _ in range(1000)]
    assert len(set(drawn)) == 1000
    assert all(0 <= number < 1 << 62 for number in drawn)


def test_what_a_candidates_results_need_costs_no_baseline_time() -> None:
    asked: dict[Any, int] = {}
    device: Any = SimpleNamespace(evict=lambda nbytes: None)
    bench = Bench(device, reference=SimpleNamespace(), secret=Secret(bytes(32)), limit_seconds=1.0)  # type: ignore[arg-type]
    bench.fill_arena = lambda case, calls: None  # type: ignore[method-assign]
    bench.run = lambda runner, flags=0, part=WHOLE: asked.setdefault(runner, flags) + 1  # type: ignore[method-assign]
    case = CaseBench.of(0, CaseFact(case="one", inputs=[], parameters=[], outputs=[], bytes_min=0))
    arms: Any = {"eager": "E", CANDIDATE: "U", "again": "A"}
    bench.round(case, arms, list(arms), 1, RunFlag.COPY_OUT)
    assert asked == {"E": RunFlag.NONE, "U": RunFlag.COPY_OUT, "A": RunFlag.NONE}

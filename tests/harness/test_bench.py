"""What a round owes a candidate, and what it does not: secrets it cannot foresee, and no say in the others' work."""

from __future__ import annotations

import mmap
from types import SimpleNamespace
from typing import Any

import torch
from kernelharness.bench import CANDIDATE, WHOLE, Bench, CaseBench
from kernelharness.channel import Order, OrderKind, RunFlag
from kernelharness.languages.native import CPU
from kernelharness.layout import layout_of
from kernelharness.protocol import CaseFact, File, Problem, TensorFact
from kernelharness.secret import Secret
from kernelharness.slots import stack_at
from kernelharness.torch_arms import ReferenceArm


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


def test_sets_that_the_reference_makes_at_once_are_as_different_as_others() -> None:
    source = "import torch\nModel = torch.nn.Identity\ndef get_inputs(): return [torch.randint(0, 1 << 30, (8,))]"
    problem = Problem(files=[File(path="reference.py", content=source)])
    desk = mmap.mmap(-1, 1 << 20)
    memory: Any = SimpleNamespace(device_type=CPU, map=lambda name: desk)
    config = {"problem": problem.model_dump(), "cases": [{"name": "one"}], "model_seed": 1, "threads": 1}
    arm = ReferenceArm(config, memory, board=SimpleNamespace())  # type: ignore[arg-type]
    fact = TensorFact(name="x", shape=[8], dtype="int64")
    arm.facts[0] = CaseFact(case="one", inputs=[fact], parameters=[], outputs=[], bytes_min=0)
    layout = layout_of([fact])
    stacks = []
    for seed in (1, 2):
        arm.handle(Order(OrderKind.GENERATE, 0, seed, 3), [])
        stacks.append(stack_at(desk, layout.fields[0], 0, layout.stride, 3).clone())
    assert len(torch.cat(stacks).unique(dim=0)) == 6
    arm.handle(Order(OrderKind.GENERATE, 0, 1, 3), [])
    assert torch.equal(stack_at(desk, layout.fields[0], 0, layout.stride, 3), stacks[0])

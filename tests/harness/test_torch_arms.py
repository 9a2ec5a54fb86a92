"""What a runner with torch makes of its orders, asked in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

MAKE = """
import mmap, os
from types import SimpleNamespace
import torch
from kernelharness.channel import Order, OrderKind
from kernelharness.languages.native import CPU, CUDA
from kernelharness.layout import layout_of
from kernelharness.protocol import CaseFact, File, Problem, TensorFact
from kernelharness.slots import stack_at
from kernelharness.torch_arms import ReferenceArm

def threads():
    return len(os.listdir("/proc/self/task"))

def make(count, device=CPU):
    source = "import torch\\nModel = torch.nn.Identity\\ndef get_inputs(): return [torch.randint(0, 1 << 30, (8,))]"
    problem = Problem(files=[File(path="reference.py", content=source)])
    config = {"problem": problem.model_dump(), "cases": [{"name": "one"}], "model_seed": 1, "threads": count}
    arm = ReferenceArm(config, SimpleNamespace(device_type=device, map=lambda name: desk), board=None)
    arm.facts[0] = CaseFact(case="one", inputs=[fact], parameters=[], outputs=[], bytes_min=0)
    return arm

desk = mmap.mmap(-1, 1 << 20)
fact = TensorFact(name="x", shape=[8], dtype="int64")
layout = layout_of([fact])
"""


def python(script: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4", "MKL_DYNAMIC": "FALSE"}
    done = subprocess.run([sys.executable, "-c", MAKE + script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_sets_that_the_reference_makes_at_once_are_as_different_as_others() -> None:
    python("""
arm, stacks = make(4), []
for seed in (1, 2, 1):
    arm.handle(Order(OrderKind.GENERATE, 0, seed, 3), [])
    stacks.append(stack_at(desk, layout.fields[0], 0, layout.stride, 3).clone())
assert len(torch.cat(stacks[:2]).unique(dim=0)) == 6
assert torch.equal(stacks[0], stacks[2])
""")


def test_a_runner_of_a_gpu_has_no_idle_threads_that_continuing_it_would_wake() -> None:
    python("""
before = threads()
make(4, CUDA)
assert threads() == before, threads()
make(3, CUDA)
assert torch.get_num_threads() == 3
assert threads() > before, "then this is no longer what makes them"
""")

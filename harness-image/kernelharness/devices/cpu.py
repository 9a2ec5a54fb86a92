"""The CPU as a device: memfds that runners map read-only, outputs read out of a stopped process, caches swept.

Input memories are sealed against new writable mappings before any runner exists, so a runner that reopens or remaps its
descriptor still cannot write. They are sparse and as large as the machine's memory: nobody ever has to grow them.
Neighbours: base.py (the interface), cpu_outputs.py (reads outputs), ../placement.py (threads of runners).
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import platform
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kernelharness import machine
from kernelharness.channel import make_memory
from kernelharness.devices.base import Ceilings, Device, Interference
from kernelharness.devices.cpu_outputs import Outputs
from kernelharness.elements import Span
from kernelharness.layout import Layout
from kernelharness.placement import Placement
from kernelharness.processes import Runner
from kernelharness.protocol import TensorFact
from kernelharness.slots import stack_at, tensor_at

_F_SEAL_FUTURE_WRITE = 0x0010
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE
_SHARED, _DESK = ("arena", "gallery"), "desk"
_SWEEP_FACTOR = 2
_CEILING_BYTES = 64 << 20


class CpuDevice(Device):
    """The CPUs that this process may use."""

    touch_bytes = Device.round_bytes
    process_spread = 0.02
    visits_outputs = True

    def __init__(self) -> None:
        self.threads = machine.usable_cpus()
        self.name = f"{machine.cpu_model()}, {self.threads} cores"
        self.driver = f"Linux {platform.release()}"
        self.memory_bytes = machine.memory_limit()
        self._fds = {name: make_memory(name, self.memory_bytes) for name in (*_SHARED, _DESK)}
        self._maps = {name: mmap.mmap(fd, self.memory_bytes) for name, fd in self._fds.items()}
        for name in _SHARED:
            with contextlib.suppress(OSError):  # before Linux 5.1; then the runner's filter alone forbids it
                fcntl.fcntl(self._fds[name], fcntl.F_ADD_SEALS, _SEALS)
        self._read_only = {name: os.open(f"/proc/self/fd/{self._fds[name]}", os.O_RDONLY) for name in _SHARED}
        self._outputs = Outputs(self.threads)
        self.cache_bytes = machine.last_level_cache()
        self._sweep = torch.ones(_SWEEP_FACTOR * self.cache_bytes // 8, dtype=torch.int64)
        self._throttled = machine.throttled_periods()
        cpus = os.sched_getaffinity(0)
        # With more CPUs than a quota lets us use, others use them too, and the kernel knows best which are idle.
        self._placement = Placement(list(cpus) if len(cpus) == self.threads else [])

    def runner_memory(self, *, trusted: bool) -> dict[str, int]:
        return self._read_only | ({_DESK: self._fds[_DESK]} if trusted else {})

    def tensors(self, memory: str, layout: Layout, offset: int) -> list[Tensor]:
        return [tensor_at(self._maps[memory], field, offset) for field in layout.fields]

    def stacks(self, memory: str, layout: Layout, offset: int, count: int) -> list[Tensor]:
        return [stack_at(self._maps[memory], field, offset, layout.stride, count) for field in layout.fields]

    def capacity(self, memory: str) -> int:
        return self.memory_bytes // {"arena": 8, "gallery": 4, "desk": 8}[memory]

    def read_outputs(self, runner: Runner, count: int, facts: Sequence[TensorFact]) -> list[Tensor]:
        return self._outputs.read(runner, count, facts)

    def visit_outputs(
        self, runner: Runner, count: int, facts: Sequence[TensorFact], visit: Callable[[int, Span, Tensor], None]
    ) -> bool:
        return self._outputs.visit(runner, count, facts, visit)

    def evict(self, slot_bytes: int) -> None:
        if slot_bytes < _SWEEP_FACTOR * self.cache_bytes:
            self._sweep.sum()

    def settle(self, runner: Runner) -> None:
        self._placement.update(runner.pid)

    def forget(self, runner: Runner) -> None:
        self._placement.forget(runner.pid)

    def watch(self) -> Interference:
        before, self._throttled = self._throttled, machine.throttled_periods()
        return Interference(throttled=self._throttled > before)

    def measure_ceilings(self) -> Ceilings:
        """Copy bandwidth (read and written bytes) and fp32 matmul rate on all threads, the best of several."""
        source = torch.ones(_CEILING_BYTES // 4)
        target = torch.empty_like(source)
        copies = [_seconds(lambda: target.copy_(source)) for _ in range(12)]
        left, right = torch.ones(768, 768), torch.ones(768, 768)
        products = [_seconds(lambda: torch.mm(left, right)) for _ in range(6)]
        return Ceilings(2 * _CEILING_BYTES / min(copies), {"float32": 2 * 768**3 / min(products)})


def _seconds(work: object) -> float:
    assert callable(work)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start

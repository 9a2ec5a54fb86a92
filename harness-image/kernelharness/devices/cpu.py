"""The CPU as a device: memfds that runners map read-only, outputs read out of a stopped process, caches swept.

Input memories are sealed against new writable mappings before any runner exists, so a runner that reopens or remaps its
descriptor still cannot write. They are sparse and as large as the machine's memory: nobody ever has to grow them.
Neighbours: base.py (the interface), ../channel.py (output reports).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import platform
import struct
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from statistics import median

import numpy as np
import torch
from torch import Tensor

from kernelharness import machine, syscalls
from kernelharness.channel import Order, OutputReport, RunFlag, make_memory
from kernelharness.compare import POISON_BYTE
from kernelharness.devices.base import (
    Alone,
    Ceilings,
    Device,
    Interference,
    OutputFault,
    Window,
    check_form,
    reports_of,
    span_bytes,
)
from kernelharness.devices.cpu_passes import CpuPasses, CpuRefill
from kernelharness.elements import Errors
from kernelharness.layout import Layout, layout_of
from kernelharness.placement import Placement
from kernelharness.processes import Runner
from kernelharness.protocol import TensorFact, Verdict
from kernelharness.slots import Refill, stack_at, tensor_at, torch_dtype

_F_SEAL_FUTURE_WRITE = 0x0010
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE
_SHARED, _DESK = ("arena", "gallery"), "desk"
_MOST_PIECES = 1024
"""Of one process_vm_readv."""
_SWEEP_FACTOR = 2
_CACHE_OF_A_CPU = 16 << 20
"""Few processors have a larger share of a cache for one CPU. A virtual machine is told of its host's whole cache, which
it has with others, and sweeping hundreds of megabytes takes as long as a round of calls, or longer.
"""
_CEILING_BYTES = 64 << 20


class CpuDevice(Device):
    """The CPUs that this process may use."""

    touch_bytes = Device.round_bytes
    process_spread = 0.02
    gates_calls = True
    singly_spread_ns = 3_000.0

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
        self.cache_bytes = machine.last_level_cache()
        swept = _SWEEP_FACTOR * min(self.cache_bytes, self.threads * _CACHE_OF_A_CPU)
        self._sweep = torch.ones(swept // 8, dtype=torch.int64)
        self._throttled = machine.throttled_periods()
        self._windows: dict[int, Window] = {}
        cpus = os.sched_getaffinity(0)
        # With more CPUs than a quota lets us use, others use them too, and the kernel knows best which are idle.
        self._placement = Placement(list(cpus) if len(cpus) == self.threads else [])

    @cached_property
    def _passes(self) -> CpuPasses | None:
        return CpuPasses.build()

    def runner_memory(self, *, trusted: bool) -> dict[str, int]:
        return self._read_only | ({_DESK: self._fds[_DESK]} if trusted else {})

    def tensors(self, memory: str, layout: Layout, offset: int) -> list[Tensor]:
        return [tensor_at(self._maps[memory], field, offset) for field in layout.fields]

    def stacks(self, memory: str, layout: Layout, offset: int, count: int) -> list[Tensor]:
        return [stack_at(self._maps[memory], field, offset, layout.stride, count) for field in layout.fields]

    def capacity(self, memory: str) -> int:
        return self.memory_bytes // {"arena": 8, "gallery": 4, "desk": 8}[memory]

    def read_outputs(self, runner: Runner, count: int, facts: Sequence[TensorFact], first: int = 0) -> list[Tensor]:
        reports = reports_of(runner, first * len(facts), count * len(facts))
        return [_read(runner.pid, reports[index :: len(facts)], fact) for index, fact in enumerate(facts)]

    def errors(
        self, runner: Runner, facts: Sequence[TensorFact], want: Sequence[Tensor], first: int = 0
    ) -> list[Errors] | None:
        if self._passes is None:
            return None
        reports = reports_of(runner, first * len(facts), len(want[0]) * len(facts))
        found: list[Errors] = []
        for index, (fact, stack) in enumerate(zip(facts, want, strict=True)):
            mine = reports[index :: len(facts)]
            for report in mine:
                check_form(report, fact)
            if any(report.stride != stack[0].stride() for report in mine):
                return None
            errors = self._passes.errors(runner.pid, [report.address for report in mine], stack)
            if errors is None:
                return None
            found.append(errors)
        return found

    def refill(self, seed: int, *, signs: bool) -> Refill:
        if self._passes is None:
            return super().refill(seed, signs=signs)
        return CpuRefill(seed, signs=signs, passes=self._passes)

    def evict(self, slot_bytes: int) -> None:
        """Between two uses of a byte of the slots lie all other slots; the sweep is what is missing of the caches."""
        missing = self._sweep.nbytes - slot_bytes
        if missing > 0:
            self._sweep[: missing // 8].sum()

    def show(self, runner: Runner, window: Window) -> None:
        self._windows[runner.pid] = window

    def run_one_by_one(self, runner: Runner, order: Order, deadline: float) -> Alone:
        window = self._windows[runner.pid]
        slots = np.frombuffer(self._maps[window.memory], np.uint8, order.a * window.stride, window.offset)
        inputs = slots.copy()
        slots[:] = POISON_BYTE
        took_ns, seen = [], []
        for call in range(order.a):
            here = slice(call * window.stride, (call + 1) * window.stride)
            slots[here] = inputs[here]
            one = replace(order, a=1, b=call, flags=order.flags | RunFlag.ONE_BY_ONE)
            took_ns.append(self.run(runner, one, deadline))
            if runner.trusted:
                self._read_as_much(runner, call, order, window.outputs)
            else:
                seen.append(self.read_outputs(runner, 1, window.outputs, first=call))
        for call, outputs in enumerate(seen):
            now = self.read_outputs(runner, 1, window.outputs, first=call)
            if not all(map(_are_same, outputs, now)):
                raise OutputFault(Verdict.LATE_OUTPUT, "outputs were still being written when the call had returned")
        return Alone(median(took_ns), waits=True)

    def _read_as_much(self, runner: Runner, call: int, order: Order, facts: Sequence[TensorFact]) -> None:
        """What reading a candidate's outputs would be, but of T's own memory: a reference then sleeps as long before
        its next call, and finds the same caches. Without capabilities T cannot look into it.
        """
        if not order.flags & RunFlag.EMPTY:
            reports_of(runner, call * len(facts), len(facts))
        for fact, tensor in zip(facts, self.tensors("desk", layout_of(facts), 0), strict=True):
            _read(os.getpid(), [OutputReport(tensor.data_ptr(), fact.dtype, tuple(fact.shape), tensor.stride())], fact)

    def settle(self, runner: Runner) -> None:
        self._placement.update(runner.pid)

    def forget(self, runner: Runner) -> None:
        self._placement.forget(runner.pid)
        self._windows.pop(runner.pid, None)

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


def _read(pid: int, reports: Sequence[OutputReport], fact: TensorFact) -> Tensor:
    """One output of all calls in memory of the judge, contiguous whatever its strides were in the runner's."""
    for report in reports:
        check_form(report, fact)
    result = torch.empty((len(reports), *fact.shape), dtype=torch_dtype(fact.dtype))
    if result.numel() == 0:
        return result
    nbytes = result[0].numel() * result.element_size()
    if all(report.stride == result[0].stride() for report in reports):
        for first in range(0, len(reports), _MOST_PIECES):
            some = reports[first : first + _MOST_PIECES]
            _copy_from(pid, [(report.address, nbytes) for report in some], result[first : first + len(some)], fact)
        return result
    for call, report in enumerate(reports):
        span = span_bytes(report)
        buffer = torch.empty(span // result.element_size(), dtype=result.dtype)
        _copy_from(pid, [(report.address, span)], buffer, fact)
        result[call] = buffer.as_strided(fact.shape, report.stride)
    return result


def _are_same(first: Tensor, second: Tensor) -> bool:
    """Byte by byte."""
    return torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8))


def _copy_from(pid: int, pieces: Sequence[tuple[int, int]], target: Tensor, fact: TensorFact) -> None:
    """Pieces (address, bytes) of a process's memory, one behind the other into `target`."""
    total = sum(nbytes for _, nbytes in pieces)
    local = ctypes.create_string_buffer(struct.pack("<QQ", target.data_ptr(), total), 16)
    packed = b"".join(struct.pack("<QQ", *piece) for piece in pieces)
    remote = ctypes.create_string_buffer(packed, len(packed))
    try:
        copied = syscalls.call("process_vm_readv", pid, local, 1, remote, len(pieces), 0)
    except OSError:
        copied = -1
    if copied != total:
        raise OutputFault(Verdict.MEMORY_FAULT, f"output {fact.name!r} lies in memory that is not there")


def _seconds(work: object) -> float:
    assert callable(work)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start

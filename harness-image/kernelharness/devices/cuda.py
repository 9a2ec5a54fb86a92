"""A CUDA device: memories of T that runners open by handle, rounds whose inputs appear at the last moment, T's clock.

Runners can write what they map and can leave work behind, so T keeps every input in memory of its own and shows copies:
decoys first, then, while the runner stands still, the real ones with a canary directly behind the copy. A canary is a
kernel that occupies the whole device and flushes the L2; late, it has met somebody's work. After the runner said that
it is done T takes the time and glimpses outputs; when the runner stands still it compares what it saw, and the rest.
References are shown the same inputs behind the same canary, without decoys: nothing to fool.
Neighbours: base.py (the interface), cuda_gate.py (calls one by one), cuda_outputs.py and cuda_looks.py (results),
cuda_passes.py (values), ../cuda_memory.py (runners).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernelharness import machine
from kernelharness.channel import Order, RunFlag
from kernelharness.compare import POISON_BYTE
from kernelharness.cuda_memory import Region
from kernelharness.devices.base import Alone, Ceilings, Device, Interference, Need, OutputFault, TooLarge, Window
from kernelharness.devices.cuda_gate import GatedRun
from kernelharness.devices.cuda_looks import Staging
from kernelharness.devices.cuda_outputs import RemoteOutputs
from kernelharness.devices.cuda_passes import CudaPasses, CudaRefill
from kernelharness.devices.cudart import CudaError, Cudart
from kernelharness.devices.judge_kernels import JudgeKernels
from kernelharness.devices.lateness import Lateness
from kernelharness.devices.nvml import Nvml
from kernelharness.layout import Layout
from kernelharness.processes import Runner
from kernelharness.protocol import TensorFact, Verdict
from kernelharness.slots import Refill, device_bytes, stack_at, tensor_at
from kernelharness.timing import SCREENING_DEVICE

_SHARE = 1 / 12
"""Of the device's memory: slots of one round, unless one call has more, and correctness sets, where all fit."""
_CALLS = 2
"""Of a round, where there is room: what a run takes beside its calls counts half as much. docs/decisions/0013."""
_ARMS = 4
"""Whose results are there at once, the next candidate's being one."""
_ROOM = 0.8
"""Of the device's memory; the rest is for contexts and what nobody foresees."""
_PAGE = 2 << 20
_CANARY_CACHES = 3
"""The canary's buffer is so many times the L2."""
_CALIBRATIONS = 40
_WARM_SECONDS = 0.3
_LATE_FACTOR = 1.5
_LATE_NS = 200_000.0
"""A canary, or a copy, is late when it takes so many times what it takes on an idle device, and this much more."""
_SPREAD, _SPREAD_ON_ONE_CPU = 0.005, 0.003
"""Of two processes, where each launches from a CPU of its own and where all launch from the same one, as eager against
itself showed on an H100. docs/decisions/0013.
"""
_SPINNING_CPUS = 4
"""With so many, T can keep one busy while it waits."""
_CEILING_BYTES = 1 << 30
_COPY_BYTES = 256 << 20


@dataclass
class Idle:
    """What T's own work takes on a device where nobody else works."""

    canary_ns: float = 0.0
    bytes_per_ns: float = 1.0
    """Of a copy; bytes copied, not moved."""


class CudaDevice(Device):
    """The first visible CUDA device. Made after the last fork: CUDA does not survive one."""

    torch_device = "cuda"
    inputs_are_read_only = False
    reads_references = True
    gates_calls = True
    alone_limit = (1.1, 5_000.0)
    streams_sets = True
    screening = SCREENING_DEVICE
    run_spread_ns = 12_000.0

    def __init__(self) -> None:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        properties: Any = torch.cuda.get_device_properties(0)
        self._cudart = Cudart()
        self._cudart.init()
        self._kernels = JudgeKernels(self._cudart, torch.cuda.get_device_capability(0))
        bus = f"{properties.pci_domain_id:08X}:{properties.pci_bus_id:02X}:{properties.pci_device_id:02X}.0"
        self._nvml = Nvml(bus)
        self.name = str(properties.name)
        self.driver = self._nvml.driver()
        self.threads = machine.usable_cpus()
        self._spins = self.threads >= _SPINNING_CPUS
        self._launch_cpu = self._keep_a_cpu_for_launching()
        self.process_spread = _SPREAD if self._launch_cpu is None else _SPREAD_ON_ONE_CPU
        self.cache_bytes = int(properties.L2_cache_size)
        self.memory_bytes = machine.memory_limit()
        self.passes = CudaPasses(self._cudart, self._kernels)
        self._share = int(self._cudart.memory_info()[1] * _SHARE)
        self.round_bytes = self._share
        self._shared: dict[str, Region] = {}
        self._handles: dict[str, bytes] = {}
        self._own: dict[str, Region] = {}
        self._current: Window | None = None
        """What runners see of a memory here is what T keeps of it."""
        self._sweep = self._region(_CANARY_CACHES * self.cache_bytes)
        self._staging = Staging(self._cudart)
        self._found = self._cudart.malloc(_PAGE)
        self._events = [self._cudart.event() for _ in range(4)]
        self._random = np.random.default_rng(int.from_bytes(os.urandom(16), "little"))
        self._outputs: dict[int, RemoteOutputs] = {}
        self._windows: dict[int, Window] = {}
        self._exposed: list[tuple[str, int, int]] = []
        self._suspect: Runner | None = None
        self._lateness = Lateness()
        self._busy = False
        """A time of the block that is going on may be wrong."""
        self.idle = Idle()
        self._returns: deque[float] = deque(maxlen=_CALIBRATIONS)
        """Nanoseconds from the end of empty runs until the device had done a canary."""
        self._calibrate()

    def _keep_a_cpu_for_launching(self) -> int | None:
        """A CPU that T leaves alone; None where others use these CPUs too, for then the kernel knows best."""
        cpus = sorted(os.sched_getaffinity(0))
        if len(cpus) != self.threads or not self._spins:
            return None
        chosen = cpus[len(cpus) // 2]
        os.sched_setaffinity(0, set(cpus) - {chosen})
        return chosen

    def _region(self, nbytes: int) -> Region:
        size = max(1, -(-nbytes // _PAGE)) * _PAGE
        return Region(self._cudart.malloc(size), size)

    # -- memory -------------------------------------------------------------------------------------------------------

    def runner_memory(self, *, trusted: bool) -> dict[str, int]:
        return {}

    def reserve(self, need: Need) -> None:
        torch.cuda.empty_cache()
        gallery = need.state + (self._share if need.sets <= self._share else 0)
        calls = _CALLS if self._has_room(need, _CALLS, gallery) else 1
        self.round_bytes = max(self._share, calls * (need.slot + need.results))
        sizes = {"arena": max(calls * need.slot, self._share), "gallery": gallery, "desk": need.desk}
        try:
            self._shared = {name: self._region(nbytes) for name, nbytes in sizes.items()}
            self._own = {name: self._region(sizes[name]) for name in ("arena", "gallery")}
        except CudaError as error:
            if not error.is_out_of_memory:
                raise
            free, total = self._cudart.memory_info()
            text = f"its inputs are too large for this device: two copies of {need.slot >> 20} MiB, and as much for "
            raise TooLarge(f"{text}each arm, in {total >> 20} MiB ({free >> 20} MiB are left)") from error
        self._own["desk"] = self._shared["desk"]
        self._handles = {name: self._cudart.ipc_handle(region.address) for name, region in self._shared.items()}

    def _has_room(self, need: Need, calls: int, gallery: int) -> bool:
        """For rounds of so many calls: T's slots twice, results of all arms, what calls take beside them, parameters;
        twice an input set, that slots are made of and while one is made.
        """
        slots = calls * (2 * need.slot + _ARMS * need.results) + 2 * need.slot
        used = slots + _ARMS * (need.working + need.state) + 2 * gallery + need.desk
        return used <= _ROOM * self._cudart.memory_info()[1]

    def runner_config(self, *, trusted: bool) -> dict[str, Any]:
        regions = {
            name: {"handle": handle.hex(), "bytes": self._shared[name].nbytes}
            for name, handle in self._handles.items()
            if trusted or name != "desk"
        }
        return {"device": "cuda", "regions": regions}

    def tensors(self, memory: str, layout: Layout, offset: int) -> list[Tensor]:
        self._current = None
        return [tensor_at(self._own[memory], field, offset) for field in layout.fields]

    def stacks(self, memory: str, layout: Layout, offset: int, count: int) -> list[Tensor]:
        self._current = None
        return [stack_at(self._own[memory], field, offset, layout.stride, count) for field in layout.fields]

    def capacity(self, memory: str) -> int:
        return self._own[memory].nbytes

    def expose(self, memory: str, offset: int, nbytes: int) -> None:
        self._exposed.append((memory, offset, nbytes))
        self._copy_out(memory, offset, nbytes)
        self._cudart.synchronize()

    def refill(self, seed: int, *, signs: bool) -> Refill:
        return CudaRefill(seed, signs=signs, kernels=self._kernels)

    def _copy_out(self, memory: str, offset: int, nbytes: int, stream: int = 0) -> None:
        shared, own = self._shared[memory].address + offset, self._own[memory].address + offset
        self._cudart.copy(shared, own, nbytes, stream)

    # -- results ------------------------------------------------------------------------------------------------------

    def show(self, runner: Runner, window: Window) -> None:
        self._windows[runner.pid] = window
        self._of(runner).point_at(window)

    def read_outputs(self, runner: Runner, count: int, facts: Sequence[TensorFact], first: int = 0) -> list[Tensor]:
        return self._of(runner).read(count, tuple(facts), first)

    def settle(self, runner: Runner) -> None:
        """All runners launch from one CPU. They never run at once, and how far a CPU is from T, and how fast it wakes
        up, would be worth tens of microseconds of every run to one process or the other.
        """
        if self._launch_cpu is not None:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(runner.pid, {self._launch_cpu})

    def waited_ns(self, runner: Runner) -> int:
        return runner.waited_ns(first_thread=True)  # it launches; the others only wake up when it is continued

    def admit(self, runner: Runner) -> None:
        self._suspect = runner
        self._lateness.reset()

    def expect_clean(self) -> None:
        self._lateness.expect_none()

    def forget(self, runner: Runner) -> None:
        self._windows.pop(runner.pid, None)
        if (outputs := self._outputs.pop(runner.pid, None)) is not None:
            outputs.close()
        if runner is self._suspect:
            self._suspect = None

    def _of(self, runner: Runner) -> RemoteOutputs:
        if runner.pid not in self._outputs:
            readable = {name: self._shared[name] for name in ("arena", "gallery")}
            self._outputs[runner.pid] = RemoteOutputs(runner, self._cudart, self._kernels, self._staging, readable)
        return self._outputs[runner.pid]

    # -- a timed run --------------------------------------------------------------------------------------------------

    def run(self, runner: Runner, order: Order, deadline: float) -> int:
        outputs = self._of(runner)
        window = self._windows[runner.pid]
        empty = bool(order.flags & RunFlag.EMPTY)
        self._lateness.begin_run()
        ranges = ([], []) if runner.trusted else outputs.ranges()
        outputs.choose(self._random, order.a or window.calls)
        if not runner.trusted:
            self._hide(window)
        self._reveal(window, *ranges)
        begin = time.perf_counter_ns()
        runner.tell(order)  # so that it wakes up once
        runner.resume()
        runner.wait(deadline, spin=self._spins)
        end = time.perf_counter_ns()
        outputs.glimpse()
        self._begin_canary()
        if not empty:
            outputs.follow()
        self._expect_return(end, runner, empty)
        early = outputs.glimpsed()
        runner.stop()
        self._expect_idle("after a call had returned")
        if not runner.trusted:
            self._expect_unchanged(window)
            if early is not None and early != outputs.look_again():
                raise OutputFault(Verdict.LATE_OUTPUT, "outputs were still being written when the call had returned")
        self._weigh(runner)
        return end - begin

    def run_one_by_one(self, runner: Runner, order: Order, deadline: float) -> Alone:
        outputs = self._of(runner)
        window = replace(self._windows[runner.pid], calls=order.a)
        self._lateness.begin_run()
        self._hide(window)
        self._poison(*outputs.ranges())
        self._cudart.synchronize()

        def bring(call: int) -> None:
            offset = window.offset + call * window.stride
            self._copy_out(window.memory, offset, window.stride, self._staging.stream)
            self._staging.wait()

        run = GatedRun(runner, outputs, self._random, deadline)
        ns = run.obey(order, bring)
        runner.stop()
        self._expect_idle("after a call had returned")
        self._expect_unchanged(window)
        run.expect_settled()
        self._weigh(runner)
        return Alone(ns, run.waits)

    def _hide(self, window: Window) -> None:
        """Decoys where the inputs will be, on a device where nothing else may be going on."""
        self._current = None
        shared = self._shared[window.memory].address + window.offset
        self._kernels.scramble(shared, window.nbytes, int(self._random.integers(1, 1 << 62)))
        self._cudart.synchronize()
        self._expect_idle("before a call was allowed to begin")

    def _poison(self, starts: Sequence[int], sizes: Sequence[int]) -> None:
        """What lies there now is no result. The call before must be over."""
        if starts:
            ranges = self._staging.upload(starts, sizes)
            self._kernels.fill_ranges(*ranges, len(starts), POISON_BYTE)

    def _reveal(self, window: Window, starts: Sequence[int], sizes: Sequence[int]) -> None:
        """The real inputs, and poison at `starts`, where results were last; with a canary directly behind."""
        moved = sum(sizes) + (0 if window == self._current else window.nbytes)
        self._cudart.synchronize()
        self._cudart.reset_persisting_cache()
        before, copied, after, _ = self._events
        self._cudart.record(before)
        self._poison(starts, sizes)
        if window != self._current:
            self._copy_out(window.memory, window.offset, window.nbytes)
        self._cudart.record(copied)
        self._kernels.canary(self._sweep.address, self._sweep.nbytes)
        self._cudart.record(after)
        self._cudart.wait(after)
        self._current = window
        copy_limit = _LATE_FACTOR * (moved / self.idle.bytes_per_ns + _LATE_NS)
        self._lateness.judge("while its inputs were being written", self._cudart.elapsed_ns(before, copied), copy_limit)
        after_copy = self._cudart.elapsed_ns(copied, after)
        self._lateness.judge("when its inputs were there, before it was told to begin", after_copy, self._canary_limit)

    def _expect_return(self, end: int, runner: Runner, empty: bool) -> None:
        """Whatever the runner has left on the device keeps T's canary back; empty runs tell how long it takes without.

        By T's own clock, from the end of the call: on the device, time begins when the device has switched to T.
        """
        self._end_canary()
        took_ns = float(time.perf_counter_ns() - end)
        if empty:
            self._returns.append(took_ns)
            return
        self._lateness.returned(took_ns, trusted=runner.trusted)
        if self._returns:
            limit = _LATE_FACTOR * _median(self._returns) + _LATE_NS
            self._lateness.judge("when the call was said to be done", took_ns, limit)

    def _expect_idle(self, when: str) -> None:
        self._lateness.judge(when, self._canary_ns(), self._canary_limit)

    def _begin_canary(self) -> None:
        self._cudart.record(self._events[0])
        self._kernels.canary(self._sweep.address, self._sweep.nbytes)
        self._cudart.record(self._events[3])

    def _end_canary(self) -> float:
        """What it took, on the device, in ns."""
        self._cudart.wait(self._events[3])
        return self._cudart.elapsed_ns(self._events[0], self._events[3])

    def _canary_ns(self) -> float:
        self._begin_canary()
        return self._end_canary()

    @property
    def _canary_limit(self) -> float:
        return _LATE_FACTOR * self.idle.canary_ns + _LATE_NS

    def _weigh(self, runner: Runner) -> None:
        """Note whether the run was late. Raise OutputFault when nearly all of the last ones were."""
        if self._suspect is not None:
            self._busy = self._busy or (self._lateness.is_late and not runner.trusted)
            self._lateness.end_run(trusted=runner.trusted)

    def _expect_unchanged(self, window: Window) -> None:
        """Raise OutputFault when what runners may only read differs from what T wrote there."""
        self._cudart.memset(self._found, 0, 8)
        for memory, offset, nbytes in [*self._exposed, (window.memory, window.offset, window.nbytes)]:
            own, shared = self._own[memory].address + offset, self._shared[memory].address + offset
            self._kernels.differences(own, shared, nbytes, self._found)
        if int(device_bytes(self._found, 8).view(torch.int64)):
            self._current = None
            for memory, offset, nbytes in self._exposed:
                self._copy_out(memory, offset, nbytes)
            raise OutputFault(Verdict.INPUT_MUTATED, "it writes to its inputs or parameters, which are read-only")

    def evict(self, slot_bytes: int) -> None:
        """Nothing to do: the canary behind every copy flushes the cache."""

    def watch(self) -> Interference:
        busy, self._busy = self._busy, False
        return Interference(throttled=self._nvml.is_throttled(), busy=busy)

    # -- what the device can do ---------------------------------------------------------------------------------------

    def _calibrate(self) -> None:
        """What canaries and copies take when nobody else is there, with the clocks up and every kernel loaded."""
        starts, sizes = self._staging.upload([self._found], [8])
        self._kernels.fill_ranges(starts, sizes, 1, 0)
        self._kernels.scramble(self._sweep.address, _PAGE, 1)
        self._kernels.differences(self._sweep.address, self._sweep.address, _PAGE, self._found)
        end = time.monotonic() + _WARM_SECONDS
        while time.monotonic() < end:
            self._canary_ns()
        self.idle.canary_ns = _median([self._canary_ns() for _ in range(_CALIBRATIONS)])
        source, target = (torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda") for _ in range(2))
        places = target.data_ptr(), source.data_ptr()
        times = [self._device_ns(lambda: self._cudart.copy(*places, _COPY_BYTES)) for _ in range(8)]
        self.idle.bytes_per_ns = _COPY_BYTES / _median(times)

    def measure_ceilings(self) -> Ceilings:
        """Copy bandwidth (read and written bytes) and matmul rates, the best of several."""
        source = torch.ones(_CEILING_BYTES // 4, device="cuda")
        target = torch.empty_like(source)
        bandwidth = 2 * _CEILING_BYTES / min(self._device_ns(lambda: target.copy_(source)) for _ in range(5))
        rates = {
            "float32": self._matmul_rate(torch.float32, 4096),
            "float16": self._matmul_rate(torch.float16, 8192),
            "bfloat16": self._matmul_rate(torch.bfloat16, 8192),
        }
        return Ceilings(bandwidth * 1e9, rates)

    def _matmul_rate(self, dtype: torch.dtype, size: int) -> float:
        left, right = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
        torch.mm(left, right)
        return 2 * size**3 / min(self._device_ns(lambda: torch.mm(left, right)) for _ in range(5)) * 1e9

    def _device_ns(self, work: Callable[[], object]) -> float:
        start, end = self._events[0], self._events[3]
        self._cudart.record(start)
        work()
        self._cudart.record(end)
        self._cudart.wait(end)
        return self._cudart.elapsed_ns(start, end)


def _median(values: Collection[float]) -> float:
    return sorted(values)[len(values) // 2]

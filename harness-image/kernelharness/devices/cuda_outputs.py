"""What T sees of one runner's outputs on a CUDA device: its allocations opened by handle, places checked, samples read.

A runner reports addresses of its own; T opens each allocation once and reads there itself. Which elements T samples
while the clock still runs is drawn before the run and known to nobody. Nothing reported is believed: an address counts
only inside an allocation that T opened. Neighbours: cuda.py, ../cuda_memory.py (the runner's side), ../channel.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernelharness.channel import DTYPES, ITEM_BYTES, MAX_RANK, REGION_PREFIX, REPORT_BYTES, OutputReport, Segment
from kernelharness.cuda_memory import Region
from kernelharness.devices.base import OutputFault, Window, check_form, reports_of, span_bytes
from kernelharness.devices.cudart import CudaError, Cudart
from kernelharness.devices.judge_kernels import JudgeKernels
from kernelharness.processes import Runner
from kernelharness.protocol import TensorFact, Verdict
from kernelharness.slots import device_bytes, torch_dtype

SAMPLES = 4096
_REPORT = np.dtype(
    [
        ("address", "<u8"),
        ("dtype", "<i4"),
        ("rank", "<i4"),
        ("shape", "<i8", (MAX_RANK,)),
        ("stride", "<i8", (MAX_RANK,)),
    ]
)
assert _REPORT.itemsize == REPORT_BYTES
_Array = npt.NDArray[np.int64]


class Staging:
    """Device arrays of u64 and their page-locked twins, one set for the whole judge.

    0, 1, 2: addresses, widths and values of samples. 3, 4: starts and sizes of ranges.
    """

    def __init__(self, cudart: Cudart) -> None:
        nbytes = 8 * SAMPLES
        self._cudart = cudart
        self.device = [cudart.malloc(nbytes) for _ in range(5)]
        self._host = [cudart.host_malloc(nbytes) for _ in range(5)]
        self._views = [np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address)) for address in self._host]

    def upload(self, index: int, values: npt.NDArray[np.generic]) -> None:
        """Copy an array to device array `index`; the copy before must be over."""
        raw = np.frombuffer(values.tobytes(), dtype=np.uint8)
        self._views[index][: raw.size] = raw
        self._cudart.upload(self.device[index], self._host[index], raw.size)

    def download(self, index: int, count: int) -> npt.NDArray[np.uint64]:
        """The first `count` u64 of device array `index`, when all work before is done."""
        self._cudart.download(self._host[index], self.device[index], 8 * count)
        self._cudart.synchronize()
        return np.frombuffer(self._views[index][: 8 * count].tobytes(), dtype=np.uint64)


@dataclass
class _Opened:
    base: int
    nbytes: int
    local: int
    owned: bool
    """Opened by handle, to be closed."""


class RemoteOutputs:
    """The outputs of one runner's last run."""

    def __init__(
        self, runner: Runner, cudart: Cudart, kernels: JudgeKernels, staging: Staging, regions: dict[str, Region]
    ) -> None:
        """`regions`: memories of T that runners map, for results that are views of inputs."""
        self._runner = runner
        self._regions = regions
        self._cudart = cudart
        self._kernels = kernels
        self._staging = staging
        self._opened: list[_Opened] = []
        self._read = 0
        self._raw = b""
        self._window: Window | None = None
        self._calls = 0
        """Of the window's slots, those that the run is about."""
        self._indices: list[_Array] = []
        """The elements to sample, by output of a call: [calls, samples, rank]."""
        self.sample_ns = 0
        """What reading the samples took the last time."""
        self._armed = 0
        """Samples whose addresses are on the device, for the reports in `_raw`."""

    def point_at(self, window: Window) -> None:
        """The runner will run on these slots from now on."""
        if window != self._window:
            self._window, self._raw, self._armed = window, b"", 0

    def close(self) -> None:
        """Let go of the runner's memory."""
        for segment in self._opened:
            if segment.owned:
                with contextlib.suppress(CudaError):
                    self._cudart.ipc_close(segment.local)
        self._opened.clear()

    # -- samples ------------------------------------------------------------------------------------------------------

    def choose(self, random: np.random.Generator, calls: int) -> None:
        """Before a run of the first `calls` slots: draw the elements to sample, and guess that outputs will lie where
        they lay the last time.
        """
        assert self._window is not None
        self._calls, facts = calls, self._window.outputs
        each = max(1, SAMPLES // max(1, calls * len(facts)))
        indices: list[_Array] = []
        for fact in facts:
            count = prod(fact.shape)
            if count == 0:
                indices.append(np.zeros((calls, 0, max(1, len(fact.shape))), dtype=np.int64))
                continue
            flat = random.integers(0, count, (calls, each))
            flat[:, 0] = count - 1  # what is written last
            if not fact.shape:
                indices.append(np.zeros((calls, each, 1), dtype=np.int64))
                continue
            indices.append(np.stack(np.unravel_index(flat, fact.shape), axis=-1))
        self._indices = indices
        self._arm()

    def touch(self) -> None:
        """Read the chosen elements where they were last, off the clock: reading them again costs every arm alike."""
        if self._armed:
            addresses, widths, values = self._staging.device[:3]
            self._kernels.gather(addresses, widths, values, self._armed)

    def sample(self, *, same: bool = False) -> npt.NDArray[np.uint64] | None:
        """The chosen elements as bits, read now; None when the reports lead nowhere. `same`: reports were not renewed.

        Called while the clock runs, so what was guessed rightly before is not computed again.
        """
        assert self._window is not None
        if not same:
            raw = self._runner.board.raw_reports(self._calls * len(self._window.outputs))
            if raw != self._raw:
                self._raw = raw
                self._arm()
        return self.sample_again()

    def sample_again(self) -> npt.NDArray[np.uint64] | None:
        """The same elements, read once more."""
        if not self._armed:
            return None
        staging = self._staging
        addresses, widths, values = staging.device[:3]
        begin = time.perf_counter_ns()
        self._kernels.gather(addresses, widths, values, self._armed)
        read = staging.download(2, self._armed)
        self.sample_ns = time.perf_counter_ns() - begin
        return read

    def _arm(self) -> None:
        """Put the addresses of the chosen elements onto the device."""
        self._armed = 0
        placed = self._place()
        if placed is None or self._window is None:
            return
        reports, local = placed
        addresses: list[npt.NDArray[np.uint64]] = []
        widths: list[npt.NDArray[np.uint32]] = []
        outputs = len(self._window.outputs)
        for number, (fact, indices) in enumerate(zip(self._window.outputs, self._indices, strict=True)):
            rank = max(1, len(fact.shape))
            width = ITEM_BYTES[fact.dtype]
            stride = reports["stride"][number::outputs, None, :rank]
            offsets = (indices * stride).sum(axis=-1) * width
            addresses.append((local[number::outputs, None] + offsets).astype(np.uint64).ravel())
            widths.append(np.full(offsets.size, width, dtype=np.uint32))
        everything = np.concatenate(addresses)[:SAMPLES]
        self._staging.upload(0, everything)
        self._staging.upload(1, np.concatenate(widths)[:SAMPLES])
        self._armed = everything.size

    def _place(self) -> tuple[npt.NDArray[np.void], _Array] | None:
        """(reports, where they lie here); None when one of them is not what the window asks for."""
        if not self._raw or self._window is None:
            return None
        self._open_new()
        facts = self._window.outputs
        reports = np.frombuffer(self._raw, dtype=_REPORT)
        if not self._opened or len(reports) != self._calls * len(facts):
            return None
        local = np.zeros(len(reports), dtype=np.int64)
        for number, fact in enumerate(facts):
            mine = reports[number :: len(facts)]
            rank = len(fact.shape)
            right = (mine["rank"] == rank) & (mine["dtype"] == DTYPES.index(fact.dtype))
            right &= (mine["shape"][:, :rank] == np.array(fact.shape, dtype=np.int64)).all(axis=1)
            right &= ((mine["stride"] >= 0) & (mine["stride"] < 1 << 40)).all(axis=1)
            if not right.all():
                return None
            spans = ((mine["shape"][:, :rank] - 1) * mine["stride"][:, :rank]).sum(axis=1) + 1
            places = self._locate(mine["address"], spans * ITEM_BYTES[fact.dtype], prod(fact.shape) == 0)
            if places is None:
                return None
            local[number :: len(facts)] = places
        return reports, local

    def _locate(self, addresses: npt.NDArray[np.uint64], nbytes: _Array, empty: bool) -> _Array | None:
        if empty:
            return np.zeros(len(addresses), dtype=np.int64)
        ordered = sorted(self._opened, key=lambda segment: segment.base)
        bases = np.array([segment.base for segment in ordered], dtype=np.uint64)
        ends = np.array([segment.base + segment.nbytes for segment in ordered], dtype=np.uint64)
        shifts = np.array([segment.local - segment.base for segment in ordered], dtype=np.int64)
        index = np.searchsorted(bases, addresses, side="right").astype(np.int64) - 1
        last = addresses + nbytes.astype(np.uint64)
        if (index < 0).any() or (last > ends[index]).any() or (last < addresses).any():
            return None
        return addresses.astype(np.int64) + shifts[index]

    # -- whole outputs ------------------------------------------------------------------------------------------------

    def read(self, count: int, facts: tuple[TensorFact, ...]) -> list[Tensor]:
        """Each output of all calls as one tensor [count, *shape]. Raise OutputFault or RunnerFault."""
        self._open_new()
        reports = reports_of(self._runner, 0, count * len(facts))
        found: list[Tensor] = []
        for index, fact in enumerate(facts):
            views = [self._view(report, fact, call) for call, report in enumerate(reports[index :: len(facts)])]
            found.append(torch.stack(views) if count > 1 else views[0].unsqueeze(0))
        return found

    def ranges(self) -> tuple[list[int], list[int]]:
        """(addresses here, sizes) of the last run's outputs that fill their span and lie in the runner's own memory."""
        placed = self._place()
        if placed is None or self._window is None:
            return [], []
        reports, local = placed
        starts: list[int] = []
        sizes: list[int] = []
        shared = [(s.local, s.local + s.nbytes) for s in self._opened if not s.owned]
        for index, address in enumerate(local.tolist()):
            fact = self._window.outputs[index % len(self._window.outputs)]
            rank, nbytes = len(fact.shape), prod(fact.shape) * ITEM_BYTES[fact.dtype]
            shape, stride = reports["shape"][index, :rank], reports["stride"][index, :rank]
            span = (int(((shape - 1) * stride).sum()) + 1) * ITEM_BYTES[fact.dtype]
            foreign = any(start <= address < end for start, end in shared)
            if nbytes and span == nbytes and not foreign:
                starts.append(address)
                sizes.append(nbytes)
        return starts, sizes

    def _view(self, report: OutputReport, fact: TensorFact, call: int) -> Tensor:
        check_form(report, fact)
        dtype = torch_dtype(fact.dtype)
        if prod(fact.shape) == 0:
            return torch.empty(fact.shape, dtype=dtype, device="cuda")
        nbytes = span_bytes(report)
        place = self._locate(np.array([report.address], dtype=np.uint64), np.array([nbytes]), False)
        if place is None or report.address % ITEM_BYTES[fact.dtype]:
            raise OutputFault(
                Verdict.MEMORY_FAULT,
                f"output {fact.name!r} of call {call} lies in memory that the judge cannot open: "
                "return tensors of torch's default CUDA allocator, whole inside one allocation",
            )
        return device_bytes(int(place[0]), nbytes).view(dtype).as_strided(fact.shape, report.stride)

    def _open_new(self) -> None:
        for segment in self._runner.board.read_segments(self._read):
            self._read += 1
            opened = self._open(segment)
            # The newest allocation at an address is the one that is there.
            self._opened = [old for old in self._opened if not _overlap(old, opened)] + [opened]

    def _open(self, segment: Segment) -> _Opened:
        name = segment.handle.rstrip(b"\0").removeprefix(REGION_PREFIX).decode(errors="replace")
        if segment.handle.startswith(REGION_PREFIX) and name in self._regions:
            region = self._regions[name]
            return _Opened(segment.base, min(segment.nbytes, region.nbytes), region.address, False)
        try:
            local = self._cudart.ipc_open(segment.handle)
            base, size = self._cudart.address_range(local)
        except CudaError as error:
            raise OutputFault(
                Verdict.MEMORY_FAULT, f"an output lies in memory that cannot be opened: {error}"
            ) from error
        return _Opened(segment.base, min(segment.nbytes, base + size - local), local, True)


def _overlap(left: _Opened, right: _Opened) -> bool:
    return left.base < right.base + right.nbytes and right.base < left.base + left.nbytes

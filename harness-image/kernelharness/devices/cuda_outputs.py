"""What T sees of one runner's outputs on a CUDA device: its allocations opened by handle, places checked, glimpses.

A runner reports addresses of its own; T opens each allocation once and reads there itself. Where T looks when a call is
said to be over is drawn before the run and known to nobody. Nothing reported is believed: an address counts only inside
an allocation that T opened. Neighbours: cuda.py, ../cuda_memory.py (the runner's side), ../channel.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernelharness.channel import (
    DTYPES,
    ITEM_BYTES,
    MAX_RANK,
    REGION_PREFIX,
    REPORT_BYTES,
    OutputReport,
    Segment,
    unpack_report,
)
from kernelharness.cuda_memory import Region
from kernelharness.devices.base import OutputFault, Window, check_form, reports_of, span_bytes
from kernelharness.devices.cuda_looks import Look, Pick, Staging, pick_rows, spread
from kernelharness.devices.cudart import CudaError, Cudart
from kernelharness.devices.judge_kernels import JudgeKernels
from kernelharness.processes import Runner
from kernelharness.protocol import TensorFact, Verdict
from kernelharness.slots import device_bytes, torch_dtype

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
        self._turns: dict[int, bytes] = {}
        """By call, the reports of the last run in which each call waited for the one before."""
        self._picks: list[Pick] = []
        self._look: Look | None = None
        """At the picks, where the reports in `_raw` say that outputs lie; None when those lead nowhere."""

    def point_at(self, window: Window) -> None:
        """The runner will run on these slots from now on."""
        if window != self._window:
            self._window, self._raw, self._look, self._turns = window, b"", None, {}

    def close(self) -> None:
        """Let go of the runner's memory."""
        for segment in self._opened:
            if segment.owned:
                with contextlib.suppress(CudaError):
                    self._cudart.ipc_close(segment.local)
        self._opened.clear()

    # -- glimpses -----------------------------------------------------------------------------------------------------

    def choose(self, random: np.random.Generator, calls: int) -> None:
        """Before a run of the first `calls` slots: draw where to look, at the end of what is written last always, and
        guess that outputs will lie where they lay the last time.
        """
        assert self._window is not None
        self._calls, outputs = calls, len(self._window.outputs)
        self._picks = pick_rows(random, range((calls - 1) * outputs, calls * outputs), range(calls * outputs))
        self._look = self._aim()

    def glimpse(self) -> None:
        """Ask for the chosen bytes as they are now, where outputs lay the last time.

        Called as soon as the runner says that it is done, and answered by the copy engine: a kernel would make the
        device switch to this process, which takes longer than this, and waits for whatever is still at work.
        """
        if self._look is not None:
            self._look.ask()

    def follow(self) -> None:
        """Ask again where outputs lie elsewhere than the last time, in memory that is known."""
        assert self._window is not None
        raw = self._runner.board.raw_reports(self._calls * len(self._window.outputs))
        if raw != self._raw:
            self._raw = raw
            self._look = self._aim()
            self.glimpse()

    def glimpsed(self) -> bytes | None:
        """What was asked for; None when the reports lead nowhere. What lies in new memory is looked at only now."""
        if self._open_new():
            self._look = self._aim()
            self.glimpse()
        return self._look.seen() if self._look is not None else None

    def look_again(self) -> bytes | None:
        """The same bytes, read once more."""
        self.glimpse()
        return self.glimpsed()

    def look(self, random: np.random.Generator, call: int, *, made: bool) -> Look:
        """At the outputs of a call that may not be over; not yet `made`, they will lie where they lay in such a run."""
        assert self._window is not None
        outputs = range(len(self._window.outputs))
        if made:
            self._open_new()
            self._turns[call] = self._raw_of(call)
        raw = self._turns.get(call)
        look = None if raw is None else self._look_at(raw, pick_rows(random, outputs, outputs))
        return look or Look(self._staging, [], 0)

    def is_where(self, call: int) -> bool:
        """A look at a call that was not made yet was a look at its outputs."""
        return self._turns.get(call) == self._raw_of(call)

    def _raw_of(self, call: int) -> bytes:
        assert self._window is not None
        count = len(self._window.outputs)
        return self._runner.board.raw_reports(count, call * count)

    def _aim(self) -> Look | None:
        """At the picks."""
        if self._window is None or len(self._raw) != REPORT_BYTES * self._calls * len(self._window.outputs):
            return None
        return self._look_at(self._raw, self._picks)

    def _look_at(self, raw: bytes, picks: Sequence[Pick]) -> Look | None:
        """One by one: between a call and the look at its outputs every microsecond counts."""
        assert self._window is not None
        facts = self._window.outputs
        downloads: list[Callable[[], None]] = []
        read = 0
        for pick in picks:
            fact = facts[pick.report % len(facts)]
            try:
                report = unpack_report(raw[pick.report * REPORT_BYTES : (pick.report + 1) * REPORT_BYTES])
                check_form(report, fact)
            except (ValueError, OutputFault):
                return None
            local = self._local(report.address, span_bytes(report)) if prod(fact.shape) else None
            if local is None:
                continue
            rows = spread(local, span_bytes(report), pick)
            place = (self._staging.seen_at + read, rows.address, rows.pitch, rows.width, rows.count)
            downloads.append(self._cudart.rows_download(*place, self._staging.stream))
            read += rows.width * rows.count
        return Look(self._staging, downloads, read) if downloads else None

    def _local(self, address: int, nbytes: int) -> int | None:
        """Where bytes of the runner's memory lie here; None when they are in no allocation that T has opened."""
        for segment in self._opened:
            if segment.base <= address and address + nbytes <= segment.base + segment.nbytes:
                return address - segment.base + segment.local
        return None

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

    def read(self, count: int, facts: tuple[TensorFact, ...], first: int = 0) -> list[Tensor]:
        """Each output of these calls as one tensor [count, *shape]. Raise OutputFault or RunnerFault."""
        self._open_new()
        reports = reports_of(self._runner, first * len(facts), count * len(facts))
        found: list[Tensor] = []
        for index, fact in enumerate(facts):
            views = [self._view(report, fact, call) for call, report in enumerate(reports[index :: len(facts)], first)]
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
            nbytes = prod(fact.shape) * ITEM_BYTES[fact.dtype]
            rank = len(fact.shape)
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
        local = self._local(report.address, nbytes)
        if local is None or report.address % ITEM_BYTES[fact.dtype]:
            raise OutputFault(
                Verdict.MEMORY_FAULT,
                f"output {fact.name!r} of call {call} lies in memory that the judge cannot open: "
                "return tensors of torch's default CUDA allocator, whole inside one allocation",
            )
        return device_bytes(local, nbytes).view(dtype).as_strided(fact.shape, report.stride)

    def _open_new(self) -> bool:
        """Open what the runner has shown since the last time; whether there was anything. Takes milliseconds."""
        segments = self._runner.board.read_segments(self._read)
        for segment in segments:
            self._read += 1
            opened = self._open(segment)
            # The newest allocation at an address is the one that is there.
            self._opened = [old for old in self._opened if not _overlap(old, opened)] + [opened]
        return bool(segments)

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

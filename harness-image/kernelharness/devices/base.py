"""What the judge needs of a device: memory that runners can only read, results they cannot take back, a cold cache.

The judge and the statistics know this interface only; a new kind of device is one more file. Neighbours: cpu.py,
../processes.py (runners), ../layout.py (what lies in a slot).
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

from torch import Tensor

from kernelharness.channel import ITEM_BYTES, Order, OutputReport
from kernelharness.elements import Errors, Passes
from kernelharness.layout import PAGE, Layout
from kernelharness.processes import FaultKind, Runner, RunnerFault
from kernelharness.protocol import TensorFact, Verdict
from kernelharness.slots import Refill
from kernelharness.timing import SCREENING

_VIEW_FACTOR = 16
"""How many times its own size an output may span in the runner's memory, gaps included."""


class OutputFault(Exception):
    """An output that cannot be what was asked for, whatever its values."""

    def __init__(self, verdict: Verdict, text: str) -> None:
        super().__init__(text)
        self.verdict = verdict
        self.text = text


class TooLarge(Exception):
    """The device has not the memory that judging this problem needs."""


@dataclass(frozen=True)
class Need:
    """What the cases of a batch need of a device's memory, in bytes."""

    slot: int
    """The largest input set."""
    results: int
    """The most that a call returns."""
    working: int
    """The most that a call of the reference takes beside inputs and results, as far as it is known."""
    state: int
    """Parameters of all cases."""
    sets: int
    """All correctness sets and what is expected for them."""
    desk: int
    """The most that a reference hands over at once."""


@dataclass(frozen=True)
class Ceilings:
    """Measured on this device; what a kernel cannot beat."""

    bytes_per_second: float
    flops_per_second: dict[str, float]


@dataclass(frozen=True)
class Interference:
    """What happened to the device while a block ran; a block with any of it is void."""

    throttled: bool = False
    busy: bool = False
    """Work that is none of the arm's whose turn it was."""


@dataclass(frozen=True)
class Alone:
    """A call that gets its inputs when the one before is over."""

    ns: float
    """From its inputs on, of one of several."""
    waits: bool
    """Its time is also that of waiting and waking up, as on a CPU, or where it waits for the device itself."""


@dataclass(frozen=True)
class Window:
    """The slots that a runner was pointed at, and what it returns for each."""

    memory: str
    offset: int
    stride: int
    calls: int
    outputs: tuple[TensorFact, ...]

    @property
    def nbytes(self) -> int:
        return self.calls * self.stride


class Device(ABC):
    """One device and the memories of one batch."""

    name: str
    driver: str
    threads: int
    """Fixed for all arms."""
    cache_bytes: int
    """Of the last-level cache."""
    memory_bytes: int
    """All that this container, or this machine, has."""

    torch_device = "cpu"
    """Where the judge's tensors lie."""
    inputs_are_read_only = True
    """A runner that writes to its inputs faults; else the judge finds out afterwards."""

    reads_references = False
    """T reads a reference's results where they are, as a candidate's; else they are copied to the desk."""
    gates_calls = False
    """Each call can be made to begin when its inputs come, the one before being over: `run_one_by_one`."""
    alone_limit = (3.0, 300_000.0)
    """A call alone may take so many times one in a row, and so many ns more. On a CPU waking up is most of it, and what
    it takes spreads; where calls are gated there, the lower speedup counts anyway.
    """
    streams_sets = False
    """Correctness sets that do not fit all at once are made one after the other; else there are fewer of them."""
    passes: Passes | None = None
    """Faster ways over whole tensors than torch's."""
    screening = SCREENING
    """How candidates of a search are timed."""
    singly_spread_ns = 0.0
    """Standard deviation of what a call whose inputs came alone takes in two processes that do the same; beside
    `process_spread`. 0: such calls cannot be compared with a baseline's.
    """
    process_spread = 0.0
    """Standard deviation of the log ratio of two processes that do the same, perhaps by where their memory lies: it
    lasts as long as they do.
    """
    run_spread_ns = 0.0
    """The same of what a run takes beside its calls."""

    round_bytes = 128 << 20
    """Slots and results of one arm in one round, unless `reserve` finds room for more or a single call has more."""
    flags: tuple[str, ...] = ()
    """Of every result of this device: how its times were made, where that is not as usual."""
    touch_bytes = 0
    """Host memory that every runner touches before it begins, so that no arm meets new pages in a timed call."""

    def runner_config(self, *, trusted: bool) -> dict[str, Any]:
        """What a runner must be told of the device; the desk only a trusted one."""
        return {}

    @abstractmethod
    def runner_memory(self, *, trusted: bool) -> dict[str, int]:
        """Descriptors that a runner gets; the desk only for a trusted one."""

    def reserve(self, need: Need) -> None:  # noqa: B027  (memory that nobody touches costs nothing on most)
        """Make the memories; before any runner but the one that described the cases. Raise TooLarge."""

    @abstractmethod
    def tensors(self, memory: str, layout: Layout, offset: int) -> list[Tensor]:
        """The judge's own writable view of one slot."""

    @abstractmethod
    def stacks(self, memory: str, layout: Layout, offset: int, count: int) -> list[Tensor]:
        """The same of `count` slots that follow each other: for each field one tensor of shape [count, *shape]."""

    @abstractmethod
    def capacity(self, memory: str) -> int:
        """Bytes that may be used of a memory."""

    @abstractmethod
    def read_outputs(self, runner: Runner, count: int, facts: Sequence[TensorFact], first: int = 0) -> list[Tensor]:
        """Each output of `count` of the last run's calls, from the `first` on, as one tensor [count, *shape], out of a
        stopped runner.

        Raise OutputFault when shape, dtype or memory is not what was asked for, RunnerFault when the report is none.
        """

    def errors(
        self, runner: Runner, facts: Sequence[TensorFact], want: Sequence[Tensor], first: int = 0
    ) -> list[Errors] | None:
        """Each output of the last run's calls, from the `first` on, against the reference's [calls, *shape], where the
        device can tell more cheaply than by `read_outputs`, which raises the same; None where it cannot.
        """
        return None

    def share_memory(self, runner: Runner, count: int, facts: Sequence[TensorFact]) -> bool:
        """True when two calls of a round returned the same memory."""
        spans = sorted(
            (report.address, report.address + span_bytes(report))
            for report in reports_of(runner, 0, count * len(facts))
            if prod(report.shape) and report.dtype in ITEM_BYTES
        )
        return any(first[1] > second[0] for first, second in pairwise(spans))

    def show(self, runner: Runner, window: Window) -> None:  # noqa: B027  (most devices need nothing)
        """The runner is about to be pointed at these slots."""

    def expose(self, memory: str, offset: int, nbytes: int) -> None:  # noqa: B027  (most devices need nothing)
        """From now on runners may read this: parameters, and whatever else is no secret of one round."""

    def run(self, runner: Runner, order: Order, deadline: float) -> int:
        """Let a stopped runner obey a timed order; ns until it was done and stood still. Raise RunnerFault.

        On a device that runners can write to, or go on computing on, also raise OutputFault for doing so.
        """
        begin = time.perf_counter_ns()
        runner.resume()
        runner.tell(order)
        runner.wait(deadline)
        runner.stop()
        return time.perf_counter_ns() - begin

    def run_one_by_one(self, runner: Runner, order: Order, deadline: float) -> Alone:
        """The same for the first `order.a` slots, each of which gets its inputs when the call before is over. Where
        `gates_calls`.
        """
        raise NotImplementedError

    def settle(self, runner: Runner) -> None:  # noqa: B027  (most devices need nothing)
        """The runner stands still after some rounds of its own: see to it that its next ones are like them."""

    def waited_ns(self, runner: Runner) -> int:
        """How long the runner's calls have waited for a CPU so far, as far as the kernel says."""
        return runner.waited_ns()

    def spread(self, run_ns: float) -> float:
        """Standard deviation of the log ratio of two processes that do the same in runs that take so long."""
        return math.hypot(self.process_spread, self.run_spread_ns / run_ns)

    def singly_spread(self, call_ns: float) -> float:
        """The same of calls whose inputs come one by one."""
        return math.hypot(self.process_spread, self.singly_spread_ns / call_ns)

    def admit(self, runner: Runner) -> None:  # noqa: B027  (most devices need nothing)
        """A candidate's runner begins: what happens to the device from now on may be its work."""

    def expect_clean(self) -> None:  # noqa: B027  (most devices need nothing)
        """Raise OutputFault when the device was at work between runs too often since `admit` for it to be chance."""

    def forget(self, runner: Runner) -> None:  # noqa: B027  (most devices need nothing)
        """The runner is dead: let go of what was its own."""

    def resources(self) -> dict[str, float]:
        """What the last candidate used of the device, by the names of protocol.Result.resources; as far as it tells."""
        return {}

    def refill(self, seed: int, *, signs: bool) -> Refill:
        """What makes the inputs of timed slots."""
        return Refill(seed, signs=signs)

    @abstractmethod
    def evict(self, slot_bytes: int) -> None:
        """Leave nothing of the slots in caches; nothing to do when they are larger than caches. For each arm alike."""

    @abstractmethod
    def watch(self) -> Interference:
        """What happened since the last call of watch."""

    @abstractmethod
    def measure_ceilings(self) -> Ceilings:
        """Takes some hundred milliseconds; called once, while nothing else runs."""


def reports_of(runner: Runner, first: int, count: int) -> list[OutputReport]:
    """What the runner says of its outputs. Raise RunnerFault when it cannot be read."""
    try:
        return runner.board.read_reports(first, count)
    except ValueError as error:
        raise RunnerFault(runner, FaultKind.PROTOCOL, f"{runner.name} reported {error}") from error


def check_form(report: OutputReport, fact: TensorFact) -> None:
    """Raise OutputFault unless shape and dtype are the reference's and the elements lie close together."""
    if list(report.shape) != fact.shape:
        raise OutputFault(Verdict.WRONG_SHAPE, f"output {fact.name!r} has shape {list(report.shape)}, not {fact.shape}")
    if report.dtype != fact.dtype:
        raise OutputFault(Verdict.WRONG_DTYPE, f"output {fact.name!r} has dtype {report.dtype}, not {fact.dtype}")
    nbytes = prod(fact.shape) * ITEM_BYTES[fact.dtype]
    if nbytes and (min(report.stride, default=0) < 0 or span_bytes(report) > _VIEW_FACTOR * nbytes + PAGE):
        text = f"output {fact.name!r} has strides {list(report.stride)}: too spread out, make it contiguous"
        raise OutputFault(Verdict.WRONG_SHAPE, text)


def span_bytes(report: OutputReport) -> int:
    """Bytes from the first to behind the last element."""
    last = sum((size - 1) * stride for size, stride in zip(report.shape, report.stride, strict=True))
    return (last + 1) * ITEM_BYTES[report.dtype]

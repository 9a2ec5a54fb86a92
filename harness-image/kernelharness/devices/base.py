"""What the judge needs of a device: memory that runners can only read, results they cannot take back, a cold cache.

The judge and the statistics know this interface only; a new kind of device is one more file. Neighbours: cpu.py,
../processes.py (runners), ../layout.py (what lies in a slot).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from kernelharness.layout import Layout
from kernelharness.processes import Runner
from kernelharness.protocol import TensorFact, Verdict


class OutputFault(Exception):
    """An output that cannot be what was asked for, whatever its values."""

    def __init__(self, verdict: Verdict, text: str) -> None:
        super().__init__(text)
        self.verdict = verdict
        self.text = text


@dataclass(frozen=True)
class Ceilings:
    """Measured on this device; what a kernel cannot beat."""

    bytes_per_second: float
    flops_per_second: dict[str, float]


@dataclass(frozen=True)
class Interference:
    """What happened to the device while a block ran; a block with any of it is void."""

    throttled: bool = False


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

    @abstractmethod
    def runner_memory(self, *, trusted: bool) -> dict[str, int]:
        """Descriptors that a runner gets; the desk only for a trusted one."""

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
    def read_outputs(self, runner: Runner, count: int, facts: Sequence[TensorFact]) -> list[Tensor]:
        """Each output of the last run's `count` calls as one tensor [count, *shape], out of a stopped runner.

        Raise OutputFault when shape, dtype or memory is not what was asked for, RunnerFault when the report is none.
        """

    @abstractmethod
    def share_memory(self, runner: Runner, count: int, facts: Sequence[TensorFact]) -> bool:
        """True when two calls of a round returned the same memory."""

    @abstractmethod
    def evict(self, slot_bytes: int) -> None:
        """Leave nothing of the slots in caches; nothing to do when they are larger than caches. For each arm alike."""

    @abstractmethod
    def watch(self) -> Interference:
        """What happened since the last call of watch."""

    @abstractmethod
    def measure_ceilings(self) -> Ceilings:
        """Takes some hundred milliseconds; called once, while nothing else runs."""

"""Reads what stopped runners returned out of their memory: whole, or a piece at a time where nothing is kept.

Threads of T share the work while every runner stands still: copying from another process and looking at what was copied
leave no time to Python. Neighbours: cpu.py, ../elements.py (pieces), ../channel.py (output reports).
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from kernelharness import syscalls
from kernelharness.channel import ITEM_BYTES, OutputReport
from kernelharness.devices.base import OutputFault, check_form, reports_of, span_bytes
from kernelharness.elements import Span, spans
from kernelharness.processes import Runner
from kernelharness.protocol import TensorFact, Verdict
from kernelharness.slots import torch_dtype

_MOST_PIECES = 1024
"""Of one process_vm_readv."""
_MOST_READERS = 4
"""More threads would wait for each other's Python."""

Visit = Callable[[int, Span, Tensor], None]


@dataclass(frozen=True)
class _Piece:
    """Of one output."""

    output: int
    fact: TensorFact
    span: Span
    addresses: list[int]
    """Where it lies, call by call."""


class Outputs:
    """See Device.read_outputs and Device.visit_outputs."""

    def __init__(self, threads: int) -> None:
        self._count = min(threads, _MOST_READERS)
        # Torch's operations on a piece stay in the thread that read it.
        self._readers = ThreadPoolExecutor(self._count, "reader", torch.set_num_threads, (1,))

    def read(self, runner: Runner, count: int, facts: Sequence[TensorFact]) -> list[Tensor]:
        reports = reports_of(runner, 0, count * len(facts))
        return [_read(runner, reports[index :: len(facts)], fact) for index, fact in enumerate(facts)]

    def visit(self, runner: Runner, count: int, facts: Sequence[TensorFact], visit: Visit) -> bool:
        reports = reports_of(runner, 0, count * len(facts))
        for index, report in enumerate(reports):
            check_form(report, facts[index % len(facts)])
        if not all(_is_packed(report) for report in reports):
            return False
        addresses = [report.address for report in reports]
        work = [
            _Piece(index, fact, span, _places(addresses[index :: len(facts)], span, fact))
            for index, fact in enumerate(facts)
            for span in spans(count, prod(fact.shape))
        ]
        shares = [work[part :: self._count] for part in range(self._count)]
        readers = [self._readers.submit(_visit, runner, share, visit) for share in shares]
        wait(readers)
        for reader in readers:
            reader.result()
        return True


def _places(addresses: Sequence[int], span: Span, fact: TensorFact) -> list[int]:
    before = span.begin * ITEM_BYTES[fact.dtype]
    return [address + before for address in addresses[span.first : span.first + span.calls]]


def _visit(runner: Runner, work: Sequence[_Piece], visit: Visit) -> None:
    """Into one buffer for each dtype, which stays in a core's cache."""
    buffers: dict[str, Tensor] = {}
    for piece in work:
        fact, size = piece.fact, piece.span.size
        count = size * len(piece.addresses)
        buffer = buffers.get(fact.dtype)
        if buffer is None or len(buffer) < count:
            buffer = buffers[fact.dtype] = torch.empty(count, dtype=torch_dtype(fact.dtype))
        nbytes = size * buffer.element_size()
        for first in range(0, len(piece.addresses), _MOST_PIECES):
            some = piece.addresses[first : first + _MOST_PIECES]
            target = buffer[first * size : (first + len(some)) * size]
            _copy_from(runner, [(address, nbytes) for address in some], target, fact)
        visit(piece.output, piece.span, buffer[:count])


def _read(runner: Runner, reports: Sequence[OutputReport], fact: TensorFact) -> Tensor:
    """One output of all calls in memory of the judge, contiguous whatever its strides were in the runner's."""
    for report in reports:
        check_form(report, fact)
    result = torch.empty((len(reports), *fact.shape), dtype=torch_dtype(fact.dtype))
    if result.numel() == 0:
        return result
    nbytes = result[0].numel() * result.element_size()
    if all(_is_packed(report) for report in reports):
        for first in range(0, len(reports), _MOST_PIECES):
            some = reports[first : first + _MOST_PIECES]
            _copy_from(runner, [(report.address, nbytes) for report in some], result[first : first + len(some)], fact)
        return result
    for call, report in enumerate(reports):
        span = span_bytes(report)
        buffer = torch.empty(span // result.element_size(), dtype=result.dtype)
        _copy_from(runner, [(report.address, span)], buffer, fact)
        result[call] = buffer.as_strided(fact.shape, report.stride)
    return result


def _is_packed(report: OutputReport) -> bool:
    """Whether its elements lie one behind the other."""
    step = 1
    for size, stride in zip(reversed(report.shape), reversed(report.stride), strict=True):
        if stride != step:
            return False
        step *= size
    return True


def _copy_from(runner: Runner, pieces: Sequence[tuple[int, int]], target: Tensor, fact: TensorFact) -> None:
    """Pieces (address, bytes) of the runner's memory, one behind the other into `target`."""
    total = sum(nbytes for _, nbytes in pieces)
    local = ctypes.create_string_buffer(struct.pack("<QQ", target.data_ptr(), total), 16)
    packed = b"".join(struct.pack("<QQ", *piece) for piece in pieces)
    remote = ctypes.create_string_buffer(packed, len(packed))
    try:
        copied = syscalls.call("process_vm_readv", runner.pid, local, 1, remote, len(pieces), 0)
    except OSError:
        copied = -1
    if copied != total:
        raise OutputFault(Verdict.MEMORY_FAULT, f"output {fact.name!r} lies in memory that is not there")

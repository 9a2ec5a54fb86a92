"""Where T looks at outputs when a call is said to be over: rows at places that nobody can know, by the copy engine.

A kernel of T's would make the device switch to T's process, which takes longer than most of what is late, and waits for
whatever is still at work. Neighbours: cuda_outputs.py (where outputs lie), cuda.py and cuda_gate.py (when to look).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernelharness.channel import MAX_REPORTS
from kernelharness.devices.cudart import Cudart

_ROWS, _ROW_BYTES = (64, 512, 512), 64
"""Glimpses of a run: how many rows of so many bytes, first quickly of the output that is written last, then of more of
it, then of any other. The copy engine reads 16 rows in a microsecond.
"""
_RANGES_BYTES = 8 * MAX_REPORTS


class Staging:
    """Page-locked memory, and where it is brought to on the device; one for the whole judge."""

    def __init__(self, cudart: Cudart) -> None:
        self._cudart = cudart
        self._ranges = cudart.malloc(2 * _RANGES_BYTES)
        self._host = cudart.host_malloc(2 * _RANGES_BYTES)
        self._view = _view_of(self._host, 2 * _RANGES_BYTES).view(np.uint64)
        self.seen_at = cudart.host_malloc(sum(_ROWS) * _ROW_BYTES)
        self.stream = cudart.stream()
        """Of copies that wait for nobody's work."""
        self._seen = _view_of(self.seen_at, sum(_ROWS) * _ROW_BYTES)

    def wait(self) -> npt.NDArray[np.uint8]:
        """For all copies of the stream; bytes of outputs, as they were when T looked."""
        self._cudart.wait_for_stream(self.stream)
        return self._seen

    def upload(self, starts: Sequence[int], sizes: Sequence[int]) -> tuple[int, int]:
        """Bring ranges to the device; where u64 arrays of starts and sizes lie there. The copy before must be over."""
        self._view[: len(starts)] = starts
        self._view[MAX_REPORTS : MAX_REPORTS + len(sizes)] = sizes
        self._cudart.upload(self._ranges, self._host, 2 * _RANGES_BYTES)
        return self._ranges, self._ranges + _RANGES_BYTES


def _view_of(address: int, nbytes: int) -> npt.NDArray[np.uint8]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


@dataclass(frozen=True)
class Rows:
    """Bytes of an output that are read together."""

    address: int
    pitch: int
    """Bytes from one row to the next."""
    width: int
    count: int


@dataclass(frozen=True)
class Pick:
    """Where to look, as drawn before anybody knows where outputs will lie."""

    report: int
    rows: int
    slack: float
    """From 0, rows reach from end to end, to 1, they are so much closer that there is room for one more."""
    phase: float
    """From 0, the rows begin where the output does, to 1, they end where it ends."""


def pick_rows(random: np.random.Generator, last: range, all_reports: range) -> list[Pick]:
    """Places in an output of `last` and in one of all."""
    late = int(random.integers(last.start, last.stop))
    reports = (late, late, int(random.integers(all_reports.start, all_reports.stop)))
    phases = (1.0, random.random(), random.random())
    return [Pick(*pick) for pick in zip(reports, _ROWS, random.random(len(_ROWS)), phases, strict=True)]


@dataclass
class Look:
    """Places in outputs, to be looked at by the copy engine, more than once."""

    _staging: Staging
    _downloads: list[Callable[[], None]]
    _nbytes: int

    def ask(self) -> None:
        """For the bytes as they are now."""
        for download in self._downloads:
            download()

    def seen(self) -> bytes:
        """What was asked for last, of all looks."""
        return self._staging.wait()[: self._nbytes].tobytes()

    def see(self) -> bytes:
        self.ask()
        return self.seen()


def spread(address: int, nbytes: int, pick: Pick) -> Rows:
    """Rows over these bytes, as far apart as nobody can know, so that no pattern of late bytes lies between them."""
    if nbytes <= pick.rows * _ROW_BYTES:
        return Rows(address, nbytes, nbytes, 1)
    widest = (nbytes - _ROW_BYTES) // (pick.rows - 1)
    pitch = max(_ROW_BYTES, int(widest * (1 - pick.slack / pick.rows)))
    first = int(pick.phase * (nbytes - _ROW_BYTES - (pick.rows - 1) * pitch))
    return Rows(address + first, pitch, _ROW_BYTES, pick.rows)

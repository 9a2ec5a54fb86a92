"""Whole rounds on a CPU in one pass over memory: outputs compared where they lie, slots filled on all threads.

The same as torch operations in chunks, without copies of outputs and with no second trip to memory. Compiled when
first needed, by g++; without one, and for what is not covered here, everything goes the way of torch.
Neighbours: cpu_passes.cpp (the code), cpu.py (caller), ../slots.py and ../compare.py (what is meant).
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kernelharness.elements import Errors
from kernelharness.slots import GATHERED, PATTERN, PIECE, Refill

_COMMAND = ("g++", "-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")
_DTYPES = ("float32", "float64")
_LEAST_BYTES = 1 << 16
"""Of the outputs of a call: a system call for each costs more than a copy of all of them, when they are small."""
_Product = tuple[int, int, int, int, int]
"""(out, source, coarse, fine, count): out = source * (coarse + fine), at these addresses."""


class CpuPasses:
    """The judge's own code for this CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._found = np.zeros(3)

    @classmethod
    def build(cls) -> CpuPasses | None:
        """None where nothing can be compiled."""
        with tempfile.TemporaryDirectory() as folder, as_file(files(__package__) / "cpu_passes.cpp") as source:
            library = Path(folder, "passes.so")
            try:
                subprocess.run([*_COMMAND, source, "-o", library], capture_output=True, check=True)
                return cls(ctypes.CDLL(str(library)))
            except (OSError, subprocess.CalledProcessError):
                return None

    def errors(self, pid: int, addresses: Sequence[int], want: Tensor) -> Errors | None:
        """Of results that lie at these addresses of a stopped process, one for each of `want`'s calls, as contiguous as
        those. None: not covered, or not all of it is memory.
        """
        count = want[0].numel()
        if (
            _name(want.dtype) not in _DTYPES
            or not want[0].is_contiguous()
            or count * want.element_size() < _LEAST_BYTES
        ):
            return None
        compare = self._library[f"compare_{_name(want.dtype)}"]
        compare.restype = ctypes.c_bool
        got = np.array(addresses, dtype=np.uint64)
        sizes = (ctypes.c_int64(size) for size in (want.stride(0), len(want), count))
        if not compare(pid, got.ctypes, ctypes.c_void_p(want.data_ptr()), *sizes, self._found.ctypes):
            return None
        largest, total, squares = self._found.tolist()
        return Errors(largest, total, squares, want.numel())

    def refill(self, dtype: torch.dtype, products: Sequence[_Product]) -> None:
        packed = np.array(products, dtype=np.uint64)
        self._library[f"refill_{_name(dtype)}"](packed.ctypes, ctypes.c_int64(len(products)))


class CpuRefill(Refill):
    """Keyed refilling of all slots at once."""

    def __init__(self, seed: int, *, signs: bool, passes: CpuPasses) -> None:
        super().__init__(seed, signs=signs)
        self._passes = passes

    def fill_stack(self, targets: Tensor, bases: Sequence[Tensor]) -> None:
        if bases[0].numel() <= GATHERED or _name(targets.dtype) not in _DTYPES:
            super().fill_stack(targets, bases)
            return
        products = [product for target in targets for product in self._products(target, bases[self.draw(len(bases))])]
        self._passes.refill(targets.dtype, products)

    def _products(self, target: Tensor, base: Tensor) -> Iterator[_Product]:
        """What makes `target` of `base`, which wraps around."""
        count, size = target.numel(), target.element_size()
        shift = self.draw(count)
        patterns = [pattern.data_ptr() for pattern in self.patterns(target.dtype)]
        for begin, end, rotated in ((0, count - shift, shift), (count - shift, count, shift - count)):
            for first in range(begin, end, PIECE):
                origin = base.data_ptr() + (first + rotated) * size
                coarse, fine = (pattern + self.draw(PATTERN - PIECE) * size for pattern in patterns)
                yield target.data_ptr() + first * size, origin, coarse, fine, min(PIECE, end - first)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

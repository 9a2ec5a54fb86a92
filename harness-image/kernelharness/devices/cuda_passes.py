"""Whole passes over tensors of a CUDA device in one launch each: fresh inputs, comparisons, sums.

The same as torch operations in chunks, at the price of reading memory once, which counts at 7.5 GB a tensor.
Neighbours: judge_kernels.cu (the code), ../slots.py and ../compare.py (what is meant), cuda.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from kernelharness.devices.cudart import Cudart
from kernelharness.devices.judge_kernels import JudgeKernels
from kernelharness.elements import Errors
from kernelharness.slots import Refill, device_bytes

_DTYPES = ("float32", "float64", "float16", "bfloat16")
_WORDS = 4


class CudaPasses:
    """What compare.Comparer asks of a device (`compare.Passes`)."""

    def __init__(self, cudart: Cudart, kernels: JudgeKernels) -> None:
        self._cudart = cudart
        self._kernels = kernels
        self._found = cudart.malloc(8 * _WORDS)

    def compare(self, got: Tensor, want: Tensor, atol: float, rtol: float) -> tuple[int, float] | None:
        name = _name(got, want)
        if name is None:
            return None
        self._cudart.memset(self._found, 0, 8 * _WORDS)
        self._kernels.compare(name, got.data_ptr(), want.data_ptr(), want.numel(), atol, rtol, self._found)
        wrong, largest, *_ = self._read()
        return int(wrong), float(largest.view(np.float64))

    def errors(self, got: Tensor, want: Tensor) -> Errors | None:
        name = _name(got, want)
        if name is None:
            return None
        self._cudart.memset(self._found, 0, 8 * _WORDS)
        self._kernels.errors(name, got.data_ptr(), want.data_ptr(), want.numel(), self._found)
        *words, count = self._read()
        largest, total, squares = (float(word.view(np.float64)) for word in words)
        return Errors(largest, total, squares, int(count))

    def _read(self) -> Sequence[np.int64]:
        return list(device_bytes(self._found, 8 * _WORDS).cpu().numpy().view(np.int64))


class CudaRefill(Refill):
    """Keyed refilling in one launch per tensor."""

    def __init__(self, seed: int, *, signs: bool, kernels: JudgeKernels) -> None:
        super().__init__(seed, signs=signs)
        self._kernels = kernels

    def fill_stack(self, targets: Tensor, bases: Sequence[Tensor]) -> None:
        for target in targets:
            self.fill(target, bases[self.draw(len(bases))])

    def fill(self, target: Tensor, base: Tensor) -> None:
        count = target.numel()
        if count:
            places = (target.data_ptr(), base.data_ptr(), count)
            name = str(target.dtype).removeprefix("torch.")
            self._kernels.refill(name, *places, self.draw(count), self.draw(1 << 62), signs=self._signs)


def _name(*tensors: Tensor) -> str | None:
    """The dtype that all have, where a pass over flat memory means the same for all of them."""
    name = str(tensors[0].dtype).removeprefix("torch.")
    flat = all(tensor.is_contiguous() and tensor.dtype == tensors[0].dtype for tensor in tensors)
    return name if flat and name in _DTYPES and tensors[0].numel() else None

"""Two tensors element by element, a piece at a time, so that no copy of them is ever larger than a cache.

Errors, the limits that they must keep, how large the reference's elements are. Neighbour: compare.py, which decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

CHUNK = 1 << 18
"""Elements compared at a time: they and the scratch stay in a cache, and waking a second thread up is less than half of
what an operation takes.
"""
DEVICE_CHUNK = 1 << 24
"""The same on a device, where a launch costs more than a cache saves."""


@dataclass(frozen=True)
class Errors:
    """What one pass over an output and the reference's says."""

    largest: float
    """Of |got - want|; NaN, which is below nothing, where some error is no number."""
    total: float
    """The sum of the reference's finite elements, ..."""
    squares: float
    """... that of their squares, ..."""
    count: int
    """... and their number."""


class Passes(Protocol):
    """Whole passes over tensors, where a device has better than chunks of torch operations. None: not over these."""

    def errors(self, got: Tensor, want: Tensor) -> Errors | None: ...

    def compare(self, got: Tensor, want: Tensor, atol: float, rtol: float) -> tuple[int, float] | None:
        """(wrong elements, the largest finite error)."""
        ...


def largest_errors(got: Tensor, want: Tensor) -> list[float]:
    """The largest |got - want| of each of `chunks`, in one pass over memory; NaN, which is below nothing, where some
    error is no number.
    """
    if not want.is_floating_point():
        return [
            0.0 if torch.equal(mine, reference) else float(error(mine, reference).max())
            for _, mine, reference in chunks(got, want)
        ]
    ends: list[Tensor] = []
    scratch: Tensor | None = None
    for _, mine, reference in chunks(got, want):
        if scratch is None:
            scratch = torch.empty_like(mine)
        ends += torch.aminmax(torch.sub(mine, reference, out=scratch[: len(mine)]))
    return torch.stack(ends).abs_().view(-1, 2).amax(1).tolist() if ends else []


def chunks(got: Tensor, want: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(start, got, want) of flat `plain` pieces."""
    for start, mine, reference in pieces(got, want, chunk(want)):
        yield start, plain(mine), plain(reference)


def plain(tensor: Tensor) -> Tensor:
    """Narrow floats as float32, which holds them exactly, booleans as bytes."""
    if tensor.dtype in (torch.float16, torch.bfloat16):
        return tensor.float()
    return tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor


def pieces(got: Tensor, want: Tensor, step: int, start: int = 0) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(start, got, want) of flat pieces of at most `step` elements; never a copy of more than a piece.

    Slots of a round have gaps between them: they are taken one by one, or some small ones together.
    """
    count = want.numel()
    if count <= step or (got.is_contiguous() and want.is_contiguous()):
        mine, reference = got.reshape(-1), want.reshape(-1)
        for first in range(0, count, step):
            yield start + first, mine[first : first + step], reference[first : first + step]
        return
    inside = count // len(want)
    together = step // inside
    for first in range(0, len(want), max(1, together)):
        place = slice(first, first + together) if together > 1 else first
        yield from pieces(got[place], want[place], step, start + first * inside)


def chunk(tensor: Tensor) -> int:
    return DEVICE_CHUNK if tensor.is_cuda else CHUNK


def error(got: Tensor, want: Tensor) -> Tensor:
    """|got - want|; of integers in float64, where only equal ones give 0 however large they are."""
    if want.is_floating_point():
        return (got - want).abs_()
    error = (got.double() - want.double()).abs_()
    return error.masked_fill_((error == 0) & (got != want), 1.0)


def bound(want: Tensor, atol: float, rtol: float) -> Tensor | float:
    if rtol == 0:
        return atol
    return (want if want.is_floating_point() else want.double()).abs().mul_(rtol).add_(atol)


def inside(got: Tensor, want: Tensor, error: Tensor, atol: float, rtol: float) -> tuple[Tensor, Tensor, bool]:
    """(elements that are right, elements whose error is a number, whether non-finite values stand in one place)."""
    finite = torch.isfinite(error)
    # Equal infinities, and NaN in the same place, are right although their difference is no number.
    same = (got == want) | (torch.isnan(got) & torch.isnan(want))
    odd = ~(torch.isfinite(got) & torch.isfinite(want))
    return (finite & (error <= bound(want, atol, rtol))) | same, finite, bool((same | ~odd).all())


def scale_of(tensor: Tensor, passes: Passes | None = None) -> tuple[float, float]:
    """(rms, rms around the mean) of the finite elements; of one element alone its size is both. 0 of integers."""
    if not tensor.is_floating_point():
        return 0.0, 0.0
    if passes is not None and (found := passes.errors(tensor, tensor)) is not None:
        return spread(found.total, found.squares, found.count)
    return scale(tensor, *sums(tensor, torch.float32)[:2])


def least_scale(tensor: Tensor) -> tuple[float, float]:
    """`scale_of` is no less: 0, and what its beginning alone makes of the spread. A sixteenth of a large tensor says
    enough of most outputs, and costs no pass over memory.
    """
    if tensor.dim() == 0 or tensor.numel() == 0:
        return 0.0, 0.0
    beginning = tensor[: max(1, len(tensor) // 16)]
    if beginning.numel() == 1 < tensor.numel():
        return 0.0, 0.0  # what stands for the spread of one element alone is more than its share of others'
    return 0.0, scale_of(beginning)[1] * math.sqrt(beginning.numel() / tensor.numel())


def scale(tensor: Tensor, total: float, squares: float) -> tuple[float, float]:
    """`scale_of` from sums in single precision.

    It is ten times faster and enough, unless something is not finite or the mean hides the spread.
    """
    count = tensor.numel()
    if not math.isfinite(squares) or squares - total * total / max(1, count) < 1e-3 * squares:
        total, squares, count = sums(tensor, torch.float64)
    return spread(total, squares, count)


def spread(total: float, squares: float, count: int) -> tuple[float, float]:
    """`scale_of` from the sum, the sum of squares and the number of the finite elements."""
    if count == 0:
        return 0.0, 0.0
    rms = math.sqrt(squares / count)
    if count == 1:
        return rms, rms
    return rms, math.sqrt(max(0.0, squares / count - (total / count) ** 2))


def sums(tensor: Tensor, dtype: torch.dtype) -> tuple[float, float, int]:
    """(sum, sum of squares, count); in float64 of the finite elements only."""
    total = squares = 0.0
    count = 0
    for _, _, given in pieces(tensor, tensor, chunk(tensor)):
        piece = given.to(dtype)
        if dtype == torch.float64:
            piece = piece[torch.isfinite(piece)]
        total += float(piece.sum())
        squares += float(torch.dot(piece, piece))
        count += piece.numel()
    return total, squares, count

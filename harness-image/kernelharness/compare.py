"""Says whether a candidate's outputs equal the reference's: every element, in bounded memory, by tolerances with scale.

Trusted, in the judge, on tensors whose memory the judge owns. A tolerance is |got - want| <= atol + rtol |want|, where
atol grows with the outputs of a rescaled input set and never exceeds a twentieth of the outputs' spread, so that small
outputs cannot be answered by zeros. Non-finite values must stand in the same places. Neighbour: diagnose.py explains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from kernelharness.protocol import CaseFact, Tolerance, Verdict

CHUNK = 1 << 17
"""Elements compared at a time: they and the scratch, a few times 8 bytes each, stay in a core's cache."""
DEVICE_CHUNK = 1 << 24
"""The same on a device, where a launch costs more than a cache saves."""
SPREAD_SHARE = 0.05
_SUMMATION = 4
"""Rounding errors of a sum of n terms stay below this many times eps sqrt(n) of its size."""
SHOWN = 5
POISON_BYTE = 0xFB
"""Whoever hands out output memory may fill it with this byte; elements that still hold it were never written."""

_DEFAULTS = {torch.float64: 1e-7, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-2}


@dataclass(frozen=True)
class Mismatch:
    index: tuple[int, ...]
    got: float
    want: float


@dataclass(frozen=True)
class Comparison:
    """The outcome for all outputs, or for the first one that is wrong (`output`)."""

    verdict: Verdict
    output: int = 0
    count: int = 0
    """Elements of that output."""
    bad: int = 0
    max_abs: float = 0.0
    """Of |got - want| over the finite elements, of all outputs when the verdict is OK."""
    max_rel: float = 0.0
    """Of |got - want| / |want|, where both are finite and want is not 0. Only computed when something is wrong."""
    nan: int = 0
    """Elements that are not finite where the reference is."""
    unwritten: int = 0
    first: tuple[Mismatch, ...] = ()
    atol: float = 0.0
    rtol: float = 0.0
    rms_error: float = 0.0
    """Against float64; with `rms_allowed` only where float64 values were given."""
    rms_allowed: float = 0.0
    detail: str = ""
    """Of WRONG_SHAPE and WRONG_DTYPE: got and expected."""

    @property
    def ok(self) -> bool:
        return self.verdict is Verdict.OK


class Passes(Protocol):
    """Whole passes over tensors, where a device has better than chunks of torch operations. None: not over these."""

    def compare(self, got: Tensor, want: Tensor, atol: float, rtol: float) -> tuple[int, float] | None:
        """(wrong elements, the largest finite error)."""
        ...

    def sums(self, tensor: Tensor) -> tuple[float, float, int] | None:
        """(sum, sum of squares, count) of the finite elements."""
        ...


class Comparer:
    """Compares the outputs of one case, under one problem's tolerance."""

    def __init__(
        self, tolerance: Tolerance, reduction_lengths: Sequence[int] = (), passes: Passes | None = None
    ) -> None:
        """`reduction_lengths`: how many terms an element of each output sums up at most; see `reduction_lengths_of`."""
        self._tolerance = tolerance
        self._reduction_lengths = reduction_lengths
        self._passes = passes

    @property
    def allows_mismatches(self) -> bool:
        """True when a share of an output's elements may be wrong."""
        return self._tolerance.max_mismatch_ppm > 0

    def compare(
        self,
        got: Sequence[Tensor],
        want: Sequence[Tensor],
        exact: Sequence[Tensor] | None = None,
        given_rms: Sequence[float] | None = None,
    ) -> Comparison:
        """Compare every element of every output.

        `exact`: the same outputs in float64, if known, for PRECISION. `given_rms`: `rms_of` the reference's outputs for
        inputs as the problem makes them, when these inputs were rescaled.
        """
        if (wrong := _wrong_form(got, want)) is not None:
            return wrong
        worst = Comparison(Verdict.OK)
        for index, (mine, reference) in enumerate(zip(got, want, strict=True)):
            scale = given_rms[index] if given_rms is not None else None
            length = self._reduction_lengths[index] if self._reduction_lengths else 1
            found = replace(self._values(mine, reference, scale, length), output=index)
            if found.ok and exact is not None and reference.is_floating_point():
                found = self._precision(found, mine, reference, exact[index], length)
            if not found.ok:
                return found
            worst = replace(
                found,
                max_abs=max(worst.max_abs, found.max_abs),
                count=worst.count + found.count,
                bad=worst.bad + found.bad,
                rms_error=max(worst.rms_error, found.rms_error),
            )
        return worst

    def _limits(
        self, dtype: torch.dtype, scale: tuple[float, float], given_rms: float | None, reduction_length: int
    ) -> tuple[float, float]:
        """(atol, rtol) for an output of this dtype; `scale`: what `_scale_of` says of the reference's.

        Integers and booleans are exact unless told otherwise.
        """
        default = _DEFAULTS.get(dtype, 0.0)
        rtol = default if self._tolerance.rtol is None else self._tolerance.rtol
        atol = default if self._tolerance.atol is None else self._tolerance.atol
        if not dtype.is_floating_point or atol == 0:
            return atol, rtol
        rms, spread = scale
        if given_rms is not None and given_rms > 0:
            atol *= max(1.0, rms / given_rms)
        # Two honest orders of summation differ by this much where terms cancel; narrow types accumulate in float32.
        eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
        atol = max(atol, _SUMMATION * eps * math.sqrt(reduction_length) * rms)
        return min(atol, SPREAD_SHARE * spread), rtol

    def _quickly(self, got: Tensor, want: Tensor, given_rms: float | None, reduction_length: int) -> Comparison | None:
        """That all is right, where the device can say so in two passes; else None."""
        if self._passes is None or (sums := self._passes.sums(want)) is None:
            return None
        atol, rtol = self._limits(want.dtype, _spread(*sums), given_rms, reduction_length)
        found = self._passes.compare(got, want, atol, rtol)
        if found is None or found[0]:
            return None
        return Comparison(Verdict.OK, count=want.numel(), max_abs=found[1], atol=atol, rtol=rtol)

    def _values(self, got: Tensor, want: Tensor, given_rms: float | None, reduction_length: int) -> Comparison:
        if (quick := self._quickly(got, want, given_rms, reduction_length)) is not None:
            return quick
        largest, scale = _survey(got, want)
        atol, rtol = self._limits(want.dtype, scale, given_rms, reduction_length)
        bad, max_abs, mask_differs = 0, 0.0, False
        for (_, mine, reference), most in zip(_chunks(got, want), largest, strict=True):
            if most <= atol:
                max_abs = max(max_abs, most)
                continue
            error = _error(mine, reference)
            if most < math.inf and bool((error <= _bound(reference, atol, rtol)).all()):
                max_abs = max(max_abs, most)
                continue
            inside, finite, same_mask = _inside(mine, reference, error, atol, rtol)
            bad += int(inside.numel() - inside.sum())
            max_abs = max(max_abs, float(torch.where(finite, error, 0).max()))
            mask_differs = mask_differs or not same_mask
        passed = Comparison(Verdict.OK, count=want.numel(), bad=bad, max_abs=max_abs, atol=atol, rtol=rtol)
        if bad * 1_000_000 <= self._tolerance.max_mismatch_ppm * passed.count and not mask_differs:
            return passed
        return _explain(replace(passed, verdict=Verdict.WRONG_VALUES), got, want)

    def _precision(
        self, found: Comparison, got: Tensor, want: Tensor, exact: Tensor, reduction_length: int
    ) -> Comparison:
        """rms error against float64 <= max(8 x the reference's own, 4 eps sqrt(reduction length) rms)."""
        mine = theirs = size = 0.0
        counted = 0
        for start, piece, reference in _chunks(got, want):
            truth = exact.reshape(-1)[start : start + piece.numel()].double()
            sums = [float(torch.dot(each, each)) for each in (piece - truth, reference - truth, truth)]
            if all(map(math.isfinite, sums)):
                mine, theirs, size = mine + sums[0], theirs + sums[1], size + sums[2]
                counted += truth.numel()
                continue
            finite = torch.isfinite(truth) & torch.isfinite(piece) & torch.isfinite(reference)
            truth = torch.where(finite, truth, 0)
            mine += float(torch.where(finite, piece.double() - truth, 0).square_().sum())
            theirs += float(torch.where(finite, reference.double() - truth, 0).square_().sum())
            size += float(truth.square().sum())
            counted += int(finite.sum())
        if counted == 0:
            return found
        error, own, rms = (math.sqrt(total / counted) for total in (mine, theirs, size))
        eps = torch.finfo(want.dtype).eps
        allowed = max(8 * own, _SUMMATION * eps * math.sqrt(reduction_length) * rms)
        verdict = Verdict.PRECISION if error > allowed else Verdict.OK
        return replace(found, verdict=verdict, rms_error=error, rms_allowed=allowed)


def rms_of(tensors: Sequence[Tensor], passes: Passes | None = None) -> list[float]:
    """Root mean square of each tensor's finite elements; 0 for integers."""
    return [_scale_of(tensor, passes)[0] for tensor in tensors]


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no floating element is infinite or no number, without a copy of a large tensor."""
    return all(
        bool(torch.isfinite(piece).all())
        for tensor in tensors
        if tensor.is_floating_point()
        for piece in torch.split(tensor.reshape(-1), _chunk(tensor))
    )


def reduction_lengths_of(fact: CaseFact) -> list[int]:
    """How many terms an element of each output may sum up: the longest axis, or its share of all elements there are."""
    tensors = [*fact.inputs, *fact.parameters]
    longest = max((max(tensor.shape, default=1) for tensor in tensors), default=1)
    elements = sum(math.prod(tensor.shape) for tensor in tensors)
    return [max(1, longest, elements // max(1, math.prod(tensor.shape))) for tensor in fact.outputs]


def places_inside(found: Comparison, got: Tensor, want: Tensor) -> Tensor:
    """Which elements were right, by the limits that were found; as large as the outputs, so only for explaining."""
    flat = torch.empty(want.numel(), dtype=torch.bool, device=want.device)
    for start, mine, reference in _chunks(got, want):
        error = _error(mine, reference)
        flat[start : start + mine.numel()] = _inside(mine, reference, error, found.atol, found.rtol)[0]
    return flat.view(want.shape)


# -- pieces ---------------------------------------------------------------------------------------------------------


def _wrong_form(got: Sequence[Tensor], want: Sequence[Tensor]) -> Comparison | None:
    if len(got) != len(want):
        return Comparison(Verdict.WRONG_SHAPE, detail=f"got {len(got)} outputs, expected {len(want)}")
    for index, (mine, reference) in enumerate(zip(got, want, strict=True)):
        if mine.shape != reference.shape:
            detail = f"got {list(mine.shape)}, expected {list(reference.shape)}"
            return Comparison(Verdict.WRONG_SHAPE, output=index, detail=detail)
        if mine.dtype != reference.dtype:
            names = (str(tensor.dtype).removeprefix("torch.") for tensor in (mine, reference))
            return Comparison(Verdict.WRONG_DTYPE, output=index, detail="got {}, expected {}".format(*names))
    return None


def _survey(got: Tensor, want: Tensor) -> tuple[list[float], tuple[float, float]]:
    """(the largest |got - want| of each of `_chunks`, `_scale_of` want), in one pass over memory.

    Nearly every output is right by this alone: what is below atol everywhere needs no look at rtol |want|. NaN, which
    is below nothing, where some error is no number.
    """
    largest: list[float] = []
    total = squares = 0.0
    for _, mine, reference in _chunks(got, want):
        if not want.is_floating_point():
            largest.append(0.0 if torch.equal(mine, reference) else float(_error(mine, reference).max()))
            continue
        largest.append(float(_error(mine, reference).max()))
        single = reference.float()
        total += float(single.sum())
        squares += float(torch.dot(single, single))
    return largest, _scale(want, total, squares)


def _chunks(got: Tensor, want: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(start, got, want) of flat pieces; narrow floats as float32, which holds them exactly, booleans as bytes."""
    if want.dtype == torch.bool:
        got, want = got.view(torch.uint8), want.view(torch.uint8)
    narrow = want.dtype in (torch.float16, torch.bfloat16)
    for start, mine, reference in _pieces(got, want, _chunk(want)):
        yield (start, mine.float(), reference.float()) if narrow else (start, mine, reference)


def _pieces(got: Tensor, want: Tensor, step: int, start: int = 0) -> Iterator[tuple[int, Tensor, Tensor]]:
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
        yield from _pieces(got[place], want[place], step, start + first * inside)


def _chunk(tensor: Tensor) -> int:
    return DEVICE_CHUNK if tensor.is_cuda else CHUNK


def _error(got: Tensor, want: Tensor) -> Tensor:
    """|got - want|; of integers in float64, where only equal ones give 0 however large they are."""
    if want.is_floating_point():
        return (got - want).abs_()
    error = (got.double() - want.double()).abs_()
    return error.masked_fill_((error == 0) & (got != want), 1.0)


def _bound(want: Tensor, atol: float, rtol: float) -> Tensor | float:
    if rtol == 0:
        return atol
    return (want if want.is_floating_point() else want.double()).abs().mul_(rtol).add_(atol)


def _inside(got: Tensor, want: Tensor, error: Tensor, atol: float, rtol: float) -> tuple[Tensor, Tensor, bool]:
    """(elements that are right, elements whose error is a number, whether non-finite values stand in one place)."""
    finite = torch.isfinite(error)
    # Equal infinities, and NaN in the same place, are right although their difference is no number.
    same = (got == want) | (torch.isnan(got) & torch.isnan(want))
    odd = ~(torch.isfinite(got) & torch.isfinite(want))
    return (finite & (error <= _bound(want, atol, rtol))) | same, finite, bool((same | ~odd).all())


def _scale_of(tensor: Tensor, passes: Passes | None = None) -> tuple[float, float]:
    """(rms, rms around the mean) of the finite elements; of one element alone its size is both. 0 of integers."""
    if not tensor.is_floating_point():
        return 0.0, 0.0
    if passes is not None and (found := passes.sums(tensor)) is not None:
        return _spread(*found)
    return _scale(tensor, *_sums(tensor, torch.float32)[:2])


def _scale(tensor: Tensor, total: float, squares: float) -> tuple[float, float]:
    """`_scale_of` from sums in single precision.

    It is ten times faster and enough, unless something is not finite or the mean hides the spread.
    """
    count = tensor.numel()
    if not math.isfinite(squares) or squares - total * total / max(1, count) < 1e-3 * squares:
        total, squares, count = _sums(tensor, torch.float64)
    return _spread(total, squares, count)


def _spread(total: float, squares: float, count: int) -> tuple[float, float]:
    """`_scale_of` from the sum, the sum of squares and the number of the finite elements."""
    if count == 0:
        return 0.0, 0.0
    rms = math.sqrt(squares / count)
    if count == 1:
        return rms, rms
    return rms, math.sqrt(max(0.0, squares / count - (total / count) ** 2))


def _sums(tensor: Tensor, dtype: torch.dtype) -> tuple[float, float, int]:
    """(sum, sum of squares, count); in float64 of the finite elements only."""
    total = squares = 0.0
    count = 0
    for _, _, given in _pieces(tensor, tensor, _chunk(tensor)):
        piece = given.to(dtype)
        if dtype == torch.float64:
            piece = piece[torch.isfinite(piece)]
        total += float(piece.sum())
        squares += float(torch.dot(piece, piece))
        count += piece.numel()
    return total, squares, count


def _explain(found: Comparison, got: Tensor, want: Tensor) -> Comparison:
    """The same with what a person needs to see; a second pass, only taken when something is wrong."""
    nan, max_rel = 0, 0.0
    first: list[Mismatch] = []
    for start, mine, reference in _chunks(got, want):
        error = _error(mine, reference)
        inside, _, _ = _inside(mine, reference, error, found.atol, found.rtol)
        nan += int((~torch.isfinite(mine) & torch.isfinite(reference)).sum())
        relative = error / (reference if reference.is_floating_point() else reference.double()).abs()
        relative = relative[torch.isfinite(relative)]
        if relative.numel():
            max_rel = max(max_rel, float(relative.max()))
        for place in torch.nonzero(~inside).view(-1)[: SHOWN - len(first)].tolist():
            index = _unravel(start + place, want.shape)
            first.append(Mismatch(index, float(mine[place]), float(reference[place])))
    unwritten = int(_holds_poison(got).sum()) if got.numel() else 0
    return replace(found, nan=nan, max_rel=max_rel, first=tuple(first), unwritten=unwritten)


def _holds_poison(tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.bool or tensor.element_size() == 1:
        return torch.zeros(1, dtype=torch.bool)
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).view(-1, tensor.element_size())
    return (raw == POISON_BYTE).all(dim=1)


def _unravel(position: int, shape: Sequence[int]) -> tuple[int, ...]:
    index = []
    for size in reversed(shape):
        index.append(position % size)
        position //= size
    return tuple(reversed(index))

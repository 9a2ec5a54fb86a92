"""Says whether a candidate's outputs equal the reference's: every element, in bounded memory, by tolerances with scale.

Trusted, in the judge, on tensors whose memory the judge owns. A tolerance is |got - want| <= atol + rtol |want|, where
atol grows with the outputs of a rescaled input set and never exceeds a twentieth of the outputs' spread, so that small
outputs cannot be answered by zeros. Non-finite values must stand in the same places. Neighbours: elements.py (how
elements are looked at), diagnose.py (explains).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernelharness import elements
from kernelharness.elements import Errors, Passes
from kernelharness.protocol import CaseFact, Tolerance, Verdict

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

    def holds(self, errors: Sequence[Errors], want: Sequence[Tensor]) -> bool:
        """Whether these errors, one for each output, are so small that `compare` finds nothing wrong. False: it may."""
        return all(
            found.largest <= self._limits_by(found, reference.dtype, None, self._length(output))[0]
            for output, (found, reference) in enumerate(zip(errors, want, strict=True))
        )

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
            length = self._length(index)
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
        """(atol, rtol) for an output of this dtype; `scale`: what `elements.scale_of` says of the reference's.

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

    def _limits_by(
        self, errors: Errors, dtype: torch.dtype, given_rms: float | None, reduction_length: int
    ) -> tuple[float, float]:
        scale = elements.spread(errors.total, errors.squares, errors.count)
        return self._limits(dtype, scale, given_rms, reduction_length)

    def _length(self, output: int) -> int:
        return self._reduction_lengths[output] if self._reduction_lengths else 1

    def _quickly(self, got: Tensor, want: Tensor, given_rms: float | None, reduction_length: int) -> Comparison | None:
        """That all is right, where the device can say so in a pass or two; else None."""
        if self._passes is None or (errors := self._passes.errors(got, want)) is None:
            return None
        atol, rtol = self._limits_by(errors, want.dtype, given_rms, reduction_length)
        largest = errors.largest
        if not largest <= atol:
            found = self._passes.compare(got, want, atol, rtol)
            if found is None or found[0]:
                return None
            largest = found[1]
        return Comparison(Verdict.OK, count=want.numel(), max_abs=largest, atol=atol, rtol=rtol)

    def _values(self, got: Tensor, want: Tensor, given_rms: float | None, reduction_length: int) -> Comparison:
        if (quick := self._quickly(got, want, given_rms, reduction_length)) is not None:
            return quick
        largest = elements.largest_errors(got, want)
        # Nearly every output is right by this alone; all else needs a look at rtol |want|, and at all of the scale.
        atol, rtol = self._limits(want.dtype, elements.least_scale(want), given_rms, reduction_length)
        if all(most <= atol for most in largest):
            return Comparison(Verdict.OK, count=want.numel(), max_abs=max(largest, default=0.0), atol=atol, rtol=rtol)
        atol, rtol = self._limits(want.dtype, elements.scale_of(want), given_rms, reduction_length)
        bad, max_abs, mask_differs = 0, 0.0, False
        for (_, mine, reference), most in zip(elements.chunks(got, want), largest, strict=True):
            if most <= atol:
                max_abs = max(max_abs, most)
                continue
            error = elements.error(mine, reference)
            if most < math.inf and bool((error <= elements.bound(reference, atol, rtol)).all()):
                max_abs = max(max_abs, most)
                continue
            inside, finite, same_mask = elements.inside(mine, reference, error, atol, rtol)
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
        for start, piece, reference in elements.chunks(got, want):
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
    return [elements.scale_of(tensor, passes)[0] for tensor in tensors]


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no floating element is infinite or no number, without a copy of a large tensor."""
    return all(
        bool(torch.isfinite(piece).all())
        for tensor in tensors
        if tensor.is_floating_point()
        for piece in torch.split(tensor.reshape(-1), elements.chunk(tensor))
    )


def reduction_lengths_of(fact: CaseFact) -> list[int]:
    """How many terms an element of each output may sum up: the longest axis, or its share of all elements there are."""
    tensors = [*fact.inputs, *fact.parameters]
    longest = max((max(tensor.shape, default=1) for tensor in tensors), default=1)
    count = sum(math.prod(tensor.shape) for tensor in tensors)
    return [max(1, longest, count // max(1, math.prod(tensor.shape))) for tensor in fact.outputs]


def places_inside(found: Comparison, got: Tensor, want: Tensor) -> Tensor:
    """Which elements were right, by the limits that were found; as large as the outputs, so only for explaining."""
    flat = torch.empty(want.numel(), dtype=torch.bool, device=want.device)
    for start, mine, reference in elements.chunks(got, want):
        error = elements.error(mine, reference)
        flat[start : start + mine.numel()] = elements.inside(mine, reference, error, found.atol, found.rtol)[0]
    return flat.view(want.shape)


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


def _explain(found: Comparison, got: Tensor, want: Tensor) -> Comparison:
    """The same with what a person needs to see; a second pass, only taken when something is wrong."""
    nan, max_rel = 0, 0.0
    first: list[Mismatch] = []
    for start, mine, reference in elements.chunks(got, want):
        error = elements.error(mine, reference)
        inside, _, _ = elements.inside(mine, reference, error, found.atol, found.rtol)
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

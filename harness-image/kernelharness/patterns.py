"""Guesses what went wrong from how the wrong values lie: a factor, a shift, a transposition, a tail, every k-th column.

A guess for the model, never part of a verdict. The most specific explanation wins; no explanation is no text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

MOST_ELEMENTS = 1 << 22
"""Of larger tensors only whole leading rows up to this many elements are looked at."""
_MOST_SHIFT = 64
_DENSE = 0.6
"""Places count as wrong when at least this share of what lies there is."""
_EXPLAINED = 0.999
"""Share of elements that an explanation must get right."""


def pattern_of(got: Tensor, want: Tensor, inside: Tensor) -> str:
    """One sentence, or an empty text. `inside`: which elements are right; all three of one shape."""
    got, want, inside = _head(got), _head(want), _head(inside)
    if inside.numel() == 0 or bool(inside.all()):
        return ""
    mine, reference = got.double(), want.double()
    for guess in (_by_value, _by_order):
        if text := guess(mine, reference, inside):
            return text
    return _by_place(~inside)


def _head(tensor: Tensor) -> Tensor:
    if tensor.numel() <= MOST_ELEMENTS or tensor.dim() < 2:
        return tensor if tensor.dim() else tensor.view(1)
    rows = max(1, MOST_ELEMENTS // max(1, tensor[0].numel()))
    return tensor[:rows]


def _close(left: Tensor, right: Tensor) -> bool:
    """Equal but for rounding, in nearly all elements that are finite."""
    finite = torch.isfinite(right) & torch.isfinite(left)
    if not bool(finite.any()):
        return False
    left, right = left[finite], right[finite]
    scale = float(right.abs().mean()) + 1e-300
    near = (left - right).abs() <= 1e-3 * (right.abs() + 0.1 * scale)
    return float(near.double().mean()) >= _EXPLAINED


def _by_value(got: Tensor, want: Tensor, inside: Tensor) -> str:
    wrong = ~inside
    mine, reference = got[wrong], want[wrong]
    where = "everywhere" if bool(wrong.double().mean() > _EXPLAINED) else "where it is wrong"
    if bool(torch.isnan(mine).all()):
        return f"got is NaN {where}"
    if bool((mine == 0).all()):
        return f"got is 0 {where}"
    finite = torch.isfinite(mine) & torch.isfinite(reference)
    mine, reference = mine[finite], reference[finite]
    if mine.numel() < 4:
        return ""
    if bool((mine == mine[0]).all()):
        return f"got is {float(mine[0]):.6g} {where}"
    if float(reference.square().sum()) > 0:
        factor = float((mine * reference).sum() / reference.square().sum())
        if abs(factor - 1) > 1e-3 and _close(mine, factor * reference):
            return f"constant factor: got = {factor:.6g} x want {where}"
    offset = float((mine - reference).median())
    if offset != 0 and _close(mine - offset, reference):
        return f"constant offset: got = want {offset:+.6g} {where}"
    return ""


def _by_order(got: Tensor, want: Tensor, inside: Tensor) -> str:
    """The right values in another order."""
    if got.dim() >= 2:
        swapped = want.transpose(-1, -2).reshape(want.shape)
        if want.shape[-1] > 1 and want.shape[-2] > 1 and _close(got, swapped):
            return "transposed: got has the last two dimensions swapped"
    flat, reference = got.reshape(-1), want.reshape(-1)
    row = want.shape[-1]
    shifts = dict.fromkeys([*range(1, min(_MOST_SHIFT, flat.numel() // 2) + 1), row])
    for shift in shifts:
        if shift >= flat.numel():
            continue
        if _close(flat[shift:], reference[:-shift]):
            return f"shifted: got[i] = want[i - {shift}] in memory order"
        if _close(flat[:-shift], reference[shift:]):
            return f"shifted: got[i] = want[i + {shift}] in memory order"
    return ""


def _by_place(wrong: Tensor) -> str:
    for axis in reversed(range(wrong.dim())):
        others = [other for other in range(wrong.dim()) if other != axis]
        line = wrong.any(dim=others) if others else wrong
        if int(wrong.sum()) < _DENSE * int(line.sum()) * wrong.numel() / wrong.shape[axis]:
            continue
        if text := _on_axis(line.nonzero().view(-1).tolist(), wrong.shape[axis], axis, wrong.dim()):
            return text
    return ""


def _on_axis(places: Sequence[int], size: int, axis: int, rank: int) -> str:
    if not places or len(places) == size:
        return ""
    name = "the last dimension" if axis == rank - 1 else f"dimension {axis}"
    first, last = places[0], places[-1]
    if last - first + 1 == len(places):
        if last == size - 1:
            multiple = _power_of_two_in(first)
            after = f", everything after the last multiple of {multiple}" if multiple > 1 else ""
            return f"tail: wrong only in the last {len(places)} of {size} places of {name}, from {first} on{after}"
        if first == 0:
            return f"wrong only in the first {len(places)} of {size} places of {name}"
        return f"wrong only from {first} to {last} in {name}"
    steps = {after - before for before, after in pairwise(places)}
    if len(steps) == 1:
        step = steps.pop()
        return f"every {step}th: wrong in places {first}, {first + step}, {first + 2 * step}, .. of {name}"
    for tile in _tiles(size):
        touched = {place // tile for place in places}
        covered = sum(min(tile, size - number * tile) for number in touched)
        if covered == len(places) and len(touched) * tile < size:
            shown = ", ".join(str(number) for number in sorted(touched)[:4])
            return f"per tile: wrong in whole tiles of {tile} of {name} (tiles {shown}{', ..' * (len(touched) > 4)})"
    return ""


def _tiles(size: int) -> Iterator[int]:
    tile = 256
    while tile >= 2:
        if tile <= size:
            yield tile
        tile //= 2


def _power_of_two_in(number: int) -> int:
    return number & -number if number > 0 else 1

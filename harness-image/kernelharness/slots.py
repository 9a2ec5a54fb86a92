"""How T fills slots: tensors over shared memory, and fresh secret inputs from base sets at the price of one copy.

A timed slot is never used twice. New inputs come from a base set by a keyed rotation and a keyed factor for each
element, so an answer remembered, or put together, from earlier slots is wrong, at one pass over memory. Tensors with
structure (integers, masks, symmetric or sorted data, probabilities) would lose it that way: they are generated anew by
E for every slot.
Neighbours: layout.py (where), devices/cpu.py (who holds the memory), torch_arms.py (E generates).
"""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Sequence
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

from kernelharness.layout import Field

PATTERN = 1 << 18
PIECE = 1 << 17
"""Elements that are multiplied at a time: their factors stay in a core's cache. A second thread takes longer to wake up
than to do half of much less.
"""
_SQUARES = 64
"""Matrices of a stack of which is asked whether they are symmetric."""
_DISTORTED = 1 << 24
"""Elements that are distorted at a time: some copies of them fit beside the largest tensor."""
GATHERED = 1 << 15
"""Elements of tensors up to which all slots are filled in one operation."""
_INTEGER_OF = {8: torch.int64, 4: torch.int32, 2: torch.int16}
OUTLIER_SHARE = 1e-3
OUTLIER_FACTOR = 30.0

DISTRIBUTIONS = ("given", "mixed", "given", "outliers")
"""What correctness sets are drawn from, in turn; two as given at least, to see whether outputs depend on inputs."""


def torch_dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


class DeviceRange(Protocol):
    """Memory of a device."""

    @property
    def address(self) -> int: ...


def tensor_at(memory: mmap.mmap | DeviceRange, field: Field, offset: int) -> Tensor:
    """The tensor of this field in the slot that begins at `offset`; shares the memory."""
    dtype = torch_dtype(field.dtype)
    count = prod(field.shape)
    if not isinstance(memory, mmap.mmap):
        if count == 0:
            return torch.empty(field.shape, dtype=dtype, device="cuda")
        return device_bytes(memory.address + offset + field.offset, field.nbytes).view(dtype).view(field.shape)
    if count == 0:
        return torch.empty(field.shape, dtype=dtype)
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=offset + field.offset).view(field.shape)


def stack_at(memory: mmap.mmap | DeviceRange, field: Field, offset: int, stride: int, count: int) -> Tensor:
    """This field's tensors in `count` slots from `offset` on, as one of shape [count, *shape]; shares the memory."""
    dtype = torch_dtype(field.dtype)
    if prod(field.shape) == 0:
        device = "cpu" if isinstance(memory, mmap.mmap) else "cuda"
        return torch.empty((count, *field.shape), dtype=dtype, device=device)
    nbytes = (count - 1) * stride + field.nbytes
    if isinstance(memory, mmap.mmap):
        elements = nbytes // dtype.itemsize
        flat = torch.frombuffer(memory, dtype=dtype, count=elements, offset=offset + field.offset)
    else:
        flat = device_bytes(memory.address + offset + field.offset, nbytes).view(dtype)
    inner = torch.empty(field.shape, dtype=dtype, device="meta").stride()
    return flat.as_strided((count, *field.shape), (stride // dtype.itemsize, *inner))


def device_bytes(address: int, nbytes: int) -> Tensor:
    """Device memory at a raw address as a tensor of bytes; whoever owns the memory must outlive it."""
    return torch.as_tensor(_RawBytes(address, nbytes), device="cuda")


class _RawBytes:
    """What torch (and others) understand as an array on a CUDA device."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__cuda_array_interface__: dict[str, Any] = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


def has_structure(tensor: Tensor) -> bool:
    """True when rotating, scaling or flipping signs could make the tensor something else than the problem means."""
    if not tensor.is_floating_point():
        return True
    if tensor.numel() < 2:
        return False
    flat = tensor.flatten()[: 1 << 16].double()
    if not bool(torch.isfinite(flat).all()):
        return True
    if float((flat == 0).double().mean()) > 0.01 or bool((flat == flat.round()).all()):
        return True
    if flat.numel() >= 64 and _distinct(flat) < flat.numel() // 8 and tensor.dtype == torch.float32:
        return True
    steps = flat.diff()
    if bool((steps >= 0).all()) or bool((steps <= 0).all()):
        return True
    return _is_symmetric(tensor) or _has_constant_sums(tensor)


def _distinct(flat: Tensor) -> int:
    ordered = flat.sort().values
    return 1 + int((ordered[1:] != ordered[:-1]).sum())


def _is_symmetric(tensor: Tensor) -> bool:
    if tensor.dim() < 2 or not tensor.shape[-1] == tensor.shape[-2] > 1:
        return False
    some = tensor.reshape(-1, *tensor.shape[-2:])[:_SQUARES]
    return bool(torch.equal(some, some.transpose(-1, -2)))


def _has_constant_sums(tensor: Tensor) -> bool:
    """Rows that were normalised: probabilities, unit vectors."""
    if tensor.dim() < 1 or tensor.shape[-1] < 2:
        return False
    rows = tensor.reshape(-1, tensor.shape[-1])[:256].double()
    if rows.shape[0] < 2:
        rows = rows[:1]
        return bool((rows.sum(-1) - 1).abs().max() < 1e-4)
    totals = (rows.sum(-1), rows.square().sum(-1))
    return any(float(total.std()) < 1e-4 * float(total.abs().mean() + 1e-12) for total in totals)


class Refill:
    """Keyed refilling of the slots of one case: every element by a factor of its own. The key never leaves T.

    A factor is the sum of two patterns that begin anywhere, so that no sum over a slot, be it of squares, sizes or
    logarithms, is made of sums that are known from other slots.
    """

    def __init__(self, seed: int, *, signs: bool) -> None:
        """`seed` makes the patterns, which slots reveal; everything else is drawn from the system for each slot.

        `signs`: whether the reference stays finite when signs are flipped.
        """
        self._seed = seed
        self._signs = signs
        self._patterns: dict[torch.dtype, tuple[Tensor, Tensor]] = {}
        self._factors: dict[torch.dtype, Tensor] = {}

    def fill_stack(self, targets: Tensor, bases: Sequence[Tensor]) -> None:
        """Every targets[i] = factors * rotated(a base), all drawn anew for each i."""
        count, elements = len(targets), bases[0].numel()
        if elements > PIECE:
            for target in targets:
                self.fill(target, bases[self.draw(len(bases))])
            return
        source = torch.stack([base.reshape(-1) for base in bases])
        doubled = torch.cat((source, source), dim=1)
        if elements > GATHERED:
            for target in targets:
                shift = self.draw(elements)
                self._multiply(target.view(-1), doubled[self.draw(len(bases)), shift : shift + elements])
            return
        # Small slots: the work of one is less than the overhead of asking for it, so all are gathered at once.
        windows = doubled.unfold(1, elements, 1) if elements else doubled
        filled = windows[_drawn(len(bases), count), _drawn(elements, count)]
        coarse, fine = (pattern.unfold(0, max(1, elements), 1) for pattern in self.patterns(targets.dtype))
        starts = PATTERN - GATHERED
        filled *= coarse[_drawn(starts, count)] + fine[_drawn(starts, count)]
        targets.copy_(filled.view(targets.shape))

    def fill(self, target: Tensor, base: Tensor) -> None:
        """target = factors * rotated(base), both drawn anew. Both contiguous, of one shape and dtype."""
        out, source = target.view(-1), base.view(-1)
        count = out.numel()
        if count == 0:
            return
        shift = self.draw(count)
        # Two pieces, because the source wraps around.
        for piece, origin in ((out[: count - shift], source[shift:]), (out[count - shift :], source[:shift])):
            self._multiply(piece, origin)

    def _multiply(self, out: Tensor, source: Tensor) -> None:
        coarse, fine = self.patterns(out.dtype)
        if out.dtype not in self._factors:
            self._factors[out.dtype] = torch.empty(PIECE, dtype=out.dtype)
        for begin in range(0, out.numel(), PIECE):
            size = min(PIECE, out.numel() - begin)
            first, second = (self.draw(PATTERN - PIECE) for _ in range(2))
            factors = self._factors[out.dtype][:size]
            torch.add(coarse[first : first + size], fine[second : second + size], out=factors)
            torch.mul(source[begin : begin + size], factors, out=out[begin : begin + size])

    def patterns(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Sizes of 0.5 to 0.75, with signs where there may be any, and what is added to them: -0.25 to 0.25."""
        if dtype not in self._patterns:
            generator = torch.Generator().manual_seed(self._seed)
            coarse, fine, odds = torch.rand((3, PATTERN), generator=generator)
            coarse = 0.5 + coarse / 4
            if self._signs:
                coarse = torch.where(odds < 0.5, coarse, -coarse)
            self._patterns[dtype] = coarse.to(dtype), (fine / 2 - 0.25).to(dtype)
        return self._patterns[dtype]

    def draw(self, bound: int) -> int:
        return _system.randrange(max(1, bound))


_system = random.SystemRandom()


def _drawn(bound: int, count: int) -> Tensor:
    """`count` secret numbers below `bound`."""
    words = torch.frombuffer(bytearray(os.urandom(8 * count)), dtype=torch.int64)
    return (words & (2**62 - 1)) % max(1, bound)


def distort(tensor: Tensor, distribution: str, generator: torch.Generator) -> None:
    """Turn given inputs into those of another distribution, in place; `given` leaves them."""
    if distribution == "given" or not tensor.is_floating_point() or tensor.numel() == 0:
        return
    device = generator.device
    flat = tensor.view(-1)
    if distribution == "mixed":
        scale = float(torch.rand((), generator=generator, device=device)) * 1.5 + 0.5
        unit = bool(flat.min() >= 0) and bool(flat.max() <= 1)
        for piece in torch.split(flat, _DISTORTED):
            wide = piece.float()
            if unit:
                piece.copy_((wide * 2 - 1) * scale)
            else:
                signs = torch.randint(0, 2, piece.shape, generator=generator, device=device) * 2 - 1
                piece.copy_(wide * signs * scale)
    else:
        place = int(torch.randint(0, flat.numel(), (), generator=generator, device=device))
        flat[place] *= OUTLIER_FACTOR
        for piece in torch.split(flat, _DISTORTED):
            chosen = torch.rand(piece.shape, generator=generator, device=device) < OUTLIER_SHARE
            piece.copy_(torch.where(chosen, piece * OUTLIER_FACTOR, piece))

"""How T fills slots: tensors over shared memory, and fresh secret inputs from base sets at the price of one copy.

A timed slot is never used twice. New inputs come from a base set by a keyed rotation, keyed signs and a keyed scale, so
an answer remembered from an earlier slot is wrong, at one pass over memory. Tensors with structure (integers, masks,
symmetric or sorted data, probabilities) would lose it that way: they are generated anew by E for every slot.
Neighbours: layout.py (where), devices/cpu.py (who holds the memory), torch_arms.py (E generates).
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

from kernelharness.layout import Field

_SIGN_PERIOD = 1 << 18
_GATHERED = 1 << 16
"""Elements of tensors up to which all slots are filled in one operation."""
_SCALES = (0.5, 1.0)
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
    square = tensor.dim() >= 2 and tensor.shape[-1] == tensor.shape[-2] > 1
    return square and bool(torch.equal(tensor, tensor.transpose(-1, -2)))


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
    """Keyed refilling of the slots of one case. The key never leaves T."""

    def __init__(self, seed: int, *, signs: bool) -> None:
        """`signs`: whether the reference stays finite when signs are flipped."""
        self._random = torch.Generator().manual_seed(seed)
        self._signs = signs
        self._patterns: dict[torch.dtype, Tensor] = {}

    def fill_stack(self, targets: Tensor, bases: Sequence[Tensor]) -> None:
        """Every targets[i] = scale * signs * rotated(a base), all drawn anew for each i."""
        count, elements = len(targets), bases[0].numel()
        if elements > _GATHERED:
            for target in targets:
                self.fill(target, bases[self._draw(len(bases))])
            return
        # Small slots: the work of one is less than the overhead of asking for it, so all are gathered at once.
        source = torch.stack([base.reshape(-1) for base in bases])
        doubled = torch.cat((source, source), dim=1)
        windows = doubled.unfold(1, elements, 1) if elements else doubled
        chosen = torch.randint(0, len(bases), (count,), generator=self._random)
        shifts = torch.randint(0, max(1, elements), (count,), generator=self._random)
        scales = _SCALES[0] + (_SCALES[1] - _SCALES[0]) * torch.rand((count, 1), generator=self._random)
        filled = windows[chosen, shifts] * scales.to(targets.dtype)
        if self._signs:
            starts = torch.randint(0, _SIGN_PERIOD - _GATHERED, (count,), generator=self._random)
            filled *= self._pattern(targets.dtype).unfold(0, max(1, elements), 1)[starts]
        targets.copy_(filled.view(targets.shape))

    def fill(self, target: Tensor, base: Tensor) -> None:
        """target = scale * signs * rotated(base), all three drawn anew. Both contiguous, of one shape and dtype."""
        out, source = target.view(-1), base.view(-1)
        count = out.numel()
        if count == 0:
            return
        shift = self._draw(count)
        scale = self._draw_scale()
        if not self._signs:
            torch.mul(source[shift:], scale, out=out[: count - shift])
            torch.mul(source[:shift], scale, out=out[count - shift :])
            return
        pattern = self._pattern(out.dtype) * scale
        # Two pieces, because the source wraps around; each is multiplied by a pattern that begins anywhere.
        for piece, origin in ((out[: count - shift], source[shift:]), (out[count - shift :], source[:shift])):
            self._multiply(piece, origin, pattern)

    def _multiply(self, out: Tensor, source: Tensor, pattern: Tensor) -> None:
        half = _SIGN_PERIOD // 2
        for begin in range(0, out.numel(), half):
            end = min(begin + half, out.numel())
            start = self._draw(half)
            torch.mul(source[begin:end], pattern[start : start + end - begin], out=out[begin:end])

    def _pattern(self, dtype: torch.dtype) -> Tensor:
        if dtype not in self._patterns:
            bits = torch.randint(0, 2, (_SIGN_PERIOD,), generator=self._random)
            self._patterns[dtype] = (bits * 2 - 1).to(dtype)
        return self._patterns[dtype]

    def _draw_scale(self) -> float:
        return _SCALES[0] + (_SCALES[1] - _SCALES[0]) * float(torch.rand((), generator=self._random))

    def _draw(self, bound: int) -> int:
        return int(torch.randint(0, max(1, bound), (), generator=self._random))


def distort(tensor: Tensor, distribution: str, generator: torch.Generator) -> None:
    """Turn given inputs into those of another distribution, in place; `given` leaves them."""
    if distribution == "given" or not tensor.is_floating_point() or tensor.numel() == 0:
        return
    if distribution == "mixed":
        scale = float(torch.rand((), generator=generator, device=generator.device)) * 1.5 + 0.5
        flat = tensor.float()
        unit = bool(flat.min() >= 0) and bool(flat.max() <= 1)
        signs = torch.randint(0, 2, tensor.shape, generator=generator, device=generator.device) * 2 - 1
        tensor.copy_((flat * 2 - 1) * scale if unit else flat * signs * scale)
    else:
        chosen = torch.rand(tensor.shape, generator=generator, device=generator.device) < OUTLIER_SHARE
        place = torch.randint(0, tensor.numel(), (), generator=generator, device=generator.device)
        chosen.view(-1)[int(place)] = True
        tensor.copy_(torch.where(chosen, tensor * OUTLIER_FACTOR, tensor))

"""Timed inputs are fresh, of the problem's kind, and reveal nothing of the slots before them."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import partial

import pytest
import torch
from kernelharness.devices.cpu_passes import CpuPasses, CpuRefill
from kernelharness.layout import ALIGNMENT, PAGE, layout_of
from kernelharness.protocol import TensorFact
from kernelharness.slots import Refill, distort, has_structure, stack_at, tensor_at
from torch import Tensor

FACTS = [
    TensorFact(name="x", shape=[3, 5], dtype="float32"),
    TensorFact(name="index", shape=[7], dtype="int64"),
    TensorFact(name="one", shape=[], dtype="bfloat16"),
    TensorFact(name="none", shape=[0, 4], dtype="float64"),
]
SIZES = [(257,), (70_000,), (300, 300)]
"""Below and above the size up to which slots are gathered at once."""


@pytest.fixture(scope="module", params=["torch", "passes"])
def make_refill(request: pytest.FixtureRequest) -> Callable[..., Refill]:
    """Slots are filled by torch, or by the judge's own code where that could be compiled."""
    if request.param == "torch":
        return Refill
    passes = CpuPasses.build()
    assert passes is not None
    return partial(CpuRefill, passes=passes)


def test_fields_are_aligned_and_do_not_overlap() -> None:
    layout = layout_of(FACTS)
    assert layout.stride % PAGE == 0
    ends = [0]
    for field in layout.fields:
        assert field.offset % ALIGNMENT == 0
        assert field.offset >= ends[-1]
        ends.append(field.offset + field.nbytes)
    assert ends[-1] <= layout.stride


def test_a_stack_is_the_same_memory_as_its_slots() -> None:
    layout = layout_of(FACTS)
    memory = mmap.mmap(-1, 4 * layout.stride)
    for field in layout.fields:
        stack = stack_at(memory, field, layout.stride, layout.stride, 3)
        for call in range(3):
            slot = tensor_at(memory, field, (1 + call) * layout.stride)
            slot.fill_(call + 1)
            assert torch.equal(stack[call], slot)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("signs", [True, False])
def test_refilled_slots_are_of_the_problems_kind_and_no_two_are_alike(
    make_refill: Callable[..., Refill], size: tuple[int, ...], signs: bool
) -> None:
    base = torch.rand(size) + 0.5
    slots = torch.zeros(6, *size)
    make_refill(1, signs=signs).fill_stack(slots, [base])
    assert float(slots.abs().max()) <= float(base.max())
    assert float(slots.abs().min()) >= 0.25 * float(base.min())
    assert bool((slots < 0).any()) is signs
    flat = slots.abs().view(6, -1)
    for first in range(6):
        for second in range(first):
            assert not torch.allclose(flat[first] / flat[first].max(), flat[second] / flat[second].max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("statistic", [lambda x: x.square(), lambda x: x.abs(), lambda x: x.abs().log()])
def test_a_sum_over_a_slot_does_not_follow_from_its_base(
    make_refill: Callable[..., Refill], size: tuple[int, ...], statistic: Callable[[Tensor], Tensor]
) -> None:
    base = torch.rand(size) + 0.5
    slots = torch.zeros(8, *size)
    make_refill(1, signs=True).fill_stack(slots, [base])
    aligned = _rotated_back(slots, base)
    terms = statistic(aligned) - statistic(base.flatten())
    centred = terms - terms.mean(dim=1, keepdim=True)
    alike = torch.corrcoef(centred) - torch.eye(8)
    assert float(centred.std(dim=1).min()) > 0.01, "every element has the same factor"
    assert float(alike.abs().max()) < 0.9, "two slots have the same factors"


def _rotated_back(slots: Tensor, base: Tensor) -> Tensor:
    """Each slot's sizes, so that element i is made of the base's element i: where the two are most alike."""
    flat, wanted = slots.abs().flatten(1), base.flatten()
    spectrum = torch.fft.rfft(flat - flat.mean(1, keepdim=True)) * torch.fft.rfft(wanted - wanted.mean()).conj()
    shifts = torch.fft.irfft(spectrum, n=wanted.numel()).argmax(dim=1)
    return torch.stack([row.roll(-int(shift)) for row, shift in zip(flat, shifts, strict=True)])


@pytest.mark.parametrize("size", [1000, 70_000])
def test_another_key_gives_other_slots(make_refill: Callable[..., Refill], size: int) -> None:
    base = torch.rand(size)
    one, two = torch.zeros(2, size), torch.zeros(2, size)
    make_refill(1, signs=True).fill_stack(one, [base])
    make_refill(2, signs=True).fill_stack(two, [base])
    assert not torch.equal(one, two)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("size", [100, 70_000])
def test_refill_keeps_every_floating_dtype(make_refill: Callable[..., Refill], dtype: torch.dtype, size: int) -> None:
    base = torch.randn(size, dtype=dtype)
    slots = torch.zeros(2, size, dtype=dtype)
    make_refill(3, signs=True).fill_stack(slots, [base, base])
    assert bool(torch.isfinite(slots).all())
    assert float(slots.abs().max()) > 0


def symmetric() -> Tensor:
    square = torch.randn(40, 40)
    return square + square.t()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randint(0, 9, (50,)),
        torch.rand(50) > 0.5,
        torch.triu(torch.rand(40, 40)),
        torch.rand(400).sort().values,
        torch.softmax(torch.randn(20, 30), dim=-1),
        torch.nn.functional.normalize(torch.randn(20, 30), dim=-1),
        torch.where(torch.rand(30, 30) > 0.5, 0.0, float("-inf")),
        torch.randint(0, 5, (30, 30)).float(),
        symmetric(),
        torch.ones(64),
    ],
    ids=[
        "integers",
        "mask",
        "triangular",
        "sorted",
        "probabilities",
        "unit",
        "additive",
        "labels",
        "symmetric",
        "ones",
    ],
)
def test_structure_is_seen(tensor: Tensor) -> None:
    assert has_structure(tensor)


@pytest.mark.parametrize("tensor", [torch.rand(64, 64), torch.randn(1000), torch.rand(3, 8, 8).half(), torch.rand(())])
def test_random_numbers_have_no_structure(tensor: Tensor) -> None:
    assert not has_structure(tensor)


def test_mixed_distribution_has_both_signs_and_outliers_stand_out() -> None:
    generator = torch.Generator().manual_seed(0)
    mixed, outliers, given = torch.rand(4096), torch.rand(4096), torch.rand(4096)
    kept = given.clone()
    distort(mixed, "mixed", generator)
    distort(outliers, "outliers", generator)
    distort(given, "given", generator)
    assert 0.3 < float((mixed < 0).float().mean()) < 0.7
    assert float(outliers.max()) > 5
    assert torch.equal(given, kept)

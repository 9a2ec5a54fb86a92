"""What counts as equal: every element, scaled tolerances, non-finite masks, precision against float64."""

from __future__ import annotations

import math

import pytest
import torch
from kernelharness import elements
from kernelharness.compare import POISON_BYTE, Comparer, Comparison, Mismatch, reduction_lengths_of, rms_of
from kernelharness.protocol import CaseFact, TensorFact, Tolerance, Verdict


def judge(got: torch.Tensor, want: torch.Tensor, **tolerance: float) -> Comparison:
    return Comparer(Tolerance(**tolerance)).compare([got], [want])  # type: ignore[arg-type]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_equal_outputs_are_ok_with_no_error() -> None:
    x = noise(7, 300)
    found = judge(x.clone(), x)
    assert found == Comparison(Verdict.OK, count=2100, atol=found.atol, rtol=1e-4)
    assert found.atol == pytest.approx(1e-4)


def test_wrong_number_of_outputs_is_wrong_shape() -> None:
    found = Comparer(Tolerance()).compare([noise(3)], [noise(3), noise(3)])
    assert (found.verdict, found.detail) == (Verdict.WRONG_SHAPE, "got 1 outputs, expected 2")


def test_broadcastable_shape_is_wrong_shape() -> None:
    found = judge(torch.ones(4, 1), torch.ones(4, 5))
    assert (found.verdict, found.detail) == (Verdict.WRONG_SHAPE, "got [4, 1], expected [4, 5]")


def test_other_dtype_is_wrong_even_when_values_are_equal() -> None:
    found = judge(torch.ones(4, dtype=torch.float16), torch.ones(4))
    assert (found.verdict, found.detail) == (Verdict.WRONG_DTYPE, "got float16, expected float32")


@pytest.mark.parametrize("position", [0, 1 << 17, (1 << 20) + 6])
def test_one_wrong_element_anywhere_is_found(position: int) -> None:
    want = noise((1 << 20) + 7)
    got = want.clone()
    got[position] += 1.0
    found = judge(got, want)
    assert (found.verdict, found.bad, found.max_abs) == (Verdict.WRONG_VALUES, 1, pytest.approx(1.0))
    assert found.first == (Mismatch((position,), float(got[position]), float(want[position])),)


def test_first_five_bad_elements_are_shown_with_their_indices() -> None:
    want = noise(10, 10)
    got = want.clone()
    got[3:] = 0
    found = judge(got, want)
    assert [shown.index for shown in found.first] == [(3, 0), (3, 1), (3, 2), (3, 3), (3, 4)]
    assert found.bad == 70


def test_allowed_share_of_mismatches_is_counted_in_parts_per_million() -> None:
    want = noise(1_000_000)
    got = want.clone()
    got[:10] += 1
    assert judge(got, want, max_mismatch_ppm=10).ok
    assert judge(got, want, max_mismatch_ppm=9).verdict is Verdict.WRONG_VALUES


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nonfinite_where_the_reference_is_finite_is_wrong_whatever_share_is_allowed(value: float) -> None:
    want = noise(1000)
    got = want.clone()
    got[17] = value
    found = judge(got, want, max_mismatch_ppm=500_000)
    assert (found.verdict, found.nan) == (Verdict.WRONG_VALUES, 1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nonfinite_in_the_same_places_is_right(value: float) -> None:
    want = noise(1000)
    want[3] = value
    assert judge(want.clone(), want).ok


@pytest.mark.parametrize("got", [0.0, 3e38, -math.inf, math.nan])
def test_missing_or_other_infinity_is_wrong(got: float) -> None:
    want = noise(100)
    want[3] = math.inf
    mine = want.clone()
    mine[3] = got
    assert judge(mine, want).verdict is Verdict.WRONG_VALUES


def test_everything_nan_is_wrong() -> None:
    found = judge(torch.full((64,), math.nan), noise(64))
    assert (found.verdict, found.bad, found.nan) == (Verdict.WRONG_VALUES, 64, 64)


def test_tiny_outputs_are_not_answered_by_zeros() -> None:
    want = noise(4096) * 1e-6
    assert judge(torch.zeros(4096), want).verdict is Verdict.WRONG_VALUES
    assert judge(want * (1 + 1e-5), want).ok


def test_tolerance_grows_with_a_rescaled_input_set() -> None:
    want = noise(4096)
    comparer = Comparer(Tolerance())
    given = rms_of([want])
    got = [1000 * want + 0.05]
    assert comparer.compare(got, [1000 * want], given_rms=given).ok
    assert comparer.compare(got, [1000 * want]).verdict is Verdict.WRONG_VALUES


def test_tolerance_does_not_shrink_below_the_problems_own_for_small_inputs() -> None:
    want = noise(4096)
    assert Comparer(Tolerance()).compare([want], [want], given_rms=[1e6]).atol == pytest.approx(1e-4)


def test_a_single_output_is_judged_by_its_own_size() -> None:
    want = torch.tensor(1e-3)
    assert judge(torch.tensor(1.0001e-3), want).ok
    assert judge(torch.tensor(0.9e-3), want).verdict is Verdict.WRONG_VALUES


@pytest.mark.parametrize(
    ("dtype", "right", "wrong"),
    [(torch.bfloat16, 0.005, 0.05), (torch.float16, 0.005, 0.05), (torch.float32, 5e-5, 5e-3)],
)
def test_default_tolerance_follows_the_output_dtype(dtype: torch.dtype, right: float, wrong: float) -> None:
    want = (torch.rand(1000) + 1).to(dtype)
    assert judge((want.float() * (1 + right)).to(dtype), want).ok
    assert judge((want.float() * (1 + wrong)).to(dtype), want).verdict is Verdict.WRONG_VALUES


def test_integers_are_exact_beyond_what_a_double_holds() -> None:
    want = torch.tensor([2**60, 5, -7])
    assert judge(want.clone(), want).ok
    assert judge(torch.tensor([2**60 + 1, 5, -7]), want).verdict is Verdict.WRONG_VALUES
    assert judge(torch.tensor([True, False]), torch.tensor([True, True])).verdict is Verdict.WRONG_VALUES


def test_second_output_is_compared_and_named() -> None:
    found = Comparer(Tolerance()).compare([noise(5), noise(5)], [noise(5), noise(5, seed=1)])
    assert (found.verdict, found.output) == (Verdict.WRONG_VALUES, 1)


def test_unwritten_elements_are_counted() -> None:
    want = noise(100)
    got = want.clone()
    got[90:] = torch.full((40,), POISON_BYTE, dtype=torch.uint8).view(torch.float32)
    assert judge(got, want).unwritten == 10


def test_strided_output_is_compared_by_its_elements() -> None:
    want = noise(30, 20)
    assert judge(want.t().contiguous().t(), want).ok


def test_empty_output_is_equal_to_an_empty_output() -> None:
    assert judge(torch.empty(0, 3), torch.empty(0, 3)).ok


def test_half_precision_inside_a_float32_problem_is_precision() -> None:
    a, b = noise(64, 256), noise(256, 64, seed=1)
    want, exact = a @ b, a.double() @ b.double()
    got = (a.half().float() @ b.half().float()).contiguous()
    comparer = Comparer(Tolerance(rtol=0.1, atol=0.1), reduction_lengths=[256])
    found = comparer.compare([got], [want], [exact])
    assert found.verdict is Verdict.PRECISION
    assert found.rms_error > found.rms_allowed > 0


def test_another_order_of_summation_is_not_precision() -> None:
    a, b = noise(64, 4096), noise(4096, 64, seed=1)
    want, exact = a @ b, a.double() @ b.double()
    got = torch.zeros(64, 64)
    for k in range(0, 4096, 8):
        got += a[:, k : k + 8] @ b[k : k + 8]
    comparer = Comparer(Tolerance(rtol=1e-2, atol=1e-2), reduction_lengths=[4096])
    found = comparer.compare([got], [want], [exact])
    assert found.ok
    assert 0 < found.rms_error < found.rms_allowed


def test_scratch_does_not_grow_with_the_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "CHUNK", 128)
    want = noise(1000)
    got = want.clone()
    got[900] = 5
    found = judge(got, want)
    assert (found.bad, found.first[0].index) == (1, (900,))
    assert max(piece.numel() for _, piece, _ in elements.chunks(got, want)) == 128


@pytest.mark.parametrize("shape", [(16,), (40,), (1, 300), (64, 30), (33, 5, 7)])
@pytest.mark.parametrize("place", [0, -1])
def test_what_the_beginning_says_of_the_spread_is_never_too_much(shape: tuple[int, ...], place: int) -> None:
    want = 3 + 1e-5 * noise(*shape)
    assert elements.least_scale(want)[1] <= elements.scale_of(want)[1] * (1 + 1e-6)
    got = want.clone()
    got.view(-1)[place] += 4e-5
    assert judge(got, want, rtol=0.0).verdict is Verdict.WRONG_VALUES
    want.view(-1)[place] = 1000
    assert elements.least_scale(want)[1] <= elements.scale_of(want)[1] * (1 + 1e-6)


@pytest.mark.parametrize("shape", [(3, 40), (5, 2, 300)], ids=["many small slots", "slots of several pieces"])
def test_slots_with_gaps_between_them_are_compared_whole(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elements, "CHUNK", 128)
    memory = noise(7, 4000)
    inner = math.prod(shape)
    want = memory.as_strided((7, *shape), (4000, *torch.empty(shape).stride()))
    assert judge(want.contiguous(), want).count == 7 * inner
    for place in range(0, 7 * inner, inner - 1):
        got = want.contiguous()
        got.view(-1)[place] += 1
        found = judge(got, want)
        assert (found.bad, found.max_abs) == (1, pytest.approx(1.0))
        assert found.first[0].got == float(got.view(-1)[place])


def test_an_output_beyond_the_absolute_tolerance_may_be_right_by_the_relative_one() -> None:
    want = noise(1000) + 5000
    found = judge(want + 0.25, want)
    assert (found.verdict, found.max_abs) == (Verdict.OK, pytest.approx(0.25, abs=1e-3))
    assert judge(want + 0.75, want).bad == 1000


def test_reduction_length_of_an_output_is_the_longest_axis_or_what_one_output_can_see() -> None:
    def fact(inputs: list[list[int]], outputs: list[list[int]]) -> CaseFact:
        return CaseFact(
            case="c",
            inputs=[TensorFact(name="x", shape=shape, dtype="float32") for shape in inputs],
            outputs=[TensorFact(name="out", shape=shape, dtype="float32") for shape in outputs],
        )

    assert reduction_lengths_of(fact([[8, 100], [100, 4]], [[8, 4]])) == [100]
    assert reduction_lengths_of(fact([[10, 20, 30]], [[]])) == [6000]
    assert reduction_lengths_of(fact([[10, 20, 30]], [[10, 20, 30], [5]])) == [30, 1200]

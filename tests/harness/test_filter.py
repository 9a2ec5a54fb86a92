"""Problems that any fast kernel would solve are refused, with the reason."""

from __future__ import annotations

import torch
from kernelharness.filter import degenerate_reason, randomness_reason
from kernelharness.protocol import Tolerance
from torch import Tensor


def reason(*outputs: Tensor, inputs: list[Tensor] | None = None) -> str:
    given = [[x] for x in inputs] if inputs is not None else [[] for _ in outputs]
    return degenerate_reason(["out"], given, [[output] for output in outputs], Tolerance())


def draws(count: int = 2) -> list[Tensor]:
    return [torch.rand(8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(count)]


def test_real_problem_passes() -> None:
    x = draws()
    assert reason(*(each.softmax(-1) for each in x), inputs=x) == ""


def test_zero_output_is_degenerate() -> None:
    assert reason(torch.zeros(4, 4), torch.zeros(4, 4)) == "output 'out' is zero"


def test_empty_output_is_degenerate() -> None:
    assert reason(torch.empty(0), torch.empty(0)) == "output 'out' is empty"


def test_output_that_is_never_finite_is_degenerate() -> None:
    nan = torch.full((4,), torch.nan)
    assert reason(nan, nan) == "output 'out' is never finite"


def test_output_that_ignores_the_inputs_is_degenerate() -> None:
    same = torch.arange(16.0)
    assert reason(same, same + 1e-7) == "output 'out' does not depend on the inputs: it is the same for different ones"


def test_one_number_everywhere_is_degenerate() -> None:
    assert reason(torch.full((4, 4), 2.0), torch.full((4, 4), 3.0)) == (
        "output 'out' is one number everywhere, within the tolerance"
    )


def test_spread_below_the_tolerance_is_degenerate() -> None:
    x = draws()
    assert "one number everywhere" in reason(1000 + 0.1 * x[0], 2000 + 0.1 * x[1])


def test_identity_is_degenerate() -> None:
    x = draws()
    assert reason(*(each.relu() for each in x), inputs=x) == "output 'out' is input 0 unchanged"


def test_a_loss_is_one_number_and_still_a_problem() -> None:
    x = draws()
    assert reason(*(each.square().mean() for each in x), inputs=x) == ""


def test_one_real_output_is_enough() -> None:
    x = draws()
    outputs = [[each.softmax(-1), torch.zeros(3)] for each in x]
    assert degenerate_reason(["a", "b"], [[each] for each in x], outputs, Tolerance()) == ""


def test_dropout_is_named_as_randomness() -> None:
    x = torch.ones(1000)
    first, second = (torch.nn.functional.dropout(x, 0.5) for _ in range(2))
    assert "forward() draws random numbers" in randomness_reason([first], [second], Tolerance())
    assert randomness_reason([x], [x.clone()], Tolerance()) == ""

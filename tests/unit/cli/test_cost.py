"""The highest possible cost, as it is told before anything is spent."""

from __future__ import annotations

import pytest
from kernelsearch.cli.cost import highest_cost
from kernelsearch.search.journal import Limits, ModelLimits

PRICED = ModelLimits(
    name="main", max_output_tokens=1000, input_micros_per_mtok=1_000_000, output_micros_per_mtok=10_000_000
)
FREE = ModelLimits(name="free", input_micros_per_mtok=0, output_micros_per_mtok=0)
UNPRICED = ModelLimits(name="unknown")
ONE_CALL = 0.002 + 0.010
"""2,000 tokens in at 1 per million, 1,000 out at 10."""


def told(**limits: object) -> str:
    return str(highest_cost(Limits.model_validate(limits), input_tokens=2000))


def test_a_limit_of_cost_is_the_answer() -> None:
    assert told(models=[PRICED], cost_micros=5_000_000, candidates=9).startswith("5.00, the budget's limit")


def test_candidates_cost_two_calls_each_at_most_and_the_rest_is_said() -> None:
    text = told(models=[PRICED], candidates=100)
    assert text.startswith(f"{2 * 100 * ONE_CALL:.2f} for 100 candidates")
    assert "set budget.cost" in text


def test_tokens_are_priced_at_the_dearer_side() -> None:
    assert told(models=[PRICED], tokens=1_000_000).startswith("10.00, all 1000000 tokens")


@pytest.mark.parametrize("models", [[], [FREE]])
def test_what_costs_nothing_asks_nobody(models: list[ModelLimits]) -> None:
    cost = highest_cost(Limits(models=tuple(models), candidates=5))
    assert not cost.is_money
    assert str(cost).startswith("0,")


def test_a_model_without_a_price_is_named() -> None:
    assert "unknown has no price" in told(models=[PRICED, UNPRICED], candidates=5)

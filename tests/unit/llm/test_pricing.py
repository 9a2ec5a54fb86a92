"""What is reserved is never less than what is spent."""

from __future__ import annotations

import pytest
from kernelsearch.llm.pricing import cost_micros, highest_cost_micros, highest_input_tokens
from kernelsearch.search.journal import ModelLimits

from .test_client import Turn

PRICED = ModelLimits(
    name="m", max_output_tokens=1000, input_micros_per_mtok=3_000_000, output_micros_per_mtok=15_000_000
)


def test_a_million_tokens_cost_the_price() -> None:
    assert cost_micros(PRICED, 1_000_000, 0) == 3_000_000
    assert cost_micros(PRICED, 0, 1_000_000) == 15_000_000


def test_fractions_are_rounded_up_once() -> None:
    cheap = PRICED.model_copy(update={"input_micros_per_mtok": 1, "output_micros_per_mtok": 1})
    assert cost_micros(cheap, 1, 1) == 1
    assert cost_micros(cheap, 500_000, 500_000) == 1
    assert cost_micros(cheap, 500_000, 500_001) == 2


def test_the_reservation_covers_every_answer_that_may_come() -> None:
    highest = highest_cost_micros(PRICED, 500)
    assert all(cost_micros(PRICED, 500, used) <= highest for used in range(0, 1001, 50))
    assert cost_micros(PRICED, 500, 1000) == highest


def test_a_model_without_a_price_costs_nothing() -> None:
    assert highest_cost_micros(ModelLimits(name="m"), 10_000) == 0


@pytest.mark.parametrize("text", ["", "plain", "Straße", "日本語", "🙂" * 10, "\ud800"])
def test_no_tokenizer_makes_more_tokens_than_there_are_bytes(text: str) -> None:
    assert highest_input_tokens([Turn("user", text)]) > len(text.encode("utf-8", "replace"))

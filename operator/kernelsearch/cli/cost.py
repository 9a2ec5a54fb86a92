"""What a search may cost at most, before a token is spent: from the budget alone, without asking anyone."""

from __future__ import annotations

from dataclasses import dataclass

from kernelsearch.api.translate import from_micros
from kernelsearch.llm.pricing import cost_micros
from kernelsearch.search.budget import INPUT_TOKENS_GUESS
from kernelsearch.search.journal import Limits, ModelLimits


@dataclass(frozen=True)
class HighestCost:
    text: str
    is_money: bool
    """Something has a price above zero."""

    def __str__(self) -> str:
        return self.text


def highest_cost(limits: Limits, input_tokens: int = INPUT_TOKENS_GUESS) -> HighestCost:
    """`input_tokens`: of one prompt, as measured or guessed."""
    if not limits.models:
        return HighestCost("0, no model is asked", is_money=False)
    unpriced = [model.name for model in limits.models if model.input_micros_per_mtok is None]
    if unpriced:
        return HighestCost(f"not known, {', '.join(unpriced)} has no price{_tokens(limits)}", is_money=False)
    dearest = max(cost_micros(model, input_tokens, model.max_output_tokens) for model in limits.models)
    if dearest == 0:
        return HighestCost("0, the models are free", is_money=False)
    one = f"one call {from_micros(dearest)} at most"
    if limits.cost_micros is not None:
        text = f"{from_micros(limits.cost_micros)}, the budget's limit; it is passed by one call at most ({one})"
    elif limits.tokens is not None:
        most = max(_all_tokens(model, limits.tokens) for model in limits.models)
        text = f"{from_micros(most)}, all {limits.tokens} tokens at the highest price ({one})"
    elif limits.candidates is not None:
        text = (
            f"{from_micros(2 * limits.candidates * dearest)} for {limits.candidates} candidates, each with a retry"
            f" ({one}); calls that bring no candidate come on top: set budget.cost for a hard limit"
        )
    else:
        text = f"no limit but the duration ({one}): set budget.cost for a hard limit"
    return HighestCost(text, is_money=True)


def _all_tokens(model: ModelLimits, tokens: int) -> int:
    return max(cost_micros(model, tokens, 0), cost_micros(model, 0, tokens))


def _tokens(limits: Limits) -> str:
    return f"; at most {limits.tokens} tokens" if limits.tokens is not None else ""

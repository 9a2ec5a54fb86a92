"""What a call may cost at most, before it is made, and what it did cost, in micro-units of the budget's currency.

A budget holds only when what is reserved is never less than what is spent, so every rounding here is upwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from kernelsearch.search.journal import ModelLimits

_TOKENS_PER_MESSAGE = 64
"""Role markers, separators, and the system prompt that some servers' chat templates put in front."""


class Message(Protocol):
    """One turn of a chat, `kernelsearch.search.prompts.ChatMessage`."""

    @property
    def role(self) -> str: ...

    @property
    def content(self) -> str: ...


def highest_input_tokens(messages: Iterable[Message]) -> int:
    """An upper bound for any tokenizer that works on bytes: none makes a token of less than one byte of UTF-8."""
    return sum(len(m.content.encode("utf-8", "replace")) + _TOKENS_PER_MESSAGE for m in messages)


def highest_cost_micros(model: ModelLimits, input_tokens: int) -> int:
    """The price of that much input and of the longest answer that the model may give."""
    return cost_micros(model, input_tokens, model.max_output_tokens)


def cost_micros(model: ModelLimits, input_tokens: int, output_tokens: int) -> int:
    """Zero for a model without a price; tokens and calls are then the only limits that hold it."""
    scaled = input_tokens * (model.input_micros_per_mtok or 0) + output_tokens * (model.output_micros_per_mtok or 0)
    return -(-scaled // 1_000_000)

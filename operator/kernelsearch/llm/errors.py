"""Why a model gave no usable answer: one exception, with the reason that conditions and docs use as it stands."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class LlmReason(StrEnum):
    UNAUTHORIZED = "LLMUnauthorized"
    NOT_FOUND = "LLMNotFound"
    BAD_REQUEST = "LLMBadRequest"
    """The endpoint does not accept what was sent: a parameter it does not know, a prompt that is too long."""
    ORIGIN_REFUSED = "LLMOriginRefused"
    """The controller may not talk to this address, or the endpoint redirects to another one."""
    RATE_LIMITED = "LLMRateLimited"
    TIMEOUT = "LLMTimeout"
    UNAVAILABLE = "LLMUnavailable"
    REFUSED = "LLMRefused"
    """The model, or a filter in front of it, declined to answer."""
    INVALID_OUTPUT = "LLMInvalidOutput"
    """Empty, cut off, too large, or not what an OpenAI-compatible endpoint sends."""


@dataclass(frozen=True)
class Tokens:
    input: int = 0
    output: int = 0


NOTHING = Tokens()


class LlmError(Exception):
    """A call that brought no completion.

    `permanent`: asking this endpoint again cannot help until a person changes something.
    `retry_after_seconds`: how long the endpoint asked to be left alone, when it said so.
    `input_tokens`, `output_tokens`: what the call is to be charged; the most it can have been where the answer never
    came or does not say.
    """

    def __init__(
        self,
        reason: LlmReason,
        message: str,
        *,
        permanent: bool = False,
        retry_after_seconds: float | None = None,
        tokens: Tokens = NOTHING,
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.permanent = permanent
        self.retry_after_seconds = retry_after_seconds
        self.input_tokens = tokens.input
        self.output_tokens = tokens.output


class AnswerCut(LlmError):
    """The answer did not fit into max_output_tokens."""

    def __init__(self, tokens: Tokens) -> None:
        message = f"the answer was cut after {tokens.output} tokens: raise maxOutputTokens of the model"
        super().__init__(LlmReason.INVALID_OUTPUT, message, tokens=tokens)

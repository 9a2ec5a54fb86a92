"""What came back, read: a chat completion becomes a Completion, everything else an LlmError that says what to do.

Text of the other side is untrusted: it is cut, put on one line, and freed of the key before it enters a message.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import httpx2
import openai
from pydantic import BaseModel, ValidationError

from kernelsearch.llm.errors import AnswerCut, LlmError, LlmReason, Tokens
from kernelsearch.llm.origins import OriginRefused
from kernelsearch.llm.transport import ReplyRefused

_SHORTEST_KEY = 8
"""A shorter key is a placeholder ("none"): cutting it out of texts would only damage them."""

E = TypeVar("E", bound=BaseException)


@dataclass(frozen=True)
class Completion:
    """A whole answer. Tokens as the endpoint counted them; the upper bounds where it does not say."""

    text: str
    input_tokens: int
    output_tokens: int
    finish_reason: str


@dataclass(frozen=True)
class Question:
    """What an error message needs to know of the call, and what the call can have cost at most."""

    endpoint: str
    model: str
    key: str
    timeout_seconds: float
    at_most: Tokens

    def redacted(self, text: str) -> str:
        return text.replace(self.key, "***") if len(self.key) >= _SHORTEST_KEY else text

    def quoted(self, text: str) -> str:
        """Their text for a message of ours: without the key, on one line, at most 300 characters."""
        printable = "".join(c if c.isprintable() else " " for c in self.redacted(text)[:2000])
        return " ".join(printable.split())[:300]


# -- answers ----------------------------------------------------------------------------------------------------------


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Reply(BaseModel):
    """What is needed of a chat completion; servers differ in all the rest."""

    choices: list[_Choice]
    usage: _Usage | None = None


def read_completion(body: bytes, question: Question) -> Completion:
    """Raise LlmError for what is no completion, and for one that was refused, cut off or is empty."""
    try:
        reply = _Reply.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        why = f"{where}: {question.quoted(first['msg'])}"
        what = f"{question.endpoint} sent no chat completion ({why}): is it an OpenAI-compatible base URL?"
        raise LlmError(LlmReason.INVALID_OUTPUT, what, tokens=question.at_most) from None
    tokens = _tokens(reply.usage or _Usage(), question)
    if not reply.choices:
        raise LlmError(LlmReason.INVALID_OUTPUT, "the reply has no choices", tokens=tokens)
    message, finish = reply.choices[0].message, question.quoted(reply.choices[0].finish_reason or "stop")
    if message.refusal or finish == "content_filter":
        why = question.quoted(message.refusal or "a content filter stopped the answer")
        raise LlmError(LlmReason.REFUSED, f"the model declined: {why}", tokens=tokens)
    if finish == "length":
        raise AnswerCut(tokens)
    text = question.redacted(message.content or "")
    if not text.strip():
        raise LlmError(LlmReason.INVALID_OUTPUT, f"the answer is empty (finish reason {finish})", tokens=tokens)
    return Completion(text, tokens.input, tokens.output, finish)


def _tokens(usage: _Usage, question: Question) -> Tokens:
    return Tokens(
        question.at_most.input if usage.prompt_tokens is None else max(0, usage.prompt_tokens),
        question.at_most.output if usage.completion_tokens is None else max(0, usage.completion_tokens),
    )


# -- failures ---------------------------------------------------------------------------------------------------------


def from_failure(error: Exception, question: Question) -> LlmError:
    """The LlmError for whatever the SDK or the transport raised."""
    if isinstance(error, openai.APIStatusError):
        return _from_status(error, question)
    where = question.endpoint
    if refused := _cause(error, OriginRefused):
        return LlmError(LlmReason.ORIGIN_REFUSED, str(refused), permanent=True)
    if too_much := _cause(error, ReplyRefused):
        return LlmError(LlmReason.INVALID_OUTPUT, f"{where}: {too_much}", tokens=question.at_most)
    if unreached := _cause(error, httpx2.ConnectError) or _cause(error, httpx2.ConnectTimeout):
        why = question.quoted(str(unreached)) or "it does not accept connections"
        return LlmError(LlmReason.UNAVAILABLE, f"cannot connect to {where}: {why}")
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        message = f"{where} gave no whole answer within {question.timeout_seconds:g} s"
        return LlmError(LlmReason.TIMEOUT, message, tokens=question.at_most)
    why = question.quoted(str(list(_causes(error))[-1]))
    return LlmError(LlmReason.UNAVAILABLE, f"{where} broke off the call: {why}", tokens=question.at_most)


def _from_status(error: openai.APIStatusError, question: Question) -> LlmError:
    status, headers = error.status_code, error.response.headers
    answered = f"{question.endpoint} (model {question.model}) answered {status}"
    said = question.quoted(_said(error))
    if 300 <= status < 400:
        target = question.quoted(headers.get("location", "an unknown place"))
        message = (
            f"{question.endpoint} redirects to {target}: redirects are not followed; put the final URL in endpoint"
        )
        return LlmError(LlmReason.ORIGIN_REFUSED, message, permanent=True)
    if status in (401, 403):
        message = f"{answered}: check the key and what it may use ({said})"
        return LlmError(LlmReason.UNAUTHORIZED, message, permanent=True)
    if status == 404:
        message = f"{answered}: check the endpoint's path and the model's name ({said})"
        return LlmError(LlmReason.NOT_FOUND, message, permanent=True)
    wait = _retry_after(headers)
    if status == 429:
        spent = error.code == "insufficient_quota"
        return LlmError(LlmReason.RATE_LIMITED, f"{answered}: {said}", permanent=spent, retry_after_seconds=wait)
    if status in (408, 409, 425) or status >= 500:
        return LlmError(LlmReason.UNAVAILABLE, f"{answered}: {said}", retry_after_seconds=wait)
    if error.code == "content_filter":
        return LlmError(LlmReason.REFUSED, f"a content filter refused the prompt: {said}")
    another_prompt_may_fit = error.code == "context_length_exceeded"
    return LlmError(LlmReason.BAD_REQUEST, f"{answered}: {said}", permanent=not another_prompt_may_fit)


def _said(error: openai.APIStatusError) -> str:
    message = error.body.get("message") if isinstance(error.body, dict) else None
    return message if isinstance(message, str) else error.response.text


def _causes(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _cause(error: BaseException, kind: type[E]) -> E | None:
    return next((link for link in _causes(error) if isinstance(link, kind)), None)


def _retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds, from retry-after-ms or from Retry-After, which is a number of seconds or a date."""
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return max(0.0, float(milliseconds) / 1000)
        value = headers.get("retry-after", "").strip()
        if re.fullmatch(r"\d+(\.\d+)?", value):
            return float(value)
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time()) if value else None
    except ValueError:
        return None

"""One question to one model: `LlmClient.complete` returns a whole answer or raises LlmError, never half of one.

What holds for every call: a key is sent to its endpoint and appears nowhere else (not in logs, errors or answers, and
keys of the environment are never sent); redirects are not followed; the reply's size and the time to its last byte are
limited. Failures that cost nothing (429, 5xx, no connection) are tried again after a pause. An answer that did not come
in time may have been billed, so another try needs a reservation of its own and is the caller's to make.
Neighbours: transport.py (bytes), reply.py (what came back), limits.py (pauses), origins.py (where a key may go).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import httpx2
import openai
from pydantic import SecretStr

from kernelsearch.llm.errors import AnswerCut, LlmError, LlmReason, Tokens
from kernelsearch.llm.limits import RequestGate
from kernelsearch.llm.origins import OriginPolicy, OriginRefused, origin_of
from kernelsearch.llm.pricing import Message, highest_input_tokens
from kernelsearch.llm.reply import Completion, Question, from_failure, read_completion
from kernelsearch.llm.transport import GuardedTransport

__all__ = ["Completion", "LlmClient", "LlmError", "LlmReason", "ModelEndpoint"]

log = logging.getLogger(__name__)

MAX_WAIT_SECONDS = 60.0
"""An endpoint that asks for more patience than this is reported at once instead of being waited for."""


@dataclass(frozen=True)
class ModelEndpoint:
    """A model and where it is. `endpoint` is the base URL (https://host/v1); no key: no Authorization header."""

    name: str
    model: str
    endpoint: str
    api_key: SecretStr | None = None
    max_output_tokens: int = 16384
    temperature: float | None = None
    timeout_seconds: float = 600.0


class LlmClient:
    """The calls of one search. `origins` None: any address may be used (a person's own machine)."""

    def __init__(
        self,
        *,
        max_concurrent_requests: int = 4,
        origins: OriginPolicy | None = None,
        retries: int = 3,
        backoff_seconds: float = 2.0,
    ) -> None:
        self._gate = RequestGate(max_concurrent_requests)
        self._retries = retries
        self._backoff_seconds = backoff_seconds
        self._http = httpx2.AsyncClient(transport=GuardedTransport(origins), follow_redirects=False, trust_env=False)
        self._new_length_parameter: set[ModelEndpoint] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def complete(self, endpoint: ModelEndpoint, messages: Sequence[Message]) -> Completion:
        """Raise LlmError, which says whether another try can help and what is to be charged."""
        return await self._patiently(endpoint, messages, endpoint.max_output_tokens)

    async def ping(self, endpoint: ModelEndpoint) -> None:
        """Ask for a few tokens: the address, the key and the model's name are right, or LlmError says which is not."""
        try:
            await self._patiently(endpoint, [_Ping()], max_output_tokens=16)
        except AnswerCut:
            return  # it would have said more: it answers

    async def _patiently(
        self, endpoint: ModelEndpoint, messages: Sequence[Message], max_output_tokens: int
    ) -> Completion:
        for attempt in range(self._retries + 1):
            try:
                async with self._gate.slot(endpoint.endpoint):
                    return await self._once(endpoint, messages, max_output_tokens)
            except LlmError as error:
                wait = self._wait_before_retry(error, attempt)
                if wait is None:
                    raise
                log.info("model %s: %s; trying again in %.1f s", endpoint.name, error, wait)
                self._gate.pause(endpoint.endpoint, wait)
        raise AssertionError("the last attempt returns or raises")

    def _wait_before_retry(self, error: LlmError, attempt: int) -> float | None:
        """Seconds, or None when trying again is useless or not ours to decide."""
        transient = error.reason in (LlmReason.RATE_LIMITED, LlmReason.UNAVAILABLE) and not error.permanent
        free = error.input_tokens == 0
        if not transient or not free or attempt == self._retries:
            return None
        wait = self._backoff_seconds * 2**attempt * random.uniform(0.5, 1.0)
        wait = max(wait, error.retry_after_seconds or 0.0)
        return wait if wait <= MAX_WAIT_SECONDS else None

    async def _once(self, endpoint: ModelEndpoint, messages: Sequence[Message], max_output_tokens: int) -> Completion:
        question = Question(
            endpoint=endpoint.endpoint,
            model=endpoint.model,
            key=endpoint.api_key.get_secret_value() if endpoint.api_key else "",
            timeout_seconds=endpoint.timeout_seconds,
            at_most=Tokens(highest_input_tokens(messages), max_output_tokens),
        )
        try:
            origin_of(endpoint.endpoint)
            async with asyncio.timeout(endpoint.timeout_seconds):
                body = await self._post(endpoint, question, messages)
        except (TimeoutError, OriginRefused, openai.OpenAIError, httpx2.HTTPError) as error:
            raise from_failure(error, question) from None
        return read_completion(body, question)

    async def _post(self, endpoint: ModelEndpoint, question: Question, messages: Sequence[Message]) -> bytes:
        """The reply's body. OpenAI's newer models know only max_completion_tokens, older servers only max_tokens."""
        new = endpoint in self._new_length_parameter
        options: dict[str, Any] = {"max_completion_tokens" if new else "max_tokens": question.at_most.output}
        if endpoint.temperature is not None:
            options["temperature"] = endpoint.temperature
        turns: list[Any] = [{"role": message.role, "content": message.content} for message in messages]
        unsent = ["OpenAI-Organization", "OpenAI-Project", *([] if question.key else ["Authorization"])]
        try:
            response = await self._sdk(question).chat.completions.with_raw_response.create(
                model=endpoint.model, messages=turns, extra_headers={name: openai.Omit() for name in unsent}, **options
            )
        except openai.BadRequestError as error:
            if new or "max_completion_tokens" not in str(error):
                raise
            self._new_length_parameter.add(endpoint)
            return await self._post(endpoint, question, messages)
        return bytes(response.content)

    def _sdk(self, question: Question) -> openai.AsyncOpenAI:
        # Everything that the SDK would else take from the environment is set here, or left out by `unsent`.
        return openai.AsyncOpenAI(
            api_key=question.key or "none",
            admin_api_key="",
            organization="",
            project="",
            base_url=question.endpoint,
            http_client=self._http,
            timeout=question.timeout_seconds,
            max_retries=0,
        )


@dataclass(frozen=True)
class _Ping:
    role: str = "user"
    content: str = "Reply with the word OK."

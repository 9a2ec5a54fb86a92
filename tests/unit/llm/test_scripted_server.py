"""dev/llm as a process: an OpenAI-compatible endpoint for the client that searches use."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from kernelsearch.llm.client import LlmClient, LlmError, LlmReason, ModelEndpoint
from kernelsearch.llm.errors import AnswerCut
from kernelsearch.search.prompts import ChatMessage
from pydantic import SecretStr

ROOT = Path(__file__).parents[3]
PROMPT = 'Write one cpp source file that includes "problem.h".\n{line}\n# Your task\n\nWrite a first kernel.'
DRAFT = ChatMessage("user", PROMPT.format(line=(ROOT / "dev/llm/replies/rmsnorm/reference.txt").read_text()))


@contextlib.asynccontextmanager
async def running(*options: str) -> AsyncIterator[str]:
    """The server in a process of its own; yields its base URL."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "dev/llm/server.py"), "--port", "0", *options, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        yield (await server.stdout.readline()).decode().removeprefix("listening on ").strip()
    finally:
        server.terminate()
        await server.wait()


def scripted(url: str, **changes: object) -> ModelEndpoint:
    return ModelEndpoint(**{"name": "main", "model": "scripted", "endpoint": url, **changes})  # type: ignore[arg-type]


async def test_a_draft_is_answered_with_a_plan_a_kernel_and_a_token_count() -> None:
    async with running() as url, LlmClient() as llm:
        await llm.ping(scripted(url))
        first = await llm.complete(scripted(url), [DRAFT])
        second = await llm.complete(scripted(url), [DRAFT])
    assert first.text.startswith("PLAN: ")
    assert "```cpp\n" in first.text
    assert first.text != second.text
    assert 0 < first.input_tokens < len(DRAFT.content)
    assert 0 < first.output_tokens < len(first.text)


async def test_an_unknown_model_and_a_wrong_key_are_refused_as_by_a_real_endpoint() -> None:
    async with running("--api-key", "right-key") as url, LlmClient() as llm:
        await llm.ping(scripted(url, api_key=SecretStr("right-key")))
        for wrong, reason in [
            (scripted(url), LlmReason.UNAUTHORIZED),
            (scripted(url, api_key=SecretStr("right-key"), model="gpt"), LlmReason.NOT_FOUND),
            (scripted(url.removesuffix("/v1"), api_key=SecretStr("right-key")), LlmReason.NOT_FOUND),
        ]:
            with pytest.raises(LlmError) as caught:
                await llm.ping(wrong)
            assert caught.value.reason is reason


async def test_one_rate_limit_is_waited_for() -> None:
    async with running("--rate-limit-once") as url, LlmClient(retries=0) as llm:
        with pytest.raises(LlmError) as caught:
            await llm.complete(scripted(url), [DRAFT])
        assert caught.value.reason is LlmReason.RATE_LIMITED
        assert caught.value.retry_after_seconds == 1.0
        assert (await llm.complete(scripted(url), [DRAFT])).text.startswith("PLAN: ")


async def test_errors_come_at_the_rate_that_was_asked_for_and_the_same_in_every_run() -> None:
    async def outcomes() -> list[str]:
        seen = []
        async with running("--error-rate", "0.5") as url, LlmClient(retries=0) as llm:
            for _ in range(12):
                try:
                    await llm.complete(scripted(url), [DRAFT])
                    seen.append("ok")
                except LlmError as error:
                    seen.append(error.reason)
        return seen

    first = await outcomes()
    assert len(set(first)) == 3, "ok, rate limited and unavailable all occur"
    assert first == await outcomes()


async def test_an_answer_beyond_the_limit_is_cut() -> None:
    async with running() as url, LlmClient() as llm:
        with pytest.raises(AnswerCut):
            await llm.complete(scripted(url, max_output_tokens=50), [DRAFT])


async def test_a_streamed_answer_is_the_same_in_pieces_and_ends_with_its_usage() -> None:
    body = {"model": "scripted", "messages": [{"role": "user", "content": DRAFT.content}]}
    async with running() as whole, running() as pieces, aiohttp.ClientSession() as session:
        async with session.post(f"{whole}/chat/completions", json=body) as response:
            expected = await response.json()
        async with session.post(f"{pieces}/chat/completions", json={**body, "stream": True}) as response:
            lines = [line for line in (await response.text()).split("\n\n") if line]
        async with session.get(f"{whole}/models") as response:
            assert [model["id"] for model in (await response.json())["data"]] == ["scripted"]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert text == expected["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"] == expected["usage"]

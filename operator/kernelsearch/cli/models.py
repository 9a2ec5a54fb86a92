"""Whether the models answer: a few tokens each, before anything is built on them."""

from __future__ import annotations

from collections.abc import Mapping

from kernelsearch.llm.client import LlmClient, ModelEndpoint
from kernelsearch.llm.errors import LlmError


async def ask_all(client: LlmClient, endpoints: Mapping[str, ModelEndpoint]) -> dict[str, LlmError | None]:
    """Model -> why it does not answer; None: it does."""
    answers: dict[str, LlmError | None] = {}
    for name, endpoint in endpoints.items():
        try:
            await client.ping(endpoint)
        except LlmError as error:
            answers[name] = error
        else:
            answers[name] = None
    return answers

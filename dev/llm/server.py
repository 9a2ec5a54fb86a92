"""An OpenAI-compatible endpoint that answers from a script: a whole search runs without a model and without a key.

    python dev/llm/server.py --port 8000        prints: listening on http://127.0.0.1:8000/v1

It speaks /v1/models and /v1/chat/completions (also stream=true) with token counts, and, when told to, fails as real
endpoints do: a rate limit once, errors now and then, a key that must be right. What it says is in replies/, how it
chooses in script.py; about any other problem it says that it is a script.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from pathlib import Path
from typing import Any

from aiohttp import web
from script import Script, tokens_of

MODEL = "scripted"
_ERRORS = {429: "Rate limit reached, try again later", 500: "The server had an error", 503: "The engine is overloaded"}


class Endpoint:
    """One server's state: the script, and which requests are to fail."""

    def __init__(self, script: Script, *, delay: float, error_rate: float, rate_limit_once: bool, api_key: str) -> None:
        self._script = script
        self._delay = delay
        self._error_rate = error_rate
        self._rate_limited = not rate_limit_once
        self._api_key = api_key
        self._random = random.Random(0)  # the same requests fail in every run
        self._calls = 0

    async def models(self, request: web.Request) -> web.Response:
        self._authorize(request)
        return web.json_response(
            {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "kernelsearch"}]}
        )

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self._authorize(request)
        body = await _json(request)
        turns = body.get("messages")
        if not isinstance(turns, list) or not all(_is_turn(turn) for turn in turns):
            raise failure(400, "messages must be a list of {role, content}, with text content", "invalid_request_error")
        if body.get("model") != MODEL:
            raise failure(
                404, f"The model {body.get('model')!r} does not exist; the only one is {MODEL!r}", "model_not_found"
            )
        self._fail_if_due()
        text = self._script.answer(turns)
        await asyncio.sleep(self._delay)
        self._calls += 1
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        answer = Answer(self._calls, text, tokens_of([turn["content"] for turn in turns]), limit)
        return await answer.stream(request) if body.get("stream") else web.json_response(answer.whole())

    def _authorize(self, request: web.Request) -> None:
        if self._api_key and request.headers.get("Authorization") != f"Bearer {self._api_key}":
            raise failure(401, "Incorrect API key provided", "invalid_api_key")

    def _fail_if_due(self) -> None:
        if not self._rate_limited:
            self._rate_limited = True
            raise failure(429, _ERRORS[429], "rate_limit_exceeded", retry_after="1")
        if self._random.random() < self._error_rate:
            status = self._random.choice(sorted(_ERRORS))
            raise failure(status, _ERRORS[status], "server_error", retry_after="1")


class Answer:
    """One completion, whole or in pieces. A text longer than the limit is cut, as a model's is."""

    def __init__(self, number: int, text: str, prompt_tokens: int, limit: int | None) -> None:
        used = tokens_of([text])
        cut = isinstance(limit, int) and used > limit
        self._id = f"chatcmpl-{number}"
        self._text = text[: 4 * limit] if cut and limit is not None else text
        self._finish = "length" if cut else "stop"
        completion = tokens_of([self._text])
        self._usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": prompt_tokens + completion,
        }

    def whole(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": self._text}
        choice = {"index": 0, "message": message, "finish_reason": self._finish}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage}

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        pieces = [self._text[at : at + 400] for at in range(0, len(self._text), 400)]
        for piece in pieces:
            await self._event(response, [{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
        await self._event(response, [{"index": 0, "delta": {}, "finish_reason": self._finish}])
        await self._event(response, [], usage=self._usage)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _event(self, response: web.StreamResponse, choices: list[dict[str, Any]], **more: Any) -> None:
        chunk = {**self._head("chat.completion.chunk"), "choices": choices, **more}
        await response.write(f"data: {json.dumps(chunk)}\n\n".encode())

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": 0, "model": MODEL}


def failure(status: int, message: str, code: str, *, retry_after: str = "") -> web.HTTPException:
    """An error as OpenAI words it."""
    headers = {"retry-after": retry_after} if retry_after else {}
    body = json.dumps({"error": {"message": message, "type": code, "param": None, "code": code}})
    error = web.HTTPException(text=body, headers=headers, content_type="application/json")
    error.set_status(status)
    return error


async def _json(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise failure(400, "the body must be a JSON object", "invalid_request_error")
    return body


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)


def make_app(endpoint: Endpoint) -> web.Application:
    app = web.Application(client_max_size=8 * 1024 * 1024)
    app.router.add_get("/v1/models", endpoint.models)
    app.router.add_post("/v1/chat/completions", endpoint.chat)
    return app


async def serve(endpoint: Endpoint, host: str, port: int) -> None:
    runner = web.AppRunner(make_app(endpoint))
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    print(f"listening on http://{host}:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A scripted OpenAI-compatible endpoint.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one; it is printed")
    parser.add_argument("--replies", type=Path, default=Path(__file__).parent / "replies")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that each answer takes")
    parser.add_argument("--error-rate", type=float, default=0.0, help="share of calls that fail with 429, 500 or 503")
    parser.add_argument("--rate-limit-once", action="store_true", help="answer the first call with 429")
    parser.add_argument("--api-key", default="", help="answer 401 to any other key")
    options = vars(parser.parse_args())
    folder, host, port = options.pop("replies"), options.pop("host"), options.pop("port")
    try:
        asyncio.run(serve(Endpoint(Script(folder), **options), host, port))
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError) as error:
        raise SystemExit(f"dev/llm: {error}") from None


if __name__ == "__main__":
    main()

"""A real HTTP server on loopback whose behaviour a test sets, and which remembers what it was asked."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def completion(content: str | None = "OK", finish: str = "stop", **message: Any) -> dict[str, Any]:
    """The JSON of a chat completion as OpenAI sends it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }


@dataclass
class Endpoint:
    url: str = ""
    answers: list[Handler] = field(default_factory=list)
    """One per request, in order; the last one answers all later requests."""
    seen: list[tuple[float, web.Request, Any]] = field(default_factory=list)
    """(monotonic time, request, its JSON) of every request."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((time.monotonic(), request, await request.json() if request.can_read_body else None))
        handler = self.answers[min(len(self.seen), len(self.answers)) - 1]
        return await handler(request)


def json(body: Any, status: int = 200, **headers: str) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response(body, status=status, headers=named)

    return answer


def error(status: int, message: str = "no", code: str | None = None, **headers: str) -> Handler:
    return json({"error": {"message": message, "type": "t", "code": code}}, status, **headers)


@contextlib.asynccontextmanager
async def serving(*answers: Handler) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(answers=list(answers))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", endpoint.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    endpoint.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield endpoint
    finally:
        await runner.cleanup()

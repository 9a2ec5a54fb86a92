"""A scripted model behind a real OpenAI-compatible HTTP endpoint, so that tests and demos run the whole network path.

    python dev/llm/server.py --port 8000        # prints: listening on http://127.0.0.1:8000/v1

It reads the request as a model would: which reference, which task, which current kernel. It answers with the next reply
of `replies/<problem>/` that fits; SEARCH/REPLACE blocks only where their base is the current kernel. The same
requests in the same order get the same answers. What it has no reply for it says it cannot do. Neighbour: replies.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from replies import Scripted, load_replies, retry_of, source_of

MODEL = "scripted"
REFERENCES = {
    "rmsnorm": "return summed * torch.rsqrt(mean_square + self.eps) * self.weight, summed",
    "gelu_rowsum": "return (hidden * torch.sigmoid(gate)).sum(dim=-1)",
    "matmul_epilogue": 'return residual * self.residual_scale + F.gelu(self.linear(x), approximate="tanh")',
}
"""The line of each problem by which its reference is known in a prompt."""
TASKS = {
    "Write a first kernel.": "draft",
    "Rewrite the kernel from the ground up": "rewrite",
    "Find the cause and mend it": "repair",
    "Make the current kernel faster": "edit",
}
"""How the prompt's task begins (search/prompts/task.md.j2), and which replies answer it."""
CHARACTERS_PER_TOKEN = 4


@dataclass
class Script:
    """The replies of one problem and which of them were given."""

    replies: Sequence[Scripted]
    given: Counter[str] = field(default_factory=Counter)

    def answer(self, task: str, prompt: str) -> str:
        """The reply that fits this task and was given least often; the first of them."""
        fitting = [reply for reply in self.replies if reply.operator != "retry" and self._fits(reply, prompt)]
        meant = [reply for reply in fitting if reply.operator == task and not self.given[reply.name]]
        chosen = min(meant or fitting, key=lambda reply: self.given[reply.name])
        self.given[chosen.name] += 1
        return chosen.text

    def answer_again(self, rejected: str) -> str:
        """The second answer to a request whose first could not be used."""
        first = next((reply for reply in self.replies if reply.text.strip() == rejected.strip()), None)
        second = retry_of(first, self.replies) if first else None
        return second.text if second else rejected

    def _fits(self, reply: Scripted, prompt: str) -> bool:
        if reply.base is None:
            return True
        base = next(other for other in self.replies if other.name == reply.base)
        return source_of(base, self.replies).strip() in prompt


class Server:
    def __init__(self, folder: Path, delay_seconds: float, errors: Sequence[int]) -> None:
        self._scripts = {name: Script(load_replies(folder / name)) for name in REFERENCES if (folder / name).is_dir()}
        self._delay_seconds = delay_seconds
        self._errors = list(errors)

    def application(self) -> web.Application:
        application = web.Application(client_max_size=16 << 20)
        application.router.add_get("/v1/models", self._models)
        application.router.add_post("/v1/chat/completions", self._complete)
        return application

    async def _models(self, request: web.Request) -> web.Response:
        model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "dev"}
        return web.json_response({"object": "list", "data": [model]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(self._delay_seconds)
        try:
            document = await request.json()
            messages = [(str(message["role"]), str(message["content"])) for message in document["messages"]]
        except (ValueError, KeyError, TypeError) as error:
            return _error(400, f"the request is not a chat completion: {error}")
        if self._errors:
            return _error(self._errors.pop(0), "scripted error")
        text = self._say(messages)
        usage = _usage("".join(content for _, content in messages), text)
        if document.get("stream"):
            return await _stream(request, text, usage)
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return web.json_response(_envelope("chat.completion", [choice], usage))

    def _say(self, messages: Sequence[tuple[str, str]]) -> str:
        prompt = next((content for role, content in messages if role == "user"), "")
        problem = next((name for name, line in REFERENCES.items() if line in prompt), None)
        task = next((task for start, task in TASKS.items() if start in prompt), None)
        if problem not in self._scripts or task is None:
            return "I am a script and hold kernels for the problems of dev/llm/replies only; I have none for this one."
        rejected = [content for role, content in messages if role == "assistant"]
        script = self._scripts[problem]
        return script.answer_again(rejected[-1]) if rejected else script.answer(task, prompt)


def _error(status: int, message: str) -> web.Response:
    headers = {"Retry-After": "1"} if status == 429 else {}
    return web.json_response({"error": {"message": message, "type": "scripted"}}, status=status, headers=headers)


def _usage(prompt: str, answer: str) -> dict[str, int]:
    asked, answered = (-(-len(text) // CHARACTERS_PER_TOKEN) for text in (prompt, answer))
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


def _envelope(kind: str, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> dict[str, Any]:
    document = {"id": "scripted", "object": kind, "created": int(time.time()), "model": MODEL, "choices": choices}
    return document | ({"usage": usage} if usage else {})


async def _stream(request: web.Request, text: str, usage: dict[str, int]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for start in range(0, len(text), 512):
        delta = {"index": 0, "delta": {"content": text[start : start + 512]}, "finish_reason": None}
        await _send(response, json.dumps(_envelope("chat.completion.chunk", [delta])))
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    await _send(response, json.dumps(_envelope("chat.completion.chunk", [end], usage)))
    await _send(response, "[DONE]")
    await response.write_eof()
    return response


async def _send(response: web.StreamResponse, data: str) -> None:
    await response.write(f"data: {data}\n\n".encode())


async def serve(options: argparse.Namespace) -> None:
    server = Server(options.replies, options.delay, options.errors)
    runner = web.AppRunner(server.application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, options.host, options.port)
    await site.start()
    port = runner.addresses[0][1]
    print(f"listening on http://{options.host}:{port}/v1", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: any free port; it is printed")
    parser.add_argument("--replies", type=Path, default=Path(__file__).parent / "replies")
    parser.add_argument("--delay", type=float, default=0.0, metavar="S", help="seconds before every answer")
    parser.add_argument(
        "--errors", type=lambda text: [int(word) for word in text.split(",")], default=[], metavar="STATUS,..",
        help="answer the first requests with these HTTP statuses, e.g. 429,503",
    )  # fmt: skip
    try:
        asyncio.run(serve(parser.parse_args()))
    except KeyboardInterrupt:
        print("stopped")


if __name__ == "__main__":
    main()

"""LlmClient against a real HTTP server: every way in which an endpoint fails is its own, clear LlmError."""

from __future__ import annotations

import asyncio
import gzip
import logging
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

import pytest
from aiohttp import web
from kernelsearch.llm.client import LlmClient, LlmError, LlmReason, ModelEndpoint
from kernelsearch.llm.origins import OriginPolicy
from kernelsearch.llm.pricing import highest_input_tokens
from kernelsearch.llm.transport import MAX_REPLY_BYTES
from pydantic import SecretStr

from .endpoint import Endpoint, completion, error, json, serving

KEY = "sk-canary-7f3a9c1e"


@dataclass(frozen=True)
class Turn:
    role: str
    content: str


PROMPT = [Turn("system", "You write kernels."), Turn("user", "Make RMSNorm fast, naïvely or not.")]
AT_MOST = (highest_input_tokens(PROMPT), 64)


def model(endpoint: Endpoint, **changes: Any) -> ModelEndpoint:
    options: dict[str, Any] = {"api_key": SecretStr(KEY), "max_output_tokens": 64, "timeout_seconds": 20.0}
    return ModelEndpoint(name="main", model="m", endpoint=endpoint.url, **{**options, **changes})


def client(**options: Any) -> LlmClient:
    return LlmClient(**{"backoff_seconds": 0.01, **options})


async def fails(endpoint: Endpoint, **changes: Any) -> LlmError:
    async with client(retries=0) as llm:
        with pytest.raises(LlmError) as caught:
            await llm.complete(model(endpoint, **changes), PROMPT)
    assert KEY not in str(caught.value)
    return caught.value


async def test_an_answer_with_the_tokens_that_it_cost() -> None:
    async with serving(json(completion("plan\n```cpp\nint x;\n```"))) as endpoint, client() as llm:
        answer = await llm.complete(model(endpoint, temperature=0.5), PROMPT)
        assert (answer.text, answer.input_tokens, answer.output_tokens) == ("plan\n```cpp\nint x;\n```", 11, 7)
        (_, request, body) = endpoint.seen[0]
    assert request.path == "/v1/chat/completions"
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "m",
        "messages": [{"role": turn.role, "content": turn.content} for turn in PROMPT],
        "max_tokens": 64,
        "temperature": 0.5,
    }


@pytest.mark.parametrize(
    ("status", "reason", "says"),
    [
        (401, LlmReason.UNAUTHORIZED, "check the key"),
        (403, LlmReason.UNAUTHORIZED, "check the key"),
        (404, LlmReason.NOT_FOUND, "check the endpoint's path and the model's name"),
        (400, LlmReason.BAD_REQUEST, "answered 400"),
    ],
)
async def test_what_a_person_must_change_is_permanent_and_not_tried_again(
    status: int, reason: LlmReason, says: str
) -> None:
    async with serving(error(status, f"key {KEY} is\nbad \x1b[31m")) as endpoint, client() as llm:
        with pytest.raises(LlmError, match=says) as caught:
            await llm.complete(model(endpoint), PROMPT)
        assert len(endpoint.seen) == 1
    assert caught.value.reason is reason
    assert caught.value.permanent
    assert (caught.value.input_tokens, caught.value.output_tokens) == (0, 0)
    assert "key *** is bad [31m" in caught.value.message, "the key, or control characters, came through"


async def test_a_rate_limit_is_waited_for_as_long_as_the_endpoint_asks() -> None:
    answers = error(429, retry_after="1"), error(429, retry_after_ms="20"), json(completion())
    async with serving(*answers) as endpoint, client() as llm:
        await llm.complete(model(endpoint), PROMPT)
        times = [at for at, _, _ in endpoint.seen]
    assert len(times) == 3
    assert times[1] - times[0] >= 1.0


async def test_a_pause_holds_back_every_request_to_that_endpoint() -> None:
    async with serving(error(429, retry_after="1"), json(completion())) as endpoint, client() as llm:
        first = asyncio.create_task(llm.complete(model(endpoint), PROMPT))
        while not endpoint.seen:
            await asyncio.sleep(0)
        while llm._gate._not_before.get(endpoint.url) is None:
            await asyncio.sleep(0)
        await asyncio.gather(first, llm.complete(model(endpoint), PROMPT))
        times = [at for at, _, _ in endpoint.seen]
    assert len(times) == 3
    assert min(times[1:]) - times[0] >= 1.0


@pytest.mark.parametrize("wait", ["3600", formatdate(4e9, usegmt=True)])
async def test_a_long_rate_limit_is_reported_instead_of_waited_for(wait: str) -> None:
    async with serving(error(429, retry_after=wait)) as endpoint, client() as llm:
        with pytest.raises(LlmError) as caught:
            await llm.complete(model(endpoint), PROMPT)
        assert len(endpoint.seen) == 1
    assert caught.value.reason is LlmReason.RATE_LIMITED
    assert not caught.value.permanent
    assert caught.value.retry_after_seconds is not None
    assert caught.value.retry_after_seconds > 3500


async def test_a_spent_quota_is_permanent() -> None:
    async with serving(error(429, "You exceeded your current quota", "insufficient_quota")) as endpoint:
        failure = await fails(endpoint)
    assert failure.reason is LlmReason.RATE_LIMITED
    assert failure.permanent


async def test_a_server_error_is_tried_again_and_then_reported() -> None:
    async with serving(error(500), error(503), json(completion())) as endpoint, client() as llm:
        assert (await llm.complete(model(endpoint), PROMPT)).text == "OK"
        assert len(endpoint.seen) == 3
    async with serving(error(500, "overloaded")) as endpoint, client(retries=2) as llm:
        with pytest.raises(LlmError, match="answered 500: overloaded") as caught:
            await llm.complete(model(endpoint), PROMPT)
        assert len(endpoint.seen) == 3
    assert caught.value.reason is LlmReason.UNAVAILABLE
    assert not caught.value.permanent


async def test_no_answer_in_time_is_charged_in_full_and_not_tried_again() -> None:
    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(never) as endpoint, client() as llm:
        with pytest.raises(LlmError, match=r"no whole answer within 0\.3 s") as caught:
            await llm.complete(model(endpoint, timeout_seconds=0.3), PROMPT)
        assert len(endpoint.seen) == 1
    assert caught.value.reason is LlmReason.TIMEOUT
    assert (caught.value.input_tokens, caught.value.output_tokens) == AT_MOST


async def test_an_answer_that_drips_for_ever_is_a_timeout() -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)

    async with serving(drip) as endpoint:
        failure = await fails(endpoint, timeout_seconds=0.5)
    assert failure.reason is LlmReason.TIMEOUT


async def test_a_connection_that_breaks_off_is_charged_in_full() -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "1000"})
        await response.prepare(request)
        await response.write(b'{"id": ')
        assert request.transport is not None
        request.transport.close()
        return response

    async with serving(hang_up) as endpoint:
        failure = await fails(endpoint)
    assert failure.reason is LlmReason.UNAVAILABLE
    assert (failure.input_tokens, failure.output_tokens) == AT_MOST


async def test_nobody_listening_is_named_and_costs_nothing() -> None:
    async with serving() as endpoint:
        pass
    failure = await fails(endpoint)
    assert failure.reason is LlmReason.UNAVAILABLE
    assert f"cannot connect to {endpoint.url}" in failure.message
    assert failure.input_tokens == 0


@pytest.mark.parametrize("url", ["not a url", "ftp://host/v1", "http://", "http://[::1", "http://host:99999/v1"])
async def test_an_endpoint_that_is_no_url_is_permanent(url: str) -> None:
    for origins in (None, OriginPolicy()):
        async with client(origins=origins) as llm:
            with pytest.raises(LlmError) as caught:
                await llm.complete(ModelEndpoint(name="main", model="m", endpoint=url), PROMPT)
        assert caught.value.permanent, caught.value


@pytest.mark.parametrize(
    ("body", "reason", "says"),
    [
        (completion(None, refusal="I will not."), LlmReason.REFUSED, "the model declined: I will not."),
        (completion("half", "content_filter"), LlmReason.REFUSED, "a content filter stopped the answer"),
        (completion("half", "length"), LlmReason.INVALID_OUTPUT, "cut after 7 tokens: raise maxOutputTokens"),
        (completion(""), LlmReason.INVALID_OUTPUT, "the answer is empty"),
        (completion(None), LlmReason.INVALID_OUTPUT, "the answer is empty"),
        ({**completion(), "choices": []}, LlmReason.INVALID_OUTPUT, "no choices"),
    ],
)
async def test_an_answer_that_is_none_has_its_reason_and_its_price(
    body: dict[str, Any], reason: LlmReason, says: str
) -> None:
    async with serving(json(body)) as endpoint:
        failure = await fails(endpoint)
    assert failure.reason is reason
    assert says in failure.message
    assert (failure.input_tokens, failure.output_tokens) == (11, 7)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{{{", "application/json"),
        (b"<html>Welcome to the router</html>", "text/html"),
        (b"", "application/json"),
        (b"[1, 2]", "application/json"),
        (b'{"choices": [{"message": {"content": ["parts"]}}]}', "application/json"),
        (b"\xff\xfe\x00", "application/octet-stream"),
        (b"[" * 100_000, "application/json"),
    ],
)
async def test_garbage_is_invalid_output(body: bytes, kind: str) -> None:
    async def garbage(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type=kind)

    async with serving(garbage) as endpoint:
        failure = await fails(endpoint)
    assert failure.reason is LlmReason.INVALID_OUTPUT
    assert "no chat completion" in failure.message
    assert (failure.input_tokens, failure.output_tokens) == AT_MOST


async def test_a_reply_of_10_megabytes_is_broken_off_early() -> None:
    sent = 0

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        while sent < 10 * 1024 * 1024:
            await response.write(b"x" * 65536)
            sent += 65536
        return response

    async with serving(flood) as endpoint:
        failure = await fails(endpoint)
    assert failure.reason is LlmReason.INVALID_OUTPUT
    assert f"more than {MAX_REPLY_BYTES} bytes" in failure.message
    assert sent < 10 * 1024 * 1024, "the whole flood was taken in"


async def test_an_error_page_of_10_megabytes_is_broken_off_too() -> None:
    async def flood(_: web.Request) -> web.StreamResponse:
        return web.Response(status=500, body=b"x" * 10 * 1024 * 1024)

    async with serving(flood) as endpoint:
        failure = await fails(endpoint)
    assert "more than" in failure.message


async def test_a_decompression_bomb_is_refused_unread() -> None:
    async def bomb(request: web.Request) -> web.StreamResponse:
        assert request.headers["accept-encoding"] == "identity"
        return web.Response(body=gzip.compress(b" " * 50_000_000), headers={"content-encoding": "gzip"})

    async with serving(bomb) as endpoint:
        failure = await fails(endpoint)
    assert failure.reason is LlmReason.INVALID_OUTPUT
    assert "compressed (gzip)" in failure.message


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with serving(json(completion())) as elsewhere:
        async with serving(error(status, location=elsewhere.url)) as endpoint:
            failure = await fails(endpoint)
        assert elsewhere.seen == [], "the key went to a place that nobody named"
    assert failure.reason is LlmReason.ORIGIN_REFUSED
    assert failure.permanent
    assert "put the final URL in endpoint" in failure.message


async def test_without_a_key_nothing_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with serving(json(completion())) as endpoint, client() as llm:
        await llm.complete(model(endpoint, api_key=None), PROMPT)
        (_, request, _) = endpoint.seen[0]
    assert "Authorization" not in request.headers
    assert KEY not in str(request.raw_headers)


async def test_the_key_is_in_no_log_and_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(error(500, f"bad {KEY}"), json(completion(f"// {KEY}"))) as endpoint, client() as llm:
        answer = await llm.complete(model(endpoint), PROMPT)
        assert repr(model(endpoint)).count(KEY) == 0
    assert answer.text == "// ***"
    assert "trying again" in caplog.text
    assert KEY not in caplog.text


async def test_an_endpoint_that_counts_no_tokens_is_charged_the_most() -> None:
    body = completion()
    del body["usage"]
    async with serving(json(body)) as endpoint, client() as llm:
        answer = await llm.complete(model(endpoint), PROMPT)
    assert (answer.input_tokens, answer.output_tokens) == AT_MOST


async def test_the_newer_name_of_the_length_limit_is_learnt_once() -> None:
    refuse = error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    async with serving(refuse, json(completion())) as endpoint, client() as llm:
        await llm.complete(model(endpoint), PROMPT)
        await llm.complete(model(endpoint), PROMPT)
        bodies = [body for _, _, body in endpoint.seen]
    assert [sorted({"max_tokens", "max_completion_tokens"} & set(body)) for body in bodies] == [
        ["max_tokens"],
        ["max_completion_tokens"],
        ["max_completion_tokens"],
    ]


async def test_no_more_requests_at_once_than_allowed() -> None:
    inside, most, release = 0, 0, asyncio.Event()

    async def count(_: web.Request) -> web.StreamResponse:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == 2:
            release.set()
        await release.wait()
        inside -= 1
        return web.json_response(completion())

    async with serving(count) as endpoint, client(max_concurrent_requests=2) as llm:
        await asyncio.gather(*(llm.complete(model(endpoint), PROMPT) for _ in range(8)))
        assert len(endpoint.seen) == 8
    assert most == 2


async def test_ping_accepts_an_answer_that_was_cut_and_reports_the_rest() -> None:
    async with serving(json(completion("OK", "length")), json(completion())) as endpoint, client() as llm:
        await llm.ping(model(endpoint))
        await llm.ping(model(endpoint))
        assert endpoint.seen[0][2]["max_tokens"] == 16
    for answer, reason in [(error(401), LlmReason.UNAUTHORIZED), (json({"hello": 1}), LlmReason.INVALID_OUTPUT)]:
        async with serving(answer) as endpoint, client() as llm:
            with pytest.raises(LlmError) as caught:
                await llm.ping(model(endpoint))
        assert caught.value.reason is reason


async def test_the_controller_refuses_loopback_before_anything_is_sent() -> None:
    async with serving(json(completion())) as endpoint:
        async with client(origins=OriginPolicy()) as llm:
            with pytest.raises(LlmError, match=r"not a public address.*llm\.allowedOrigins") as caught:
                await llm.complete(model(endpoint), PROMPT)
        assert caught.value.reason is LlmReason.ORIGIN_REFUSED
        assert caught.value.permanent
        assert endpoint.seen == []
        async with client(origins=OriginPolicy([endpoint.url])) as llm:
            assert (await llm.complete(model(endpoint), PROMPT)).text == "OK"
        (_, request, _) = endpoint.seen[0]
        assert request.headers["Host"] == endpoint.url.split("/")[2]

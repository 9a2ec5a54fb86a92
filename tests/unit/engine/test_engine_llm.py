"""The engine and a model: a real HTTP endpoint on loopback answers the real client; judging is simulated."""

from __future__ import annotations

import asyncio
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kernelharness.protocol import ProblemFact
from kernelsearch.engine import Ended, Engine, SearchInputs
from kernelsearch.llm.client import LlmClient
from kernelsearch.search.journal import LlmReserved, LlmSettled, StopReason
from kernelsearch.store.sqlite import SqliteStore

from ..llm.endpoint import Endpoint, Handler, completion, error, json, serving
from .simulated import KeepingPublisher, SimulatedEvaluator, inputs

KERNEL = 'PLAN: use blocks of {block}\n\n```cpp\n#include "problem.h"\nconstexpr int BLOCK = {block};\n```\n'


def kernel(block: int) -> Handler:
    return json(completion(KERNEL.format(block=block)))


def a_new_kernel_each_time(endpoint: Endpoint) -> Handler:
    """Faster from call to call, up to 4x."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await kernel(min(256, 64 + 8 * len(endpoint.seen)))(request)

    return answer


def with_models(endpoint: Endpoint, *models: dict[str, Any], concurrent: int = 4, **spec: Any) -> SearchInputs:
    price = {"input": "1.00", "output": "10.00"}
    common = {"model": "m", "endpoint": endpoint.url, "price": price, "maxOutputTokens": 1000}
    llm = {
        "models": [common | model for model in models or ({"name": "main"},)],
        "maxConcurrentRequests": concurrent,
    }
    problem = {"source": {"inline": [{"path": "reference.py", "content": "class Model: ..."}]}}
    return inputs(**{"llm": llm, "problem": problem, "budget": {"candidates": 6}, **spec})


class Run:
    """An engine that has run, and the world it ran in."""

    def __init__(self, store: SqliteStore, client: LlmClient, evaluator: SimulatedEvaluator | None = None) -> None:
        self.store, self.client = store, client
        self.evaluator = evaluator or SimulatedEvaluator()

    async def __call__(self, given: SearchInputs) -> Ended:
        engine = Engine(
            given, store=self.store, evaluator=self.evaluator, client=self.client, publisher=KeepingPublisher()
        )
        return await asyncio.wait_for(engine.run(), 120)

    async def settled(self) -> list[LlmSettled]:
        return [event for event in await self.store.read("uid-1") if isinstance(event, LlmSettled)]


@pytest.fixture
def run(store: SqliteStore, client: LlmClient) -> Run:
    return Run(store, client)


async def test_a_model_writes_kernels_until_the_budget_is_used_and_the_best_is_verified(run: Run) -> None:
    async with serving() as endpoint:
        endpoint.answers = [a_new_kernel_each_time(endpoint)]
        ended = await run(with_models(endpoint))
    assert ended.stopped is not None
    assert ended.stopped.reason is StopReason.BUDGET_EXHAUSTED
    assert ended.state.ledger.candidates == 6
    assert ended.improved
    best = ended.state.winners["cpu"]
    assert re.fullmatch(r"use blocks of \d+", best.plan)
    assert best.proposal.model == "main"


async def test_a_call_is_charged_what_the_endpoint_counted(run: Run) -> None:
    async with serving() as endpoint:
        endpoint.answers = [a_new_kernel_each_time(endpoint)]
        ended = await run(with_models(endpoint))
    calls = ended.state.ledger.calls
    assert ended.state.ledger.input_tokens == 11 * calls
    assert ended.state.ledger.output_tokens == 7 * calls
    assert ended.state.ledger.cost_micros == calls * (11 * 1 + 7 * 10)
    assert ended.state.ledger.reserved_micros == 0


async def test_the_model_is_shown_the_header_that_the_probe_brought(run: Run) -> None:
    async with serving() as endpoint:
        endpoint.answers = [a_new_kernel_each_time(endpoint)]
        await run(with_models(endpoint))
    assert "// the header" in endpoint.seen[0][2]["messages"][-1]["content"]


async def test_where_nothing_can_be_run_no_model_is_asked(run: Run) -> None:
    run.evaluator.problem = ProblemFact(not_run="this machine has no AMD device")
    async with serving() as endpoint:
        endpoint.answers = [kernel(64)]
        ended = await run(with_models(endpoint))
    assert endpoint.seen == []
    assert ended.stopped is not None
    assert ended.stopped.reason is StopReason.NO_TARGET_RAN
    assert ended.stopped.message == (
        "cpu: NoDevice, kernels can be compiled, but not run: this machine has no AMD device"
    )
    assert len(run.evaluator.runs) == 3, "another node may have the device"


async def test_an_unusable_reply_is_answered_once_in_the_same_chat(run: Run) -> None:
    async with serving() as endpoint:
        endpoint.answers = [json(completion("I would rather talk.")), a_new_kernel_each_time(endpoint)]
        ended = await run(with_models(endpoint, concurrent=1, budget={"candidates": 2}))
    first, second = endpoint.seen[0][2]["messages"], endpoint.seen[1][2]["messages"]
    assert second[: len(first)] == first
    assert second[len(first)] == {"role": "assistant", "content": "I would rather talk."}
    outcomes = [event.outcome for event in await run.settled()]
    assert outcomes[:2] == ["invalid_reply", "ok"]
    assert ended.state.ledger.candidates == 2
    assert ended.state.failures["LLMInvalidOutput"].count == 1


async def test_a_reply_that_stays_unusable_is_never_evaluated_and_ends_the_search_in_the_end(run: Run) -> None:
    async with serving(json(completion("no kernel"))) as endpoint:
        ended = await run(with_models(endpoint, stop={"consecutiveFailures": 6}))
    assert ended.stopped is not None
    assert ended.stopped.reason is StopReason.NO_VIABLE
    assert ended.state.ledger.candidates == 0
    assert run.evaluator.runs == ["cpu-1-0"]


async def test_a_refused_key_ends_the_search_with_the_reason_after_few_requests(run: Run) -> None:
    async with serving(error(401, "bad key")) as endpoint:
        ended = await run(with_models(endpoint))
        requests = len(endpoint.seen)
    assert ended.stopped is not None
    assert ended.stopped.reason is StopReason.LLM_UNAVAILABLE
    assert "LLMUnauthorized" in ended.stopped.message
    assert requests <= 4


async def test_an_endpoint_whose_quota_is_spent_is_not_asked_again_and_again(run: Run) -> None:
    async with serving(error(429, "you exceeded your quota", code="insufficient_quota")) as endpoint:
        ended = await run(with_models(endpoint))
        requests = len(endpoint.seen)
    assert ended.stopped is not None
    assert ended.stopped.reason is StopReason.LLM_UNAVAILABLE
    assert "quota" in ended.stopped.message
    assert requests <= 4


async def test_a_mended_key_takes_the_same_search_up_again(run: Run) -> None:
    async with serving(error(401, "bad key")) as endpoint:
        await run(with_models(endpoint))
        endpoint.answers = [a_new_kernel_each_time(endpoint)]
        endpoint.seen.clear()
        ended = await run(with_models(endpoint))
    assert ended.stopped is not None
    assert ended.stopped.reason is StopReason.BUDGET_EXHAUSTED


async def test_a_model_that_does_not_exist_leaves_the_work_to_the_others(run: Run) -> None:
    async def by_model(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        handler = error(404, "no such model") if body["model"] == "gone" else a_new_kernel_each_time(endpoint)
        return await handler(request)

    async with serving(by_model) as endpoint:
        ended = await run(with_models(endpoint, {"name": "gone", "model": "gone"}, {"name": "there"}))
    assert ended.state.ledger.candidates == 6
    assert {candidate.proposal.model for candidate in ended.state.candidates.values()} == {"there"}
    assert ended.state.models["gone"].refused == "LLMNotFound"


async def test_a_busy_endpoint_is_left_alone_and_then_asked_again(run: Run) -> None:
    async with serving() as endpoint:
        endpoint.answers = [error(429, "slow down")] * 2 + [a_new_kernel_each_time(endpoint)]
        ended = await run(with_models(endpoint))
    assert ended.state.ledger.candidates == 6
    assert ended.state.failures["LLMRateLimited"].count <= 2


async def test_an_answer_that_nobody_read_is_charged_at_its_reservation(
    run: Run, store: SqliteStore, client: LlmClient
) -> None:
    asked = asyncio.Event()

    async def never(_: web.Request) -> web.StreamResponse:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(never) as endpoint:
        task = asyncio.create_task(run(with_models(endpoint)))
        await asked.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        endpoint.answers = [a_new_kernel_each_time(endpoint)]
        ended = await run(with_models(endpoint))
    reserved = [event for event in await store.read("uid-1") if isinstance(event, LlmReserved)]
    lost = [event for event in await run.settled() if event.outcome == "lost"]
    assert len(lost) >= 1
    assert lost[0].cost_micros == reserved[0].cost_micros > 0
    assert ended.state.ledger.candidates == 6


class Killed(BaseException):
    """What SIGKILL is to the code that runs."""


def kill_at_append(store: SqliteStore, number: int) -> None:
    """Let the store's process die at one of its appends, after the events are on the disk."""
    count, append = 0, store.append

    async def mortal(*arguments: Any) -> int:
        nonlocal count
        count += 1
        length = await append(*arguments)
        if count == number:
            raise Killed
        return length

    store.append = mortal  # type: ignore[method-assign]


async def test_killed_at_any_append_no_candidate_is_lost_or_counted_twice(tmp_path: Path, client: LlmClient) -> None:
    async with serving() as endpoint:
        for number in itertools.count(1):
            endpoint.seen.clear()
            endpoint.answers = [a_new_kernel_each_time(endpoint)]
            store = await SqliteStore.open(tmp_path / f"{number}.db")
            kill_at_append(store, number)
            run = Run(store, client)
            given = with_models(endpoint, budget={"candidates": 4})
            try:
                await run(given)
                break  # it ended before that append: all were tried
            except Killed:
                state = (await run(given)).state
            assert state.ledger.candidates == len(state.candidates) == 4, f"killed at append {number}"
            assert all(candidate.finished for candidate in state.candidates.values())
            assert state.ledger.evaluations == sum(c.result is not None for c in state.candidates.values())
            assert not state.calls_in_flight
            assert not state.batches_in_flight
            assert len(run.evaluator.runs) == len(set(run.evaluator.runs))
            assert state.winners
            await store.close()
        await store.close()
    assert number > 15

"""The local evaluator against a simulated judge: processes, files and signals are real, the judging is scripted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from kernelharness.protocol import Batch, Candidate, File, Problem, Result, Toolchain
from kernelsearch.evaluate import local
from kernelsearch.evaluate.base import BatchOutcome, BatchRequest, Progress
from kernelsearch.evaluate.local import LocalEvaluator
from kernelsearch.evaluate.process import ProcessId, wait_for_exit

SIMULATED_JUDGE = (sys.executable, str(Path(__file__).with_name("simulated_judge.py")))


class Bench:
    """A folder with a lock of its own, and a record of every judge that was started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "batches"
        self.starts = folder / "starts"
        self.progress: list[Progress] = []

    def evaluator(self) -> LocalEvaluator:
        return LocalEvaluator(self.root, lock_path=self.folder / "lock", judge_command=SIMULATED_JUDGE)

    def request(self, *steps: dict[str, Any], batch_id: str = "cpu-1-0") -> BatchRequest:
        candidates = [
            Candidate(id=f"c{number}", files=[File(path="kernel.cpp", content=json.dumps(step))])
            for number, step in enumerate(steps)
        ]
        problem = Problem(files=[File(path="reference.py", content=str(self.starts))])
        toolchain = Toolchain(language="cpp", arch="x86-64-v3")
        batch = Batch(id=batch_id, problem=problem, toolchain=toolchain, candidates=candidates)
        return BatchRequest(search_uid="uid", target="cpu", batch=batch)

    def gate(self, name: str = "gate") -> str:
        path = self.folder / name
        os.mkfifo(path)
        return str(path)

    def started(self) -> list[int]:
        return [int(line) for line in self.starts.read_text().split()] if self.starts.exists() else []

    async def evaluate(self, request: BatchRequest) -> BatchOutcome:
        return await self.evaluator().evaluate(request, self.progress.append)

    async def running(self, request: BatchRequest) -> asyncio.Task[BatchOutcome]:
        """Start waiting for the batch; return when its judge runs and is known to the evaluator."""
        begun = asyncio.Event()
        task = asyncio.create_task(self.evaluator().evaluate(request, lambda _: begun.set()))
        await begun.wait()
        await read_when_there(self.starts)
        return task


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    await bench.evaluator().cancel("uid")


async def open_gate(path: str) -> None:
    await asyncio.to_thread(Path(path).write_text, "open")


async def abandon(task: asyncio.Task[BatchOutcome]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def read_when_there(path: Path) -> str:
    """What another process writes into the file, as soon as it did."""
    while True:
        if path.exists() and (text := path.read_text()):
            return text
        await asyncio.sleep(0.01)


async def test_a_complete_log_is_the_outcome(bench: Bench) -> None:
    outcome = await bench.evaluate(bench.request({}, {}))
    assert [result.candidate for result in outcome.results] == ["c0", "c1"]
    assert outcome.infrastructure == ""
    assert outcome.device_seconds == 1.5
    assert outcome.problem is not None


async def test_results_are_shown_before_the_batch_ends(bench: Bench) -> None:
    gate = bench.gate()
    shown = asyncio.Event()

    def on_progress(progress: Progress) -> None:
        if isinstance(progress.said, Result):
            shown.set()

    task = asyncio.create_task(bench.evaluator().evaluate(bench.request({}, {"wait": gate}), on_progress))
    await shown.wait()
    assert not task.done()
    await open_gate(gate)
    assert len((await task).results) == 2


async def test_the_judge_inherits_no_secret_of_ours(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELSEARCH_LLM_API_KEY", "canary")
    outcome = await bench.evaluate(bench.request({"environ": True}))
    environment = json.loads(outcome.results[0].summary)
    assert "PATH" in environment
    assert "canary" not in outcome.log
    assert environment["TMPDIR"].startswith(str(bench.root))


async def test_a_judge_that_outlives_its_parent_is_adopted_not_run_again(bench: Bench) -> None:
    gate = bench.gate()
    request = bench.request({"wait": gate})
    await abandon(await bench.running(request))
    second = await bench.running(request)
    await open_gate(gate)
    outcome = await second
    assert outcome.infrastructure == ""
    assert len(outcome.results) == 1
    assert len(bench.started()) == 1


async def test_a_batch_that_finished_unwatched_is_read_not_run_again(bench: Bench) -> None:
    request = bench.request({})
    await bench.evaluate(request)
    outcome = await bench.evaluate(request)
    assert len(outcome.results) == 1
    assert len(bench.started()) == 1


async def test_a_batch_whose_judge_died_unwatched_runs_again(bench: Bench) -> None:
    request = bench.request({"wait": bench.gate()})
    await abandon(await bench.running(request))
    judge = ProcessId.of(int(await read_when_there(bench.starts)))
    os.kill(judge.pid, 9)
    await wait_for_exit(judge)
    again = await bench.running(request)
    await open_gate(str(bench.folder / "gate"))
    assert len((await again).results) == 1
    assert len(bench.started()) == 2


async def test_another_batch_under_the_same_id_is_not_taken_for_it(bench: Bench) -> None:
    await bench.evaluate(bench.request({}))
    outcome = await bench.evaluate(bench.request({}, {}))
    assert len(outcome.results) == 2


async def test_a_device_fault_keeps_the_results_before_it(bench: Bench) -> None:
    outcome = await bench.evaluate(bench.request({}, {"exit": 75}))
    assert outcome.infrastructure == "DeviceFault"
    assert "simulated trouble" in outcome.message
    assert len(outcome.results) == 2


async def test_a_batch_that_the_judge_refuses_says_so(bench: Bench) -> None:
    assert (await bench.evaluate(bench.request({"exit": 64}))).infrastructure == "InvalidBatch"


async def test_a_log_without_its_end_is_incomplete_and_keeps_whole_lines(bench: Bench) -> None:
    outcome = await bench.evaluate(bench.request({}, {"cut": True}))
    assert outcome.infrastructure == "LogIncomplete"
    assert [result.candidate for result in outcome.results] == ["c0"]


async def test_a_killed_judge_is_named_as_such(bench: Bench) -> None:
    assert (await bench.evaluate(bench.request({"kill": True}))).infrastructure == "OutOfMemory"


async def test_the_deadline_counts_from_the_start_and_kills_the_whole_tree(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid_file = bench.folder / "child"
    request = bench.request({"child": str(pid_file), "wait": bench.gate()})
    task = await bench.running(request)
    child = int(await read_when_there(pid_file))
    await abandon(task)
    monkeypatch.setattr(local, "deadline_seconds", lambda _: 0)
    outcome = await bench.evaluate(request)
    assert outcome.infrastructure == "DeadlineExceeded"
    await wait_for_exit_of(child)


async def test_cancel_ends_the_tree_and_removes_the_folder(bench: Bench) -> None:
    pid_file = bench.folder / "child"
    task = await bench.running(bench.request({"child": str(pid_file), "wait": bench.gate()}))
    child = int(await read_when_there(pid_file))
    await abandon(task)
    await bench.evaluator().cancel("uid")
    await wait_for_exit_of(child)
    assert list(bench.root.iterdir()) == []


async def test_forget_is_idempotent(bench: Bench) -> None:
    request = bench.request({})
    await bench.evaluate(request)
    for _ in range(2):
        await bench.evaluator().forget(request)
    assert not (bench.root / request.batch.id).exists()


async def test_two_searches_never_time_at_once_even_when_one_lost_its_parent(bench: Bench, tmp_path: Path) -> None:
    gate = bench.gate()
    await abandon(await bench.running(bench.request({"wait": gate})))
    other = LocalEvaluator(tmp_path / "other", lock_path=bench.folder / "lock", judge_command=SIMULATED_JUDGE)
    queued = asyncio.Event()

    def on_progress(progress: Progress) -> None:
        if progress.state == "Queued":
            queued.set()

    waiting = asyncio.create_task(other.evaluate(bench.request({}, batch_id="other-1-0"), on_progress))
    await queued.wait()
    assert len(bench.started()) == 1
    await open_gate(gate)
    assert len((await waiting).results) == 1


async def wait_for_exit_of(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        await wait_for_exit(ProcessId.of(pid))

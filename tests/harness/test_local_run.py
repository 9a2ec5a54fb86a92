"""`kernelsearch run` as a person runs it: real processes, a real judge, a real compiler; killed and interrupted.

The reference multiplies by a diagonal matrix: a kernel that scales rows wins by algebra, however busy the machine is.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from kernelharness.protocol import Purpose, Result, parse_line, split_lines
from kernelsearch.cli.exits import Exit
from kernelsearch.search.journal import BatchDone, BatchSubmitted, Event, Paused, Resumed, StopReason
from kernelsearch.search.state import State, fold
from kernelsearch.store.sqlite import SqliteStore

KERNELSEARCH = Path(sys.executable).with_name("kernelsearch")
CANDIDATES = 4
MANIFEST = """
apiVersion: kernelsearch.dev/v1alpha1
kind: KernelSearch
metadata: {name: diagonal}
spec:
  problem:
    source:
      inline:
      - path: reference.py
        content: |
          import torch
          ROWS, COLUMNS = 384, 1024
          class Model(torch.nn.Module):
              def forward(self, d, x):
                  return torch.diag(d) @ x
          def get_inputs():
              return [torch.rand(ROWS) + 0.5, torch.randn(ROWS, COLUMNS)]
          def get_init_inputs():
              return []
    cases: [{name: small, dims: {ROWS: 384, COLUMNS: 1024}}]
    seeds:
    - language: cpp
      content: |
        #include "problem.h"
        constexpr int REPEATS = 2;  // tune: 1, 2, 3, 4
        extern "C" int forward(float* out, const float* d, const float* x, int64_t ROWS, int64_t COLUMNS,
                               KernelContext& context) {
        #pragma omp parallel for
          for (int64_t i = 0; i < ROWS; ++i)
            for (int repeat = 0; repeat < REPEATS; ++repeat)
              for (int64_t j = 0; j < COLUMNS; ++j) out[i * COLUMNS + j] = d[i] * x[i * COLUMNS + j];
          return 0;
        }
  targets: [{name: cpu, profile: x86-64-v3, language: cpp, batchSize: 2}]
  budget: {candidates: %d}
  verification: {repeats: 1}
"""


class LocalSearch:
    """A manifest in a folder, the command that runs it, and what it leaves behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "search.yaml").write_text(MANIFEST % CANDIDATES)
        self.out = folder / "out" / "diagonal"

    async def start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            str(KERNELSEARCH), "run", "search.yaml", cwd=self.folder, stdout=asyncio.subprocess.PIPE
        )

    async def finish(self) -> tuple[int, str]:
        """Run it to its end; exit code and output."""
        process = await self.start()
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()

    async def events(self) -> list[Event]:
        store = await SqliteStore.open(self.out / "journal.db")
        try:
            [uid] = await store.searches()
            return await store.read(uid)
        finally:
            await store.close()

    async def blob(self, ref: str) -> str:
        store = await SqliteStore.open(self.out / "journal.db")
        try:
            return (await store.get_blob(ref)).decode()
        finally:
            await store.close()

    def running_batch(self, ready: Callable[[Path], bool]) -> Path | None:
        """The folder of a batch that is being judged and is as far as `ready` wants it."""
        for folder in sorted((self.out / "batches").glob("*")):
            if (folder / "judge.json").exists() and ready(folder):
                return folder
        return None

    async def until(self, process: asyncio.subprocess.Process, ready: Callable[[Path], bool]) -> Path:
        while (batch := self.running_batch(ready)) is None:
            assert process.returncode is None, "the search ended before it came this far"
            await asyncio.sleep(0.02)
        return batch


def purpose(folder: Path) -> Purpose:
    return Purpose(json.loads((folder / "batch.json").read_text())["purpose"])


def probing(folder: Path) -> bool:
    return purpose(folder) is Purpose.PROBE


def in_the_middle(folder: Path) -> bool:
    """One candidate of the batch is judged, another is not."""
    whole = [line for line in split_lines((folder / "log.jsonl").read_text()) if line.endswith("\n")]
    results = sum(isinstance(parse_line(line), Result) for line in whole)
    return 0 < results < len(json.loads((folder / "batch.json").read_text())["candidates"])


def confirming(folder: Path) -> bool:
    return purpose(folder) is Purpose.CONFIRM


def assert_nothing_lost_or_counted_twice(events: list[Event]) -> State:
    state = fold(events)
    done = Counter(event.id for event in events if isinstance(event, BatchDone))
    assert set(done) == {event.id for event in events if isinstance(event, BatchSubmitted)}
    assert set(done.values()) == {1}
    results = Counter(result.candidate for event in events if isinstance(event, BatchDone) for result in event.results)
    assert state.stopped is not None
    assert len(state.candidates) == state.ledger.candidates
    # At the bound there is nothing more to win: then candidates may be left waiting, or unproposed.
    whole = state.stopped.reason is StopReason.BUDGET_EXHAUSTED
    assert len(state.candidates) == CANDIDATES or not whole
    waiting = () if whole else state.targets["cpu"].queue
    for candidate in state.candidates.values():
        assert candidate.finished or candidate.id in waiting
        assert results[candidate.id] == len(candidate.results)
    assert state.ledger.evaluations == sum(candidate.result is not None for candidate in state.candidates.values())
    return state


@pytest.mark.timeout(1200)
async def test_killed_in_probe_batch_and_confirmation_it_finishes_the_same_search(tmp_path: Path) -> None:
    search = LocalSearch(tmp_path)
    logs_at_kill: dict[str, str] = {}
    for ready in (probing, in_the_middle, confirming):
        process = await search.start()
        batch = await search.until(process, ready)
        process.kill()
        await process.wait()
        logs_at_kill[batch.name] = (batch / "log.jsonl").read_text()
    code, output = await search.finish()
    assert code == Exit.DONE, output
    events = await search.events()
    state = assert_nothing_lost_or_counted_twice(events)
    assert sum(isinstance(event, Resumed) for event in events) == 3
    winner = state.winners["cpu"]
    assert winner.verified
    assert (search.out / "bundle" / "manifest.json").exists()
    assert (search.out / "report.html").exists()
    assert list((search.out / "batches").iterdir()) == []
    # Had a judge been started again, its secrets and so its times would be others.
    logs = {event.id: await search.blob(event.log_ref) for event in events if isinstance(event, BatchDone)}
    for batch_id, seen in logs_at_kill.items():
        assert logs[batch_id].startswith(seen), f"batch {batch_id} was run again instead of being adopted"


@pytest.mark.timeout(1200)
async def test_interrupted_it_ends_in_good_order_says_how_to_go_on_and_does(tmp_path: Path) -> None:
    search = LocalSearch(tmp_path)
    process = await search.start()
    batch = await search.until(process, in_the_middle)
    judge = json.loads((batch / "judge.json").read_text())["process"]["pid"]
    process.send_signal(signal.SIGINT)
    output, _ = await process.communicate()
    assert process.returncode == Exit.INTERRUPTED
    assert "kernelsearch run search.yaml goes on from here" in output.decode()
    assert not batch.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(judge, 0)
    assert isinstance((await search.events())[-1], Paused)
    code, output_again = await search.finish()
    assert code == Exit.DONE, output_again
    assert_nothing_lost_or_counted_twice(await search.events())


@pytest.mark.timeout(1200)
async def test_a_finished_search_says_its_result_again_and_a_changed_problem_is_refused(tmp_path: Path) -> None:
    search = LocalSearch(tmp_path)
    first, _ = await search.finish()
    length = len(await search.events())
    again, output = await search.finish()
    assert (first, again) == (Exit.DONE, Exit.DONE)
    assert "verified" in output
    assert len(await search.events()) == length
    manifest = tmp_path / "search.yaml"
    manifest.write_text(manifest.read_text().replace("torch.rand(ROWS) + 0.5", "torch.rand(ROWS) + 0.6"))
    code, _ = await search.finish()
    assert code == Exit.USAGE
    assert len(await search.events()) == length

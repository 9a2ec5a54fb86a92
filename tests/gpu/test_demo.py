"""The demo of `make demo-gpu`: a whole search on this GPU, and a verdict for all that its scripted model can say.

Neighbours: dev/llm (the model), examples/demo-gpu.yaml, ../harness/test_demo_replies.py (the same on a CPU).
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernelharness.protocol import Result, Verdict
from kernelsearch.cli.exits import Exit
from kernelsearch.search.journal import BatchDone
from kernelsearch.search.state import fold
from kernelsearch.store.sqlite import SqliteStore
from replies import Scripted, load_replies, source_of

from .judging import ROOT, kernelsearch

pytestmark = pytest.mark.timeout(600)

MANIFEST = ROOT / "examples" / "demo-gpu.yaml"
REPLIES = ROOT / "dev" / "llm" / "replies_cuda"


@contextlib.contextmanager
def scripted_model(replies: Path) -> Iterator[str]:
    """The endpoint of a model server that answers from this folder."""
    command = [sys.executable, str(ROOT / "dev/llm/server.py"), "--port", "0", "--replies", str(replies)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        said = server.stdout.readline()
        assert said.startswith("listening on "), said
        yield said.removeprefix("listening on ").strip()
    finally:
        server.terminate()
        server.wait()


def run_demo(folder: Path, manifest: Path, replies: Path, *more: str) -> Path:
    """The folder of a search that found something."""
    with scripted_model(replies) as endpoint:
        done = kernelsearch(folder, "run", str(manifest), "--llm-endpoint", endpoint, *more)
    assert done.returncode == Exit.DONE, done.stdout[-4000:] + done.stderr[-4000:]
    return folder / "out" / manifest.stem


async def judged_sources(journal: Path) -> list[tuple[str, Result]]:
    """Every source with each result that a judge gave it."""
    store = await SqliteStore.open(journal)
    try:
        [uid] = await store.searches()
        events = await store.read(uid)
        refs = {id: candidate.proposal.source_ref for id, candidate in fold(events).candidates.items()}
        results = [result for event in events if isinstance(event, BatchDone) for result in event.results]
        return [((await store.get_blob(refs[result.candidate])).decode(), result) for result in results]
    finally:
        await store.close()


def expect_what_was_written(judged: list[tuple[str, Result]], replies: list[Scripted]) -> list[tuple[Scripted, Result]]:
    """The results of sources that are a reply as it stands, not one with other values of its tunables."""
    written = {source_of(reply, replies).strip(): reply for reply in replies if reply.kind != "malformed"}
    known = [(written[source.strip()], result) for source, result in judged if source.strip() in written]
    surprises = {reply.name: result.diagnostics for reply, result in known if result.verdict.value not in reply.expect}
    assert surprises == {}
    return known


def expect_published_and_right(out: Path, target: str) -> None:
    """kernel.py, as a user calls it, says that the kernel equals the reference and is faster here too."""
    [entry] = json.loads((out / "bundle" / "manifest.json").read_text())["targets"]
    command = [sys.executable, "kernel.py", "--check", "--seconds", "0.2"]
    checked = subprocess.run(command, cwd=out / "bundle", capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    for case in entry["cases"]:
        line = re.search(
            rf"^target {target}, case {case['case']}: equal \(max abs error \S+\); (\S+)x faster", checked.stdout, re.M
        )
        assert line, checked.stdout
        # A module's own time on the host counts as well: of a call as short as decode's it leaves 1.2x, more or less.
        assert float(line[1]) > (1.0 if case["case"] == "decode" else 1.2)
    assert "every output equals the reference's" in checked.stdout


async def test_a_whole_search_rejects_what_is_wrong_and_publishes_a_kernel_that_runs(tmp_path: Path) -> None:
    out = run_demo(tmp_path, MANIFEST, REPLIES, "--candidates", "6")
    known = expect_what_was_written(await judged_sources(out / "journal.db"), load_replies(REPLIES / "rmsnorm"))
    verdicts = {reply.name: result.verdict for reply, result in known}
    # Both drafts are asked for in every search; what follows them depends on its luck.
    assert verdicts["01-a-block-a-row"] is Verdict.OK
    assert verdicts["02-remember-pointers"] is Verdict.WRONG_VALUES
    assert len(verdicts) > 2
    expect_published_and_right(out, "gpu")


def test_every_reply_gets_the_verdict_that_it_deserves(tmp_path: Path) -> None:
    replies = load_replies(REPLIES / "rmsnorm")
    judged = {f"{reply.name}.cu": reply for reply in replies if reply.kind != "malformed"}
    for name, reply in judged.items():
        (tmp_path / name).write_text(source_of(reply, replies))
    done = kernelsearch(tmp_path, "evaluate", str(MANIFEST), *judged, "--json", "--profile", "nvidia-h100")
    assert done.returncode == Exit.REJECTED, done.stderr
    results = {each["file"]: each["result"] for each in json.loads(done.stdout)["candidates"]}
    surprises = {
        name: f"{result['verdict']}: {result['diagnostics'][:500]}"
        for name, result in results.items()
        if result["verdict"] not in judged[name].expect
    }
    assert surprises == {}
    best, slow = results["10-in-registers.cu"], results["05-a-thread-a-row.cu"]
    assert best["low"] > 1.5, "the reference reads and writes memory five times"
    assert slow["high"] < best["low"]

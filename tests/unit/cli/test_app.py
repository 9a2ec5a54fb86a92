"""The command itself, as a process: what it answers to a wrong file or a wrong flag, and what it tells the shell."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
from pathlib import Path

import pytest
from kernelsearch.cli.exits import Exit
from kernelsearch.cli.narrate import Narrator
from kernelsearch.cli.run import exit_code
from kernelsearch.cli.views import LiveView, PlainView, view_for
from kernelsearch.engine import Ended, Engine, PublishRefused, Snapshot
from kernelsearch.llm.client import LlmClient
from kernelsearch.search.journal import Published, Stopped, StopReason
from kernelsearch.search.state import State
from kernelsearch.store.sqlite import SqliteStore
from rich.console import Console

from ..engine.simulated import KeepingPublisher, SimulatedEvaluator, inputs, manifest
from ..llm.endpoint import error, serving

KERNELSEARCH = Path(sys.executable).with_name("kernelsearch")


def kernelsearch(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(KERNELSEARCH), *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("command", ["run", "check", "evaluate"])
def test_a_file_that_is_not_there_is_named(command: str, tmp_path: Path) -> None:
    done = kernelsearch(command, "nowhere.yaml", folder=tmp_path)
    assert done.returncode == Exit.USAGE
    assert "nowhere.yaml cannot be" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_mistake_of_a_file_is_told_at_once_and_nothing_is_run(tmp_path: Path) -> None:
    text = manifest(budgt={}, targets=[{"name": "cpu", "profile": "x86-64-v3", "langage": "cpp"}])
    (tmp_path / "bad.yaml").write_text(text)
    done = kernelsearch("run", "bad.yaml", folder=tmp_path)
    assert done.returncode == Exit.USAGE
    assert 'did you mean "language"?' in done.stderr
    assert 'did you mean "budget"?' in done.stderr
    assert not (tmp_path / "out").exists()


def test_check_holds_the_rules_that_the_cluster_would(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(manifest(budget={}))
    done = kernelsearch("check", "bad.yaml", folder=tmp_path)
    assert done.returncode == Exit.USAGE
    assert "FAIL" in done.stdout
    assert "set at least one of candidates, tokens, cost and duration" in done.stdout


def test_an_unknown_flag_is_a_usage_error(tmp_path: Path) -> None:
    assert kernelsearch("run", "x.yaml", "--frsh", folder=tmp_path).returncode == Exit.USAGE


def test_a_suspended_search_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "search.yaml").write_text(manifest(suspend=True))
    done = kernelsearch("run", "search.yaml", folder=tmp_path)
    assert done.returncode == Exit.USAGE
    assert "set spec.suspend to false" in done.stderr


async def test_when_no_model_answers_nothing_is_run_and_the_reason_is_told(tmp_path: Path) -> None:
    (tmp_path / "problem.py").write_text("class Model: ...\n")
    async with serving(error(401, "that key is not known")) as endpoint:
        flags = ("--llm-endpoint", endpoint.url, "--llm-model", "m")
        done = await asyncio.to_thread(kernelsearch, "run", "problem.py", *flags, folder=tmp_path)
    assert done.returncode == Exit.FAILED
    assert "LLMUnauthorized" in done.stderr
    assert not (tmp_path / "out" / "problem" / "batches").exists()


def test_starting_over_without_a_terminal_needs_yes(tmp_path: Path) -> None:
    (tmp_path / "search.yaml").write_text(manifest())
    journal = tmp_path / "out" / "demo" / "journal.db"
    journal.parent.mkdir(parents=True)
    journal.touch()
    done = kernelsearch("run", "search.yaml", "--fresh", folder=tmp_path)
    assert done.returncode == Exit.USAGE
    assert "--yes" in done.stderr
    assert journal.exists()


async def test_a_search_that_runs_already_is_not_run_twice(tmp_path: Path) -> None:
    (tmp_path / "search.yaml").write_text(manifest())
    (tmp_path / "out" / "demo").mkdir(parents=True)
    store = await SqliteStore.open(tmp_path / "out" / "demo" / "journal.db")
    done = await asyncio.to_thread(kernelsearch, "run", "search.yaml", folder=tmp_path)
    await store.close()
    assert done.returncode == Exit.UNUSABLE
    assert "in use by another kernelsearch" in done.stderr


def test_the_generated_files_of_a_repository_are_written_and_compared(tmp_path: Path) -> None:
    assert kernelsearch("crds", "--check", str(tmp_path), folder=tmp_path).returncode == Exit.USAGE
    assert kernelsearch("crds", str(tmp_path), folder=tmp_path).returncode == Exit.DONE
    assert kernelsearch("crds", "--check", str(tmp_path), folder=tmp_path).returncode == Exit.DONE


def test_suspending_needs_to_be_told_that_all_are_meant(tmp_path: Path) -> None:
    done = kernelsearch("suspend", folder=tmp_path)
    assert done.returncode == Exit.USAGE
    assert "--all" in done.stderr


def stopped(reason: StopReason) -> Stopped:
    return Stopped(at_ns=1, reason=reason, message="")


def test_the_exit_code_says_how_the_search_ended() -> None:
    published = State(published=Published(at_ns=1, digest="d", reference="r", candidates={}))
    refused = PublishRefused("CannotBundle", "", final=True)
    assert exit_code(Ended(State())) == Exit.INTERRUPTED
    assert exit_code(Ended(published, stopped(StopReason.PLATEAU))) == Exit.DONE
    assert exit_code(Ended(State(), stopped(StopReason.PLATEAU))) == Exit.NO_IMPROVEMENT
    assert exit_code(Ended(State(), stopped(StopReason.NO_VIABLE))) == Exit.FAILED
    assert exit_code(Ended(State(), stopped(StopReason.PLATEAU), refused)) == Exit.FAILED


async def snapshots(folder: Path) -> list[Snapshot]:
    store = await SqliteStore.open(folder / "journal.db")
    seen: list[Snapshot] = []
    async with LlmClient() as client:
        await Engine(
            inputs(),
            store=store,
            evaluator=SimulatedEvaluator(),
            client=client,
            publisher=KeepingPublisher(),
            observe=seen.append,
        ).run()
    await store.close()
    return seen


async def test_a_terminal_gets_a_live_table_and_everything_else_plain_lines(tmp_path: Path) -> None:
    seen = await snapshots(tmp_path)
    for terminal, kind in ((True, LiveView), (False, PlainView)):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=terminal, width=120)
        with view_for(console, Narrator()) as view:
            assert isinstance(view, kind)
            for snapshot in seen:
                view.show(snapshot)
        assert "verified at 4.000x" in screen.getvalue()
        assert ("\x1b[" in screen.getvalue()) is terminal

"""The HTML report: complete, without anything from elsewhere, and inert whatever a model wrote into the search."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from kernelsearch.cli.narrate import Narrator, duration
from kernelsearch.cli.plot import Point, best_so_far, ticks
from kernelsearch.cli.report import render, write_report
from kernelsearch.engine import Ended, Engine, Snapshot
from kernelsearch.evaluate.base import Progress
from kernelsearch.llm.client import LlmClient
from kernelsearch.search.journal import CandidateProposed, Operator
from kernelsearch.search.state import State, apply
from kernelsearch.store.sqlite import SqliteStore

from ..engine.simulated import KeepingPublisher, SimulatedEvaluator, inputs

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'


async def ended_search(folder: Path, **spec: object) -> tuple[Ended, SqliteStore, list[Snapshot]]:
    store = await SqliteStore.open(folder / "journal.db")
    seen: list[Snapshot] = []
    async with LlmClient() as client:
        engine = Engine(
            inputs(**spec),
            store=store,
            evaluator=SimulatedEvaluator(),
            client=client,
            publisher=KeepingPublisher(),
            observe=seen.append,
        )
        return await engine.run(), store, seen


class Tags(HTMLParser):
    """Every start tag with its attributes; complains about tags that are not closed in order."""

    VOID = frozenset({"meta", "br", "line", "circle", "path", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


async def test_the_report_shows_winner_baselines_budget_and_every_candidate(tmp_path: Path) -> None:
    ended, store, _ = await ended_search(tmp_path)
    await write_report(tmp_path / "report.html", inputs(), ended, store)
    await store.close()
    page = (tmp_path / "report.html").read_text()
    winner = ended.state.winners["cpu"]
    assert f"{winner.speedup:.3f}x" in page
    assert "constexpr int BLOCK" in page
    assert "eager 1 us" in page
    assert "<td>candidates</td>" in page
    assert all(f">{candidate}<" in page for candidate in ended.state.candidates)
    assert Tags(page).open == []


async def test_the_report_needs_nothing_from_elsewhere_and_runs_no_script(tmp_path: Path) -> None:
    ended, store, _ = await ended_search(tmp_path)
    await store.close()
    page = render(inputs(), ended, {}, 0)
    tags = Tags(page).found
    assert {"script", "link", "img", "iframe"}.isdisjoint(tag for tag, _ in tags)
    assert not any(name in attributes for _, attributes in tags for name in ("src", "href"))
    assert "url(" not in page


async def test_what_a_model_wrote_is_shown_and_not_executed(tmp_path: Path) -> None:
    ended, store, _ = await ended_search(tmp_path)
    await store.close()
    hostile = CandidateProposed(
        at_ns=1,
        id="c99-cpu",
        ask_no=99,
        target="cpu",
        operator=Operator.DRAFT,
        lane="c99-cpu",
        plan=HOSTILE,
        source_ref="0" * 64,
    )
    page = render(inputs(), Ended(apply(ended.state, hostile), ended.stopped), {"cpu": HOSTILE}, 0)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert all(not name.startswith("on") for _, attributes in Tags(page).found for name in attributes)


async def test_an_interrupted_search_has_a_report_too(tmp_path: Path) -> None:
    ended, store, _ = await ended_search(tmp_path)
    await store.close()
    assert "can be taken up again" in render(inputs(), Ended(ended.state), {}, 0)


async def test_every_candidate_is_told_once_whatever_snapshots_were_skipped(tmp_path: Path) -> None:
    ended, store, seen = await ended_search(tmp_path)
    await store.close()
    for step in (1, 7):
        narrator = Narrator()
        lines = [line for snapshot in [*seen[::step], seen[-1]] for line in narrator.lines(snapshot)]
        told = [line.split()[0] for line in lines if re.match(r"c\d+-cpu +(seed|tune)", line)]
        assert sorted(told) == sorted(ended.state.candidates)
        assert sum("verified at" in line for line in lines) == 1
        assert any("reference eager, case default: 1 us" in line for line in lines)


def test_why_nothing_runs_is_told_once() -> None:
    narrator = Narrator()
    snapshot = Snapshot(State(), progress={"cpu-1-0": Progress("cpu", "Queued", "another search is being timed")})
    told = [line for _ in range(3) for line in narrator.lines(snapshot)]
    assert told == ["cpu: queued, another search is being timed"]


async def test_what_an_earlier_run_told_is_not_told_again(tmp_path: Path) -> None:
    ended, store, _ = await ended_search(tmp_path)
    await store.close()
    narrator = Narrator()
    narrator.skip(ended.state)
    assert list(narrator.lines(Snapshot(ended.state))) == []


def test_the_plot_has_a_dot_for_each_kernel_and_a_step_for_each_new_best_that_held() -> None:
    points = [
        Point(1, 0.8, "a", "ran"),
        Point(2, 1.5, "b", "ran"),
        Point(3, 9.0, "cheat", "refused"),
        Point(4, 1.2, "c", "verified"),
    ]
    plot = best_so_far(points, finished=5)
    assert plot.count("<circle") == 4
    assert plot.count('class="verified"') == 1
    path = re.search(r'class="best" d="([^"]*)"', plot)
    assert path is not None
    assert path[1].count("V") == 1


def test_a_search_in_which_nothing_ran_has_no_plot() -> None:
    assert best_so_far([], finished=3) == ""


def test_ticks_are_few_round_and_hold_the_reference() -> None:
    for high in (1.3, 3.0, 40.0, 5000.0):
        found = ticks(0.5, high)
        assert 1.0 in found
        assert len(found) <= 10


def test_times_are_written_in_the_unit_that_fits() -> None:
    assert [duration(ns) for ns in (12, 1_500, 2_500_000, 3e9)] == ["12 ns", "1.5 us", "2.5 ms", "3 s"]

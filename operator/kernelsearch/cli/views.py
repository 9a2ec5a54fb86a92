"""What a person sees while a search runs: a live table on a terminal, plain lines everywhere else."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from kernelsearch.api.translate import from_micros
from kernelsearch.cli.narrate import Narrator, duration, leading
from kernelsearch.engine import Snapshot
from kernelsearch.search.records import TargetState
from kernelsearch.search.state import State

_REFRESH_SECONDS = 0.25
_PLAIN_WIDTH = 200


class View(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, snapshot: Snapshot) -> None: ...


def open_console() -> Console:
    """As wide as the terminal; without one, wide enough that no line is broken."""
    console = Console()
    return console if console.is_terminal else Console(width=_PLAIN_WIDTH)


def view_for(console: Console, narrator: Narrator) -> View:
    return LiveView(console, narrator) if console.is_terminal else PlainView(console, narrator)


class PlainView:
    """One line per event: for logs, pipes and tests."""

    def __init__(self, console: Console, narrator: Narrator) -> None:
        self._console, self._narrator = console, narrator

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, snapshot: Snapshot) -> None:
        for line in self._narrator.lines(snapshot):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveView:
    """A bar, a table of targets, and what is awaited; the lines scroll by above them."""

    def __init__(self, console: Console, narrator: Narrator) -> None:
        self._console, self._narrator = console, narrator
        columns = (TextColumn("candidates"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console)
        self._task = self._bar.add_task("candidates", total=None)
        self._live = Live(self._bar, console=console, auto_refresh=False, transient=True)
        self._drawn = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        for line in self._narrator.lines(snapshot):
            self._console.print(line, markup=False, highlight=False)
        if time.monotonic() - self._drawn < _REFRESH_SECONDS and snapshot.ended is None:
            return
        self._drawn = time.monotonic()
        state = snapshot.state
        self._bar.update(self._task, completed=state.finished, total=state.limits.candidates)
        waits = Text(f"waiting for {snapshot.waiting_for}", style="dim", overflow="ellipsis", no_wrap=True)
        self._live.update(Group(targets_table(state), self._bar, waits), refresh=True)


def targets_table(state: State) -> Table:
    """One row per target: what the reference takes, what the best kernel takes, whether it was verified."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("target", "judged", "correct", "reference", "best", "speedup", "interval", ""):
        table.add_column(name, justify="right" if name in ("judged", "correct", "reference", "best") else "left")
    for target in state.targets.values():
        table.add_row(target.name, str(target.finished), str(target.ok), *_best(state, target))
    return table


def _best(state: State, target: TargetState) -> tuple[str, str, str, str, str]:
    if target.failed:
        return ("", "", "", "", f"failed: {target.failed.reason}")
    candidate = leading(state, target)
    if candidate is None:
        return (_baseline(target), "", "", "", "" if target.probed else "measuring the reference")
    result = candidate.results[-1]
    speedup = f"{candidate.speedup:.3f}x" if candidate.speedup is not None else ""
    interval = f"{result.low:.3f} to {result.high:.3f}" if result.low is not None and result.high is not None else ""
    word = "verified" if candidate.verified else "not verified" if candidate.eligible else "not faster"
    if candidate.verified and not state.improved(target.name):
        word = "verified, not faster"
    return (_baseline(target), " + ".join(duration(case.ns) for case in result.cases), speedup, interval, word)


def _baseline(target: TargetState) -> str:
    """The faster arm of each case."""
    fastest: dict[str, int] = {}
    for baseline in target.probed.baselines if target.probed else ():
        if baseline.ns is not None:
            fastest[baseline.case] = min(baseline.ns, fastest.get(baseline.case, baseline.ns))
    return " + ".join(duration(ns) for ns in fastest.values())


def usage_line(state: State, now_ns: int) -> str:
    """What was spent, in one line."""
    ledger = state.ledger
    parts = [f"{ledger.candidates} candidates", f"{ledger.calls} model calls", f"{ledger.tokens} tokens"]
    if any(model.input_micros_per_mtok is not None for model in state.limits.models):
        parts.append(f"cost {from_micros(ledger.cost_micros)}")
    parts += [f"{ledger.active_seconds(now_ns):.0f} s", f"{ledger.device_seconds:.0f} s of them on the device"]
    return ", ".join(parts)

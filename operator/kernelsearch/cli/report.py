"""The HTML report of a local search: one file that needs nothing else, made from the journal alone.

Everything in it that a model or a candidate wrote is escaped by the template engine; the page has no script and loads
nothing, so opening a report runs nobody's code.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from kernelharness.protocol import Baseline, CaseFact

from kernelsearch import __version__
from kernelsearch.api.translate import from_micros
from kernelsearch.cli.narrate import duration, leading
from kernelsearch.cli.plot import Point, best_so_far
from kernelsearch.engine import Ended, SearchInputs
from kernelsearch.search.records import Candidate, TargetState
from kernelsearch.search.state import State
from kernelsearch.store.base import Store


@dataclass(frozen=True)
class TargetPage:
    """What the template shows of one target."""

    target: TargetState
    plot: str
    best: Candidate | None
    source: str
    candidates: tuple[Candidate, ...]

    @property
    def cases(self) -> tuple[CaseFact, ...]:
        return self.target.facts

    def baselines(self, case: str) -> tuple[Baseline, ...]:
        return tuple(b for b in self.target.probed.baselines if b.case == case) if self.target.probed else ()


async def write_report(path: Path, inputs: SearchInputs, ended: Ended, store: Store) -> None:
    """Write the page whole or not at all."""
    sources = {}
    for name, target in ended.state.targets.items():
        if (best := leading(ended.state, target)) is not None:
            sources[name] = (await store.get_blob(best.source_ref)).decode()
    partial = path.with_suffix(".partial")
    partial.write_text(render(inputs, ended, sources, time.time_ns()), encoding="utf-8")
    partial.replace(path)


def render(inputs: SearchInputs, ended: Ended, sources: Mapping[str, str], now_ns: int) -> str:
    """The page. `sources`: target -> source of its best kernel."""
    state = ended.state
    return _template().render(
        name=inputs.name,
        ended=ended,
        state=state,
        pages=[_page(state, target, sources.get(name, "")) for name, target in state.targets.items()],
        budget=_budget(state, now_ns),
        reference=inputs.reference,
        version=__version__,
        made_at=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_ns / 1e9)),
    )


def _page(state: State, target: TargetState, source: str) -> TargetPage:
    own = [candidate for candidate in state.candidates.values() if candidate.target == target.name]
    finished = sorted((c for c in own if c.finished_no is not None), key=lambda c: c.finished_no or 0)
    points = [
        Point(number, candidate.speedup, candidate.id, _kind(candidate))
        for number, candidate in enumerate(finished, 1)
        if candidate.speedup is not None and candidate.alias_of is None
    ]
    return TargetPage(
        target=target,
        plot=best_so_far(points, len(finished)),
        best=leading(state, target),
        source=source,
        candidates=(*finished, *(c for c in own if c.finished_no is None)),
    )


def _kind(candidate: Candidate) -> Literal["ran", "verified", "refused"]:
    if candidate.refused:
        return "refused"
    return "verified" if candidate.verified else "ran"


def _budget(state: State, now_ns: int) -> list[tuple[str, str, str]]:
    """(what, used, limit)"""
    ledger, limits = state.ledger, state.limits

    def limit(value: object) -> str:
        return "no limit" if value is None else str(value)

    cost = None if limits.cost_micros is None else from_micros(limits.cost_micros)
    return [
        ("candidates", str(ledger.candidates), limit(limits.candidates)),
        ("model calls", str(ledger.calls), ""),
        ("tokens", str(ledger.tokens), limit(limits.tokens)),
        ("cost", from_micros(ledger.cost_micros), limit(cost)),
        ("seconds", f"{ledger.active_seconds(now_ns):.0f}", limit(limits.duration_seconds)),
        ("device seconds", f"{ledger.device_seconds:.0f}", limit(limits.accelerator_seconds)),
    ]


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("kernelsearch.cli", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = duration
    return environment.get_template("report.html.j2")

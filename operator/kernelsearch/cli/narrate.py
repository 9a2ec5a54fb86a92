"""A running search in plain lines: what is new since the last snapshot. The same lines with and without a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from kernelharness.protocol import Baseline, Result

from kernelsearch.engine import Snapshot
from kernelsearch.search.records import Candidate, TargetState
from kernelsearch.search.state import State

_PLAN_CHARS = 72


class Narrator:
    """Remembers what it has told. Snapshots may be skipped: the next one has everything that is still to tell."""

    def __init__(self) -> None:
        self._targets: set[tuple[str, str]] = set()
        self._finished = 0
        self._waits: set[tuple[str, str, str]] = set()
        self._judged: set[str] = set()
        self._confirmations: dict[str, int] = {}
        self._verified: set[str] = set()
        self._failures: dict[str, int] = {}
        self._published = ""

    def skip(self, state: State) -> None:
        """What an earlier run has told already is not told again."""
        for _ in self.lines(Snapshot(state)):
            pass

    def lines(self, snapshot: Snapshot) -> Iterator[str]:
        state = snapshot.state
        for target in state.targets.values():
            yield from self._target(target)
        for batch, progress in snapshot.progress.items():
            if isinstance(progress.said, Result):
                yield from self._streamed(state, progress.said)
            elif progress.state != "Running" and (batch, progress.state, progress.message) not in self._waits:
                self._waits.add((batch, progress.state, progress.message))
                yield f"{progress.target}: {progress.state.lower()}, {progress.message}".removesuffix(", ")
        yield from self._candidates(state)
        yield from self._calls(state)
        if state.published and state.published.digest != self._published:
            self._published = state.published.digest
            yield f"published {state.published.reference}"

    def _target(self, target: TargetState) -> Iterator[str]:
        if target.probed and (target.name, "probed") not in self._targets:
            self._targets.add((target.name, "probed"))
            yield f"{target.name}: {target.probed.device}"
            for baseline in target.probed.baselines:
                yield f"{target.name}: {reference_line(baseline)}"
        if target.failed and (target.name, "failed") not in self._targets:
            self._targets.add((target.name, "failed"))
            yield f"{target.name}: failed, {target.failed.reason}: {target.failed.message}"

    def _streamed(self, state: State, result: Result) -> Iterator[str]:
        """A result seen while its batch still runs. It comes again with the batch, and is not told again then."""
        candidate = state.candidates.get(result.candidate)
        if candidate is not None and candidate.id not in self._judged and not result.verdict.is_infrastructure:
            self._judged.add(candidate.id)
            yield describe(candidate, result)

    def _candidates(self, state: State) -> Iterator[str]:
        confirmations = state.ledger.confirmations
        if state.finished == self._finished and confirmations == sum(self._confirmations.values()):
            return
        new = [c for c in state.candidates.values() if c.finished_no is not None and c.finished_no > self._finished]
        self._finished = state.finished
        for candidate in sorted(new, key=lambda candidate: candidate.finished_no or 0):
            if candidate.id not in self._judged:
                self._judged.add(candidate.id)
                yield describe(candidate, candidate.result)
        for candidate in state.candidates.values():
            yield from self._confirmed(candidate)

    def _confirmed(self, candidate: Candidate) -> Iterator[str]:
        told, known = self._confirmations.get(candidate.id, 0), len(candidate.confirmations)
        self._confirmations[candidate.id] = known
        for number in range(told, known):
            result = candidate.confirmations[number].result
            word = f"{result.speedup:.3f}x" if result.speedup is not None else result.verdict.value
            yield f"{candidate.id}  in fresh process {number + 1}: {word}"
        if candidate.verified and candidate.id not in self._verified:
            self._verified.add(candidate.id)
            yield f"{candidate.id}  verified at {candidate.speedup:.3f}x"

    def _calls(self, state: State) -> Iterator[str]:
        for reason, failure in state.failures.items():
            if reason.startswith("LLM") and failure.count > self._failures.get(reason, 0):
                self._failures[reason] = failure.count
                yield f"model: {reason}: {one_line(failure.last_message)}"


def describe(candidate: Candidate, result: Result | None) -> str:
    """One line about a candidate and what was said of it."""
    said = candidate.plan
    if candidate.alias_of:
        what = f"same kernel as {candidate.alias_of}"
    elif result is None:
        what = f"given up: {candidate.given_up}"
    elif result.speedup is not None:
        what = f"{result.speedup:.3f}x"
    else:
        what, said = result.verdict.value, result.summary
    return f"{candidate.id:<10} {candidate.operator.value:<8} {what:<18} {one_line(said)}".rstrip()


def reference_line(baseline: Baseline) -> str:
    """One arm of the reference in one case: its time, or why it has none."""
    time = duration(baseline.ns) if baseline.ns is not None else baseline.note or "does not run"
    return f"reference {baseline.arm}, case {baseline.case}: {time}"


def leading(state: State, target: TargetState) -> Candidate | None:
    """The kernel to show for a target: the best verified one, else the best, else the least slow that is right."""
    chosen = target.confirmed_best or target.best
    if chosen is not None:
        return state.candidates[chosen]
    scored = [c for c in state.candidates.values() if c.target == target.name and c.score is not None]
    return max(scored, key=lambda candidate: candidate.score or 0.0, default=None)


def one_line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _PLAN_CHARS else flat[: _PLAN_CHARS - 1] + "…"


def duration(ns: float) -> str:
    """1234567 -> '1.235 ms'"""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.4g} {unit}"
    return f"{ns:.0f} ns"

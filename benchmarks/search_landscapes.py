"""Compare search policies on synthetic landscapes: this one, a serial greedy search, and a uniformly random one.

    python benchmarks/search_landscapes.py            # about two minutes on one core; prints and writes the table
    python benchmarks/search_landscapes.py --instances 300

A landscape stands for a kernel problem. There are some approaches (algorithms); each has a start, and some thirty
ideas that can be applied to it, with gains of very different size, some of them losses. A draft or a rewrite lands on a
random approach, an edit applies one idea that its prompt does not show as tried, guided towards the larger gains as a
profile would; 35 % of the replies do not work, and 60 % of the repairs mend them. Measurements carry 1 % noise. The
number is the share of the attainable log-speedup (best approach, all its gains) that the best *true* speedup reached.

It is a filter of mechanisms, not a claim about other programs. All policies meet the same landscapes; every number is
a function of the seed.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random
from statistics import fmean, stdev

from kernelharness.protocol import CaseFact, CaseResult, Purpose, Result, Stage, Verdict
from kernelsearch.search.actions import CallModel, SubmitBatch
from kernelsearch.search.journal import (
    BatchDone,
    BatchSubmitted,
    CandidateProposed,
    Limits,
    LimitsChanged,
    LlmReserved,
    LlmSettled,
    ModelLimits,
    Operator,
    SearchStarted,
    TargetLimits,
    TargetProbed,
)
from kernelsearch.search.policy import ask
from kernelsearch.search.state import fold

FAILS = 0.35
REPAIR_WORKS = 0.60
NOISE = 0.01
APPROACHES = 8
IDEAS = 30
SECOND = 1_000_000_000


@dataclass(frozen=True)
class Kernel:
    """An approach and the ideas applied to it."""

    approach: int
    ideas: frozenset[int] = frozenset()


class Landscape:
    """One problem. All of its randomness comes from the seed and the number of the ask."""

    def __init__(self, seed: int) -> None:
        rng = Random(f"landscape {seed}")
        self.seed = seed
        self.starts = [rng.gauss(-0.3, 0.3) for _ in range(APPROACHES)]
        scale = [rng.lognormvariate(0, 0.5) for _ in range(APPROACHES)]
        self.gains = [
            [scale[a] * (rng.expovariate(12) if rng.random() < 0.45 else -rng.expovariate(20)) for _ in range(IDEAS)]
            for a in range(APPROACHES)
        ]
        reachable = (
            start + sum(g for g in gains if g > 0) for start, gains in zip(self.starts, self.gains, strict=True)
        )
        self.attainable = max(reachable)

    def score(self, kernel: Kernel) -> float:
        """True ln(speedup)."""
        return self.starts[kernel.approach] + sum(self.gains[kernel.approach][idea] for idea in kernel.ideas)

    def rng(self, *parts: object) -> Random:
        return Random(sha256(repr((self.seed, *parts)).encode()).digest())

    def opening(self, ask_no: int) -> Kernel:
        return Kernel(self.rng("opening", ask_no).randrange(APPROACHES))

    def edit(self, parent: Kernel, shown: set[int], ask_no: int) -> tuple[Kernel, int]:
        """The parent with one more idea, guided: of two ideas that the prompt does not show, the larger gain."""
        rng = self.rng("edit", ask_no)
        fresh = [idea for idea in range(IDEAS) if idea not in shown and idea not in parent.ideas]
        fresh = fresh or [idea for idea in range(IDEAS) if idea not in parent.ideas] or [0]
        drawn = [rng.choice(fresh), rng.choice(fresh)]
        idea = max(drawn, key=lambda i: self.gains[parent.approach][i])
        return Kernel(parent.approach, parent.ideas | {idea}), idea

    def works(self, ask_no: int, repair: bool) -> bool:
        return self.rng("works", ask_no).random() < (REPAIR_WORKS if repair else 1 - FAILS)

    def measured(self, kernel: Kernel, *parts: object) -> float:
        return self.score(kernel) + self.rng("noise", *parts).gauss(0, NOISE)


def serial_greedy(land: Landscape, calls: int) -> tuple[float, int]:
    """Always edit the best, repair a failure once, one call at a time. Returns (true best, rounds)."""
    best, best_seen = None, -math.inf
    broken: Kernel | None = None
    tried: set[int] = set()
    for number in range(calls):
        repair = broken is not None
        if broken is not None:
            kernel = broken
        elif best is None:
            kernel = land.opening(number)
        else:
            kernel, idea = land.edit(best, tried, number)
            tried.add(idea)
        broken = None
        if not land.works(number, repair):
            broken = None if repair else kernel
        elif (seen := land.measured(kernel, number)) > best_seen:
            best, best_seen = kernel, seen
    return (land.score(best) if best else 0.0), calls


def random_search(land: Landscape, calls: int) -> tuple[float, int]:
    """Any working kernel is as good a parent as any other; a tenth of the calls begin anew."""
    rng = land.rng("random")
    known: list[tuple[float, Kernel]] = []
    for number in range(calls):
        if not known or rng.random() < 0.1:
            kernel = land.opening(number)
        else:
            kernel, _ = land.edit(rng.choice(known)[1], set(), number)
        if land.works(number, repair=False):
            known.append((land.measured(kernel, number), kernel))
    return (land.score(max(known, key=lambda pair: pair[0])[1]) if known else 0.0), calls


def this_policy(land: Landscape, calls: int) -> tuple[float, int]:
    """The real `ask` and `fold`, with the world played by the landscape in virtual time."""
    return _Played(land, calls).play()


class _Played:
    def __init__(self, land: Landscape, calls: int) -> None:
        self.land = land
        target = TargetLimits(name="t", profile="p", language="cpp", parallelism=2, batch_size=8)
        limits = Limits(
            candidates=calls,
            has_llm=True,
            models=(ModelLimits(name="m"),),
            targets=(target,),
            max_concurrent_requests=64,
            without_improvement=10**6,
        )
        start = SearchStarted(at_ns=0, uid=f"u{land.seed}", name="n", problem_digest="", seed=land.seed)
        fact = CaseFact(case="c", inputs=[], outputs=[])
        probe = TargetProbed(at_ns=0, target="t", device="d", cases=(fact,), baselines=())
        self.state = fold([start, LimitsChanged(at_ns=0, generation=1, limits=limits), probe])
        self.kernels: dict[str, Kernel] = {}
        self.ideas: dict[str, int] = {}

    def play(self) -> tuple[float, int]:
        now = 0
        while self.state.stopped is None:
            while actions := ask(self.state, now):
                for action in actions:
                    if isinstance(action, CallModel):
                        self._record(_reserved(action, now))
                    elif isinstance(action, SubmitBatch):
                        fields = {"id": action.id, "target": "t", "purpose": action.purpose}
                        self._record(BatchSubmitted(at_ns=now, candidates=action.candidates, **fields))
                    else:
                        return self._outcome(now)
            calls = [(c.at_ns + self._call_ns(c), c.call_id) for c in self.state.calls_in_flight.values()]
            batches = [(b.at_ns + 15 * SECOND, b.id) for b in self.state.batches_in_flight.values()]
            now, id = min(calls + batches)
            if id in self.state.calls_in_flight:
                self._answer(self.state.calls_in_flight[id], now)
            else:
                self._judge(self.state.batches_in_flight[id], now)
        return self._outcome(now)

    def _outcome(self, now: int) -> tuple[float, int]:
        best = self.state.targets["t"].confirmed_best or self.state.targets["t"].best
        return (self.land.score(self.kernels[best]) if best else 0.0), now // SECOND

    def _record(self, *events: object) -> None:
        self.state = fold(events, self.state)  # type: ignore[arg-type]

    def _call_ns(self, call: LlmReserved) -> int:
        return int(30 * SECOND * (0.5 + self.land.rng("seconds", call.ask_no).random()))

    def _answer(self, call: LlmReserved, now: int) -> None:
        id = f"c{call.ask_no}-t"
        if call.parent is None or call.operator is Operator.REWRITE:
            self.kernels[id] = self.land.opening(call.ask_no)
        elif call.operator is Operator.REPAIR:
            self.kernels[id] = self.kernels[call.parent]
        else:
            lane = self.state.lanes[call.lane or ""]
            shown = {self.ideas[known] for known in lane.recent if known in self.ideas}
            self.kernels[id], self.ideas[id] = self.land.edit(self.kernels[call.parent], shown, call.ask_no)
        fields = {"target": "t", "operator": call.operator, "lane": call.lane or id, "parent": call.parent}
        made = CandidateProposed(
            at_ns=now, id=id, ask_no=call.ask_no, call_id=call.call_id, source_ref=id, plan="p", **fields
        )
        settled = {"outcome": "ok", "input_tokens": 1, "output_tokens": 1, "cost_micros": 0}
        self._record(made, LlmSettled(at_ns=now, call_id=call.call_id, **settled))

    def _judge(self, batch: BatchSubmitted, now: int) -> None:
        results = tuple(self._result(id, batch) for id in batch.candidates)
        self._record(BatchDone(at_ns=now, id=batch.id, results=results, device_seconds=1.0))

    def _result(self, id: str, batch: BatchSubmitted) -> Result:
        candidate = self.state.candidates[id]
        repair = candidate.operator is Operator.REPAIR
        if batch.purpose is Purpose.SEARCH and not self.land.works(candidate.proposal.ask_no, repair):
            return Result(candidate=id, verdict=Verdict.COMPILE_ERROR, stage=Stage.COMPILE)
        noise = NOISE if batch.purpose is Purpose.SEARCH else NOISE / 3
        seen = self.land.score(self.kernels[id]) + self.land.rng("seen", id, batch.id).gauss(0, noise)
        fields = {"ns": 1, "low": 1.0, "high": 1.0, "speedup": math.exp(seen), "baseline_ns": 1}
        case = CaseResult(case="c", mean_log_ratio=seen, standard_error=noise, **fields)
        return Result(candidate=id, verdict=Verdict.OK, stage=Stage.TIMING, cases=[case], binary_hash=id)


def _reserved(action: CallModel, now: int) -> LlmReserved:
    fields = {"target": action.target, "operator": action.operator, "lane": action.lane, "parent": action.parent}
    return LlmReserved(
        at_ns=now, call_id=f"a{action.ask_no}", ask_no=action.ask_no, model="m", tokens=1, cost_micros=0, **fields
    )


POLICIES: dict[str, Callable[[Landscape, int], tuple[float, int]]] = {
    "this policy": this_policy,
    "serial greedy": serial_greedy,
    "random": random_search,
}


@cache
def landscape(seed: int) -> Landscape:
    return Landscape(seed)


def compare(budgets: list[int], instances: int) -> list[dict[str, object]]:
    """Rows of policy, calls, mean fraction of the attainable, and its standard error."""
    rows: list[dict[str, object]] = []
    for name, policy in POLICIES.items():
        for calls in budgets:
            reached = []
            for seed in range(instances):
                land = landscape(seed)
                reached.append(max(0.0, policy(land, calls)[0]) / land.attainable)
            error = stdev(reached) / math.sqrt(instances)
            rows.append({"policy": name, "calls": calls, "reached": round(fmean(reached), 3), "error": round(error, 3)})
            print(f"{name:14} {calls:4} calls: {fmean(reached):.3f} +- {error:.3f}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--instances", type=int, default=40)
    parser.add_argument("--budgets", type=int, nargs="+", default=[60, 120, 240])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "search_landscapes.json")
    options = parser.parse_args()
    started = time.monotonic()
    rows = compare(options.budgets, options.instances)
    report = {
        "command": f"python benchmarks/search_landscapes.py --instances {options.instances}",
        "unit": "fraction of the attainable log-speedup, mean and standard error over the instances",
        "instances": options.instances,
        "python": platform.python_version(),
        "seconds": round(time.monotonic() - started),
        "rows": rows,
    }
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()

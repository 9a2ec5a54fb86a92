"""How long folding the journal of 5,000 candidates takes, and one `ask` on the state that results.

    python benchmarks/search_fold.py        # some seconds; prints and writes benchmarks/results/search_fold.json

A controller folds every journal when it starts and asks after every event, so both must not grow with the square of the
candidates. The journal is synthetic: every candidate comes from a model, lanes of a hundred, batches of eight.
"""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path

from kernelharness.protocol import CaseResult, Purpose, Result, Stage, Verdict
from kernelsearch.search.journal import (
    BatchDone,
    BatchSubmitted,
    CandidateProposed,
    Event,
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

LANE = 100
BATCH = 8


def journal(candidates: int) -> list[Event]:
    target = TargetLimits(name="t", profile="p", language="cpp", batch_size=BATCH)
    models = (ModelLimits(name="m"),)
    limits = Limits(candidates=2 * candidates, has_llm=True, models=models, targets=(target,))
    events: list[Event] = [
        SearchStarted(at_ns=0, uid="u", name="n", problem_digest="", seed=1),
        LimitsChanged(at_ns=0, generation=1, limits=limits),
        TargetProbed(at_ns=0, target="t", device="d", cases=(), baselines=()),
    ]
    waiting: list[str] = []
    for number in range(1, candidates + 1):
        id, call = f"c{number}-t", f"a{number}"
        lane = f"c{number - number % LANE or 1}-t"
        common = {"ask_no": number, "target": "t", "operator": Operator.EDIT, "lane": lane}
        events.append(LlmReserved(at_ns=number, call_id=call, model="m", tokens=9000, cost_micros=90, **common))
        events.append(CandidateProposed(at_ns=number, id=id, call_id=call, source_ref=id, plan="p", **common))
        usage = {"outcome": "ok", "input_tokens": 4000, "output_tokens": 2000, "cost_micros": 60}
        events.append(LlmSettled(at_ns=number, call_id=call, **usage))
        waiting.append(id)
        if len(waiting) == BATCH:
            members, waiting = tuple(waiting), []
            batch = f"t-{number}-0"
            results = tuple(_result(member, at) for at, member in enumerate(members, number))
            submitted = {"id": batch, "target": "t", "purpose": Purpose.SEARCH, "candidates": members}
            events.append(BatchSubmitted(at_ns=number, **submitted))
            events.append(BatchDone(at_ns=number, id=batch, results=results, node="n", device_seconds=9.0))
    return events


def _result(id: str, number: int) -> Result:
    if number % 3 == 0:
        return Result(candidate=id, verdict=Verdict.COMPILE_ERROR, stage=Stage.COMPILE)
    fields = {"ns": 1, "low": 1.0, "high": 1.0, "speedup": 1.1, "baseline_ns": 1, "standard_error": 0.01}
    case = CaseResult(case="c", mean_log_ratio=(number * 37 % 1009) / 1009, **fields)
    return Result(candidate=id, verdict=Verdict.OK, stage=Stage.TIMING, cases=[case], binary_hash=id)


def main() -> None:
    rows = []
    for candidates in (1250, 2500, 5000):
        events = journal(candidates)
        started = time.process_time()
        state = fold(events)
        folded = time.process_time()
        ask(state, state.last_at_ns)
        asked = time.process_time()
        row = {
            "candidates": candidates,
            "events": len(events),
            "fold_seconds": round(folded - started, 3),
            "ask_milliseconds": round(1000 * (asked - folded), 2),
        }
        rows.append(row)
        print(row, flush=True)
    report = {
        "command": "python benchmarks/search_fold.py",
        "unit": "CPU seconds of one process",
        "python": platform.python_version(),
        "machine": platform.machine(),
        "rows": rows,
    }
    output = Path(__file__).parent / "results" / "search_fold.json"
    output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {output}")


if __name__ == "__main__":
    main()

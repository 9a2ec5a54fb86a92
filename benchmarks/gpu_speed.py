"""What judging costs on a GPU at the size of KernelBench's level 1: one candidate, a batch of eight, a cold start.

    python benchmarks/gpu_speed.py [--json FILE] [--logs FOLDER] [--only NAME ...]

The clock of a candidate is that of a reader of the log (clock.py): warm means that baselines and facts of the problem
are there. Everything before is the cold start, torch.compile included. Five secret correctness sets, eager and
torch.compile timed beside every candidate. Prints a table of where the seconds go.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from pathlib import Path
from statistics import mean, median

from clock import Line, judge, seconds_of
from kernelharness.protocol import (
    Baseline,
    Batch,
    Candidate,
    File,
    Hello,
    Problem,
    ProblemFact,
    Result,
    Tolerance,
    Toolchain,
)

HERE = Path(__file__).resolve().parent / "large"
SOURCES = {("rmsnorm", "cuda"): "rmsnorm.cu", ("rmsnorm", "triton"): "rmsnorm_triton.py"}
SOURCES |= {("softmax", "cuda"): "softmax.cu", ("softmax", "triton"): "softmax_triton.py"}
THREADS = {
    ("rmsnorm", "cuda"): (256, 128, 64, 192, 320, 384, 96, 448),
    ("rmsnorm", "triton"): (256, 128, 64, 512, 1024, 2048, 32, 4096),
    ("softmax", "cuda"): (1024, 512, 256, 768, 896, 640, 384, 128),
    ("softmax", "triton"): (1024, 512, 256, 2048, 4096, 128, 64, 8192),
}
"""What the eight candidates of a problem differ in."""


def batch(problem: str, language: str, count: int) -> Batch:
    name = SOURCES[problem, language]
    source = (HERE / name).read_text()
    candidates = []
    variants = THREADS[problem, language]
    for threads in variants[:count]:
        text = source.replace(f"THREADS = {variants[0]}", f"THREADS = {threads}")
        candidates.append(Candidate(id=f"threads-{threads}", files=[File(path=name, content=text)]))
    return Batch(
        id=f"{problem}-{language}-{count}",
        problem=Problem(
            files=[File(path="reference.py", content=(HERE / f"{problem}.py").read_text())],
            tolerance=Tolerance(seeds=5),
        ),
        toolchain=Toolchain(language=language, arch="sm_90a", vendor="nvidia", run_timeout_seconds=20),
        candidates=candidates,
    )


def measured(lines: list[Line], given: Batch) -> dict[str, object]:
    facts = [message for _, message in lines if isinstance(message, ProblemFact)]
    baselines = [message for _, message in lines if isinstance(message, Baseline)]
    results = [message for _, message in lines if isinstance(message, Result)]
    if not baselines or len(results) != len(given.candidates):
        raise RuntimeError(f"{given.id}: {[fact.reason for fact in facts]}")
    cold, seconds = seconds_of(lines)
    fact = facts[0].cases[0]
    walls = {
        name: round(mean(result.walls.get(name, 0.0) for result in results), 3)
        for name in ("compile", "warmup", "load", "correctness", "timing")
    }
    return {
        "problem": given.problem.entry,
        "bytes": fact.bytes_min,
        "cold_seconds": round(cold, 2),
        "seconds": round(seconds, 2),
        "walls": walls,
        "baseline_us": {message.arm: round(message.ns / 1e3, 1) for message in baselines if message.ns},
        "notes": [message.note for message in baselines if message.note],
        "candidates": [
            {
                "verdict": result.verdict.value,
                "summary": result.summary,
                "us": result.cases[0].ns / 1e3 if result.cases else None,
                "speedup": result.speedup,
                "half_width_percent": _half_width(result),
                "blocks": result.cases[0].samples if result.cases else 0,
                "walls": result.walls,
                "flags": result.flags,
            }
            for result in results
        ],
    }


def _half_width(result: Result) -> float | None:
    if result.low is None or result.high is None or not result.speedup:
        return None
    return round(50 * (result.high - result.low) / result.speedup, 3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--logs", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--only", nargs="*", default=[], help="parts of names like rmsnorm-cuda-8")
    options = parser.parse_args()
    options.logs.mkdir(parents=True, exist_ok=True)
    report: dict[str, object] = {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    runs: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory(prefix="kernelharness-cache-") as cache:
        for problem, language in SOURCES:
            for count in (1, 8):
                given = batch(problem, language, count)
                if options.only and not any(part in given.id for part in options.only):
                    continue
                try:
                    lines = judge(given, cache, options.logs / f"{given.id}.log")
                    runs[given.id] = measured(lines, given)
                except RuntimeError as error:
                    runs[given.id] = {"error": str(error)}
                    print(error, flush=True)
                    continue
                hello = next(message for _, message in lines if isinstance(message, Hello))
                report |= {"device": hello.device, "driver": hello.driver, "versions": hello.versions}
                _print(given.id, runs[given.id])
                if options.json:
                    options.json.write_text(json.dumps(report | {"runs": runs}, indent=1))
    return int(any("error" in run for run in runs.values()))


def _print(name: str, run: dict[str, object]) -> None:
    walls, candidates = run["walls"], run["candidates"]
    assert isinstance(walls, dict)
    assert isinstance(candidates, list)
    widths = [c["half_width_percent"] for c in candidates if c["half_width_percent"] is not None]
    speedups = [c["speedup"] for c in candidates if c["speedup"]]
    print(f"{name}: {run['seconds']} s a candidate {walls}, cold start {run['cold_seconds']} s, {run['baseline_us']}")
    if widths:
        print(f"    {median(speedups):.3f}x, half-widths up to {max(widths):.2f} %, {[c['us'] for c in candidates]}")
    for candidate in candidates:
        if candidate["verdict"] != "OK" or candidate["flags"]:
            print(f"    {candidate['verdict']}: {candidate['summary']} {candidate['flags']}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

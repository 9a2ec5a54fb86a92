"""What judging costs on this CPU: seconds of a candidate in a batch of 16, and what every batch pays once.

    python benchmarks/harness_cpu.py        # some minutes; prints and writes benchmarks/results/harness_cpu.json

As a search does it: a probe measures what torch.compile takes beside eager, then a batch of sixteen variants of one C++
kernel goes through the real judge and is told (docs/decisions/0010). Three times: a kernel that computes (the seed of
examples/tune-only.yaml), one whose outputs are as large as its inputs (the demo's), where comparing costs most, and the
same with calls of several milliseconds. The clock is that of a reader of the log (clock.py). The last source is built
once by torch's load_inline for comparison, in the same run, which needs ninja on the PATH. Nothing else may run beside
it.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median
from typing import Any

from clock import Line, judge, seconds_of
from kernelharness.protocol import (
    Artifact,
    Baseline,
    Batch,
    Bye,
    Candidate,
    Case,
    File,
    Hello,
    Message,
    Purpose,
    Result,
    from_artifacts,
)
from kernelsearch.api.documents import load_documents
from kernelsearch.api.profiles import packaged_profiles
from kernelsearch.api.translate import to_hardware, to_protocol_problem, to_toolchain
from kernelsearch.search.edits import find_tunables, set_tunables

ROOT = Path(__file__).resolve().parent.parent
COMPUTES = ROOT / "examples" / "tune-only.yaml"
MOVES = ROOT / "examples" / "demo-cpu.yaml"
MOVES_KERNEL = ROOT / "dev" / "llm" / "replies" / "rmsnorm" / "01-two-passes.md"
RESULT = ROOT / "benchmarks" / "results" / "harness_cpu.json"
LONG = Case(name="long", dims={"TOKENS": 2048, "HIDDEN": 2048})
CANDIDATES = 16

LOAD_INLINE = """
import pathlib, sys, time
import torch
from torch.utils.cpp_extension import load_inline
folder = sys.argv[1]
source = pathlib.Path(folder, "kernel.cpp").read_text() + "\\nint64_t loaded() { return kernelsearch_abi(); }\\n"
begin = time.monotonic()
load_inline("kernel", [source], functions=["loaded"], build_directory=folder, extra_include_paths=[folder],
            extra_cflags=["-O3", "-fopenmp", "-march=" + sys.argv[2]], extra_ldflags=["-lgomp"])
print(time.monotonic() - begin)
"""


def variants(source: str) -> list[str]:
    """The first sources that differ in the values of their tunables."""
    tunables = find_tunables(source)
    settings = itertools.product(*(tunable.values for tunable in tunables))
    names = [tunable.name for tunable in tunables]
    sources = [set_tunables(source, dict(zip(names, values, strict=True))) for values in settings]
    # Tunables alone may give fewer; a named constant that nobody reads still makes another binary.
    rounds = itertools.count()
    padded = (f'{text}\nextern "C" const int variant = {number};\n' for number in rounds for text in sources)
    return list(itertools.islice(padded, CANDIDATES))


def compile_ratios(probed: list[Line]) -> dict[str, float]:
    """Case -> torch.compile's time over eager's."""
    ns = {(found.case, found.arm): found.ns for _, found in probed if isinstance(found, Baseline)}
    times = {case: (ns.get((case, "eager")), ns.get((case, "compile"))) for case, _ in ns}
    return {case: compiled / eager for case, (eager, compiled) in times.items() if eager and compiled}


def batch_of(example: Path, source: str | None = None, cases: Sequence[Case] | None = None) -> Batch:
    """Sixteen variants of the example's seed, or of `source`, in the example's cases or in these."""
    documents = load_documents(example)
    spec = documents.search.spec
    profile = packaged_profiles()[spec.targets[0].profile]
    problem = to_protocol_problem(spec.problem, documents.problem_files())
    return Batch(
        id="benchmark",
        problem=problem.model_copy(update={"cases": cases or problem.cases}),
        toolchain=to_toolchain(profile, "cpp"),
        hardware=to_hardware(profile),
        candidates=[
            Candidate(id=f"v{number}", files=[File(path="kernel.cpp", content=text)])
            for number, text in enumerate(variants(source or spec.problem.seeds[0].content))
        ],
    )


def measure(batch: Batch, cache: Path) -> tuple[dict[str, Any], list[Message]]:
    """What a search pays for this batch, and the batch's messages."""
    probed = judge(batch.model_copy(update={"candidates": [], "purpose": Purpose.PROBE}), cache)
    ratios = compile_ratios(probed)
    lines = judge(batch.model_copy(update={"compile_ratios": ratios}), cache)
    messages = [message for _, message in lines]
    before, seconds = seconds_of(lines)
    bye = next(message for message in messages if isinstance(message, Bye))
    results = [message for message in messages if isinstance(message, Result)]
    stages = sorted({stage for result in results for stage in result.walls})
    means = {stage: round(mean(r.walls.get(stage, 0.0) for r in results), 3) for stage in stages}
    cases = sorted({case.case for result in results for case in result.cases})
    timed = {name: [case for r in results for case in r.cases if case.case == name] for name in cases}
    return {
        "candidates": len(results),
        "verdicts": sorted({str(result.verdict) for result in results}),
        "seconds_per_candidate": round(seconds, 3),
        "seconds_by_stage": means,
        "cases": {
            name: {
                "eager_us": round(median(case.ns * (case.speedup_eager or 1.0) for case in found) / 1e3, 1),
                "candidate_us": round(median(case.ns for case in found) / 1e3, 1),
                "compile_over_eager": round(ratios[name], 3),
                "blocks": round(mean(case.samples for case in found), 1),
                "half_width_percent": round(50 * median(math.log(case.high / case.low) for case in found), 2),
            }
            for name, found in timed.items()
        },
        "seconds_of_the_probe": round(probed[-1][0], 2),
        "seconds_of_the_batch": round(lines[-1][0], 2),
        "seconds_before_the_first_candidate": round(before, 2),
        "seconds_the_judge_counts": round(bye.device_seconds, 2),
    }, messages


def build_with_load_inline(folder: Path, messages: list[Message], batch: Batch) -> float:
    """Seconds for the first candidate's source, the header included, as a torch extension."""
    header = [piece for piece in messages if isinstance(piece, Artifact) and piece.name == "problem.h"]
    (folder / "problem.h").write_bytes(from_artifacts(header))
    (folder / "kernel.cpp").write_text(batch.candidates[0].files[0].content)
    command = [sys.executable, "-c", LOAD_INLINE, str(folder), batch.toolchain.arch]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "PATH": path})
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    moves_kernel = re.search(r"```cpp\n(.*?)```", MOVES_KERNEL.read_text(), re.DOTALL)
    assert moves_kernel is not None
    batches = {
        "gelu_rowsum, two cases: computes": batch_of(COMPUTES),
        "rmsnorm with residual, two cases: moves memory": batch_of(MOVES, moves_kernel[1]),
        "rmsnorm with residual, one case of several ms: moves memory": batch_of(MOVES, moves_kernel[1], [LONG]),
    }
    problems: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for problem, batch in batches.items():
            problems[problem], messages = measure(batch, folder / "cache")
        built = build_with_load_inline(folder, messages, batch)
    hello = next(message for message in messages if isinstance(message, Hello))
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": hello.device,
        "versions": hello.versions | {"python": platform.python_version()},
        "problems": problems,
        "seconds_of_load_inline_for_one_kernel": round(built, 2),
    }
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

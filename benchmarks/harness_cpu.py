"""What judging costs on this CPU: seconds of a candidate by stage in a batch of 16, and what every batch pays once.

    python benchmarks/harness_cpu.py        # some minutes; prints and writes benchmarks/results/harness_cpu.json

Sixteen variants of one C++ kernel (the seed of examples/tune-only.yaml with its tunables changed, so that no two
binaries are alike) go through the real judge, and the same source is built once by torch's load_inline for comparison,
in the same run. Nothing else may run beside it. load_inline needs ninja on the PATH.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from kernelharness.protocol import Artifact, Batch, Bye, Candidate, File, Hello, Result, from_artifacts, parse_log
from kernelsearch.api.documents import load_documents
from kernelsearch.api.profiles import packaged_profiles
from kernelsearch.api.translate import to_hardware, to_protocol_problem, to_toolchain
from kernelsearch.search.edits import find_tunables, set_tunables

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "tune-only.yaml"
RESULT = ROOT / "benchmarks" / "results" / "harness_cpu.json"
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


def judge(batch: Batch, folder: Path) -> tuple[list[object], float]:
    path = folder / "batch.json"
    path.write_text(batch.to_json())
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "kernelharness", "judge", "--batch", str(path), "--cache", str(folder / "cache")],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return list(parse_log(done.stdout)), time.monotonic() - begin


def build_with_load_inline(folder: Path, messages: list[object], batch: Batch) -> float:
    """Seconds for the first candidate's source, the header included, as a torch extension."""
    header = [piece for piece in messages if isinstance(piece, Artifact) and piece.name == "problem.h"]
    (folder / "problem.h").write_bytes(from_artifacts(header))
    (folder / "kernel.cpp").write_text(batch.candidates[0].files[0].content)
    command = [sys.executable, "-c", LOAD_INLINE, str(folder), batch.toolchain.arch]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "PATH": path})
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    documents = load_documents(EXAMPLE)
    spec = documents.search.spec
    profile = packaged_profiles()[spec.targets[0].profile]
    batch = Batch(
        id="benchmark",
        problem=to_protocol_problem(spec.problem, documents.problem_files()),
        toolchain=to_toolchain(profile, "cpp"),
        hardware=to_hardware(profile),
        candidates=[
            Candidate(id=f"v{number}", files=[File(path="kernel.cpp", content=source)])
            for number, source in enumerate(variants(spec.problem.seeds[0].content))
        ],
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, cold = judge(batch.model_copy(update={"candidates": []}), folder)
        messages, wall = judge(batch, folder)
        built = build_with_load_inline(folder, messages, batch)
    hello = next(message for message in messages if isinstance(message, Hello))
    bye = next(message for message in messages if isinstance(message, Bye))
    results = [message for message in messages if isinstance(message, Result)]
    stages = sorted({stage for result in results for stage in result.walls})
    means = {stage: round(sum(r.walls.get(stage, 0.0) for r in results) / len(results), 3) for stage in stages}
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": hello.device,
        "versions": hello.versions | {"python": platform.python_version()},
        "problem": "gelu_rowsum, two cases",
        "candidates": len(results),
        "verdicts": sorted({str(result.verdict) for result in results}),
        "seconds_per_candidate": means,
        "seconds_of_the_batch": round(wall, 2),
        "seconds_per_batch_beside_its_candidates": round(wall - means["total"] * len(results), 2),
        "seconds_of_the_first_batch_of_a_problem_without_candidates": round(cold, 2),
        "seconds_the_judge_counts": round(bye.device_seconds, 2),
        "seconds_of_load_inline_for_one_kernel": round(built, 2),
    }
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

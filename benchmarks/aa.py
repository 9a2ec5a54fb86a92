"""A/A: the reference as its own candidate. How often does the interval hold 1, and how wide is it?

    python benchmarks/aa.py cpu|gpu [--judges 2] [--each 20] [--json FILE] [--only NAME ...]

Five problems for each device, `judges` processes for each problem, `each` candidates in each: 200 runs as it stands.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from kernelharness.protocol import (
    Batch,
    Candidate,
    Case,
    File,
    Hello,
    Problem,
    Purpose,
    Result,
    Tolerance,
    Toolchain,
    parse_log,
)

TESTS = Path(__file__).resolve().parent.parent / "tests"
FOLDERS = {"cpu": TESTS / "harness" / "problems", "gpu": TESTS / "gpu" / "problems"}
PROBLEMS = {
    "cpu": ("matmul", "scaled_rows", "conv2d_fused", "layer_norm", "log_sum_exp"),
    "gpu": ("matmul", "rmsnorm", "softmax", "convolution", "attention"),
}
TARGETS = {"cpu": ("x86-64-v3", "cpu"), "gpu": ("sm_90a", "nvidia")}


def run(device: str, name: str, each: int, purpose: Purpose) -> tuple[Hello, list[dict[str, object]]]:
    """One judge. Raise RuntimeError when it fails, or calls the reference wrong."""
    source = (FOLDERS[device] / f"{name}.py").read_text()
    own = source.replace("class Model(", "class ModelNew(").replace("super(Model,", "super(ModelNew,")
    arch, vendor = TARGETS[device]
    batch = Batch(
        id=f"aa-{name}",
        purpose=purpose,
        problem=Problem(
            files=[File(path="reference.py", content=source)],
            cases=[Case(name="default")],
            tolerance=Tolerance(seeds=2),
        ),
        toolchain=Toolchain(language="pytorch", arch=arch, vendor=vendor, run_timeout_seconds=20),
        # Equal sources are judged once, so each copy says something else.
        candidates=[
            Candidate(id=f"copy-{index}", files=[File(path="kernel.py", content=f"{own}\n# {index}\n")])
            for index in range(each)
        ],
    )
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "kernelharness", "judge", "--batch", "-", "--torch-compile", "never"]
        done = subprocess.run(command, input=batch.to_json(), capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise RuntimeError(f"{name}: exit code {done.returncode}: {done.stderr[-2000:]}")
    messages = parse_log(done.stdout)
    results = [message for message in messages if isinstance(message, Result)]
    if len(results) != each or any(not result.cases for result in results):
        raise RuntimeError(f"{name}: {messages[1]}, {[(r.verdict, r.summary) for r in results if not r.cases]}")
    return next(message for message in messages if isinstance(message, Hello)), [_row(name, each) for each in results]


def _row(name: str, result: Result) -> dict[str, object]:
    assert result.low is not None
    assert result.high is not None
    assert result.speedup is not None
    return {
        "problem": name,
        "us": result.cases[0].ns / 1e3,
        "speedup": result.speedup,
        "low": result.low,
        "high": result.high,
        "covers": result.low <= 1 <= result.high,
        "half_width_percent": 50 * (result.high - result.low) / result.speedup,
        "blocks": result.cases[0].samples,
        "seconds": result.walls["total"],
        "flags": result.flags,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("device", choices=PROBLEMS)
    parser.add_argument("--judges", type=int, default=2)
    parser.add_argument("--each", type=int, default=20)
    parser.add_argument("--purpose", choices=("search", "confirm"), default="search")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    for name in options.only or PROBLEMS[options.device]:
        for _ in range(options.judges):
            hello, some = run(options.device, name, options.each, Purpose(options.purpose))
            rows += some
            print(_line(name, some), flush=True)
            if options.json:
                about = {"device": hello.device, "driver": hello.driver, "versions": hello.versions}
                when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                report = {"date": when, **about, "purpose": options.purpose, "summary": _summary(rows), "runs": rows}
                options.json.write_text(json.dumps(report, indent=1))
    print(_line("all", rows))
    return 0


def _summary(rows: list[dict[str, object]]) -> dict[str, object]:
    widths = sorted(float(str(row["half_width_percent"])) for row in rows)
    covered = sum(bool(row["covers"]) for row in rows)
    return {
        "runs": len(rows),
        "covered": covered,
        "covered_percent": round(100 * covered / len(rows), 1),
        "half_width_percent_median": round(median(widths), 3),
        "half_width_percent_p90": round(widths[int(0.9 * (len(widths) - 1))], 3),
        "seconds_median": round(median(float(str(row["seconds"])) for row in rows), 2),
    }


def _line(name: str, rows: list[dict[str, object]]) -> str:
    found = _summary(rows)
    means = sum(float(str(row["speedup"])) for row in rows) / len(rows)
    return f"{name:14} mean {means:.4f} {found}"


if __name__ == "__main__":
    sys.exit(main())

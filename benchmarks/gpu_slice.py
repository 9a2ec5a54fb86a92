"""Every GPU candidate of the adversarial suite through the real judge, and eager against itself, on this machine.

    python benchmarks/gpu_slice.py [--json FILE] [--logs FOLDER] [--only NAME ...] [--again N]

Prints a short table last. Exit code 1 when a cheat was accepted or an honest candidate rejected.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "harness" / "adversarial"))

import suite
from kernelharness.protocol import Baseline, Batch, Hello, Message, ProblemFact, Result, parse_line


def judge(batch: Batch, logs: Path, name: str, arguments: tuple[str, ...] = ()) -> tuple[list[Message], float]:
    """One run of the judge's command line; its messages and wall seconds. Raise RuntimeError when it wrote nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "batch.json"
        path.write_text(batch.to_json())
        command = [sys.executable, "-m", "kernelharness", "judge", "--batch", str(path), "--torch-compile", "never"]
        begin = time.monotonic()
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, cwd=folder)
        wall = time.monotonic() - begin
    (logs / f"{name}.log").write_text(f"{done.stdout}\n--- exit {done.returncode}, {wall:.1f} s\n{done.stderr}")
    messages = [parse_line(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not messages:
        print(f"{name}: exit {done.returncode}\n{done.stderr[-3000:]}", flush=True)
    return messages, wall


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--logs", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--only", nargs="*", default=[], help="names, or parts of names, of candidates")
    parser.add_argument("--again", type=int, default=0, help="how many A/A runs: eager as the candidate")
    options = parser.parse_args()
    chosen = [e for e in suite.entries("gpu") if not options.only or any(part in e.name for part in options.only)]
    rows: list[dict[str, object]] = []
    facts: dict[str, object] = {}
    for (problem, language), group in suite.groups(chosen).items():
        name = f"{problem}-{language}"
        messages, wall = judge(
            suite.batch("gpu", problem, language, [e.candidate() for e in group]), options.logs, name
        )
        results = {message.candidate: message for message in messages if isinstance(message, Result)}
        facts |= _facts(messages, name, wall)
        rows += [_row(entry, results.get(entry.name)) for entry in group]
    again = [_again(options.logs, number) for number in range(options.again)]
    report = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **facts,
        "candidates": rows,
        "again": [row for rows_of_run in again for row in rows_of_run],
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    _print(report)
    return int(any(not row["right"] for row in rows))


def _facts(messages: list[Message], name: str, wall: float) -> dict[str, object]:
    found: dict[str, object] = {f"{name} wall_seconds": round(wall, 2)}
    for message in messages:
        if isinstance(message, Hello):
            found |= {"device": message.device, "driver": message.driver, "versions": message.versions}
            found["isolation"] = message.isolation
        elif isinstance(message, ProblemFact):
            found[f"{name} problem"] = message.verdict if message.verdict != "OK" else "OK"
            if message.reason:
                found[f"{name} reason"] = message.reason
        elif isinstance(message, Baseline) and message.ns is not None:
            found[f"{name} {message.arm} us"] = round(message.ns / 1e3, 2)
            found[f"{name} {message.arm} noise_percent"] = message.noise_percent
    return found


def _row(entry: suite.Entry, result: Result | None) -> dict[str, object]:
    verdict = result.verdict.value if result else "MISSING"
    row: dict[str, object] = {
        "name": entry.name,
        "problem": entry.problem,
        "language": entry.language,
        "honest": entry.is_honest,
        "expected": sorted(entry.expect),
        "verdict": verdict,
        "right": verdict in entry.expect,
    }
    if result:
        row |= {"stage": result.stage, "summary": result.summary, "walls": result.walls, "flags": result.flags}
        if result.speedup is not None:
            case = result.cases[0]
            row |= {"us": case.ns / 1e3, "speedup": result.speedup, "low": result.low, "high": result.high}
            row |= {"resources": result.resources, "percent_of_bound": case.percent_of_bound}
    return row


def _again(logs: Path, number: int) -> list[dict[str, object]]:
    """Eager as the candidate: the interval should hold 1."""
    rows: list[dict[str, object]] = []
    for entry in suite.entries("gpu"):
        if entry.name.endswith("_eager"):
            # Equal sources are judged once, so each copy says something else.
            copies = [
                entry.candidate().model_copy(
                    update={
                        "id": f"{entry.name}-{number}-{index}",
                        "files": [
                            f.model_copy(update={"content": f"{f.content}\n# {index}\n"})
                            for f in entry.candidate().files
                        ],
                    }
                )
                for index in range(8)
            ]
            batch = suite.batch("gpu", entry.problem, entry.language, copies)
            messages, _ = judge(batch, logs, f"again-{entry.name}-{number}")
            for message in messages:
                if isinstance(message, Result):
                    low, high = message.low or math.nan, message.high or math.nan
                    rows.append(
                        {
                            "problem": entry.problem,
                            "verdict": message.verdict,
                            "speedup": message.speedup,
                            "low": message.low,
                            "high": message.high,
                            "covers": low <= 1 <= high,
                            "half_width_percent": 50 * (high - low),
                            "samples": message.cases[0].samples if message.cases else 0,
                        }
                    )
    return rows


def _print(report: dict[str, object]) -> None:
    for key, value in report.items():
        if key not in ("candidates", "again"):
            print(f"{key}: {value}")
    candidates, again = report["candidates"], report["again"]
    assert isinstance(candidates, list)
    assert isinstance(again, list)
    for row in candidates:
        speed = f"{row['us']:.1f} us {row['speedup']:.3f}x [{row['low']:.3f} {row['high']:.3f}]" if "us" in row else ""
        mark = "ok " if row["right"] else "BAD"
        walls = row.get("walls", {})
        print(f"{mark} {row['name']:28} {row['verdict']:16} {speed or row.get('summary', '')!s:.90} {walls}")
    if again:
        covered = sum(bool(row["covers"]) for row in again)
        widths = sorted(row["half_width_percent"] for row in again)
        print(f"A/A: {covered} of {len(again)} intervals hold 1; median half-width {widths[len(widths) // 2]:.2f} %")
    wrong = [row["name"] for row in candidates if not row["right"]]
    print(f"{len(candidates)} candidates, {len(wrong)} judged wrongly: {', '.join(map(str, wrong)) or 'none'}")


if __name__ == "__main__":
    sys.exit(main())

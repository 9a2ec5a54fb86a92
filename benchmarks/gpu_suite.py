"""Every GPU candidate of the adversarial suite through the real judge on this machine, counted by the design's numbers.

    python benchmarks/gpu_suite.py [--json FILE] [--logs FOLDER] [--only NAME ...]
    python benchmarks/gpu_suite.py --read FILE [--kernelbench FILE] [--json FILE] [--table FILE]

The second form judges nothing: it takes what the first one wrote, adds KernelBench's column (kernelbench_column.py) and
writes a table. Prints a summary last. Exit code 1 when a cheat was accepted, an honest candidate rejected, or a file
got another verdict than it asks for.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "harness" / "adversarial"))

import suite
from kernelharness.languages.base import get_language
from kernelharness.protocol import Baseline, Batch, Hello, Message, ProblemFact, Result, parse_line

Row = dict[str, Any]
DRIFT = 1.05
"""What one and the same kernel may differ by when one judge judges it twice, a minute apart."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--logs", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--only", nargs="*", default=[], help="names, or parts of names, of candidates")
    parser.add_argument("--read", type=Path, help="take these results instead of judging")
    parser.add_argument("--kernelbench", type=Path, help="what kernelbench_column.py wrote")
    parser.add_argument("--table", type=Path, help="write a table in markdown here")
    options = parser.parse_args()
    options.logs.mkdir(parents=True, exist_ok=True)
    report = json.loads(options.read.read_text()) if options.read else judge_all(options.only, options.logs)
    if options.kernelbench:
        add_kernelbench(report, json.loads(options.kernelbench.read_text()))
    report["summary"] = summary(report["candidates"])
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.table:
        options.table.write_text(table(report))
    show(report)
    return int(any(not row["right"] for row in report["candidates"]))


# -- judging -----------------------------------------------------------------------------------------------------------


def judge_all(only: list[str], logs: Path) -> dict[str, Any]:
    """One judge for each problem and language; all that they said, and a row for each candidate."""
    chosen = [e for e in suite.entries("gpu") if not only or any(part in e.name for part in only)]
    rows: list[Row] = []
    facts: dict[str, Any] = {}
    begin = time.monotonic()
    for (problem, language), group in suite.groups(chosen).items():
        name = f"{problem}-{language}"
        batch = suite.batch("gpu", problem, language, [entry.candidate() for entry in group])
        if lacks := get_language(language).missing(batch.toolchain):
            facts[f"{name} not judged"] = lacks
            print(f"{name}: not judged: {lacks}", flush=True)
            continue
        messages, wall = judge(batch, logs, name)
        facts |= _facts(messages, name, wall)
        refused = next((m.verdict.value for m in messages if isinstance(m, ProblemFact) and m.verdict != "OK"), None)
        results = {message.candidate: message for message in messages if isinstance(message, Result)}
        rows += _compared([_row(entry, results.get(entry.name), refused) for entry in group])
    facts["wall_seconds"] = round(time.monotonic() - begin, 1)
    return {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), **facts, "candidates": rows}


def judge(batch: Batch, logs: Path, name: str) -> tuple[list[Message], float]:
    """One run of the judge's command line; its messages and wall seconds. What it said is kept under `logs`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "batch.json"
        path.write_text(batch.to_json())
        command = [sys.executable, "-m", "kernelharness", "judge", "--batch", str(path), "--torch-compile", "never"]
        begin = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        wall = time.monotonic() - begin
    (logs / f"{name}.log").write_text(f"{done.stdout}\n--- exit {done.returncode}, {wall:.1f} s\n{done.stderr}")
    messages = [parse_line(line) for line in done.stdout.splitlines() if line.startswith("{")]
    print(f"{name}: exit {done.returncode} after {wall:.0f} s", flush=True)
    if done.returncode or not messages:
        print(done.stderr[-3000:], flush=True)
    return messages, wall


def _facts(messages: list[Message], name: str, wall: float) -> dict[str, Any]:
    found: dict[str, Any] = {f"{name} wall_seconds": round(wall, 2)}
    for message in messages:
        if isinstance(message, Hello):
            found |= {"device": message.device, "driver": message.driver, "versions": message.versions}
            found["isolation"] = message.isolation
        elif isinstance(message, ProblemFact):
            found[f"{name} problem"] = message.verdict.value
            if message.reason:
                found[f"{name} reason"] = message.reason
        elif isinstance(message, Baseline) and message.ns is not None:
            found[f"{name} {message.arm} us"] = round(message.ns / 1e3, 2)
            found[f"{name} {message.arm} noise_percent"] = message.noise_percent
    return found


def _row(entry: suite.Entry, result: Result | None, refused: str | None) -> Row:
    """`refused`: the verdict on the problem when no candidate of it is judged."""
    verdict = refused or (result.verdict.value if result else "MISSING")
    row: Row = {
        "id": f"{entry.problem}/{entry.id}",
        "name": entry.name,
        "numbers": sorted(entry.numbers),
        "honest": entry.is_honest,
        "expected": sorted(entry.expect),
        "no_gain_over": f"{entry.problem}/{entry.language}-{entry.no_gain_over}" if entry.no_gain_over else "",
        "verdict": verdict,
    }
    if result:
        row |= {"stage": result.stage, "summary": result.summary, "walls": result.walls, "flags": result.flags}
        if result.speedup is not None:
            case = result.cases[0]
            row |= {"us": case.ns / 1e3, "speedup": result.speedup, "low": result.low, "high": result.high}
            row |= {"resources": result.resources, "percent_of_bound": case.percent_of_bound}
    return row


def _compared(rows: list[Row]) -> list[Row]:
    """Say of each row whether it was accepted, and whether that is right; honest twins are in the same group."""
    by_id = {row["id"]: row for row in rows}
    for row in rows:
        row["accepted"] = row["verdict"] == "OK"
        if row["accepted"] and row["no_gain_over"]:
            honest = by_id.get(row["no_gain_over"], {}).get("high")
            # Right values are no crime: what is accepted is a gain that there is not.
            row["accepted"] = honest is None or row["low"] > DRIFT * honest
        wanted = row["verdict"] in row["expected"]
        row["right"] = wanted and row["accepted"] == row["honest"]
    return rows


# -- telling -----------------------------------------------------------------------------------------------------------


def add_kernelbench(report: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Put KernelBench's verdict into each row that it judged."""
    columns = {row["id"]: row for row in theirs["candidates"]}
    report["kernelbench_date"], report["kernelbench_device"] = theirs["date"], theirs["device"]
    for row in report["candidates"]:
        if (found := columns.get(row["id"])) is not None:
            row["kernelbench"] = found["column"]
            row["kernelbench_fooled"] = found["fooled"]


def summary(rows: list[Row]) -> dict[str, Any]:
    """By number of the design's lists: a cheat counts as accepted, an oddity as rejected, when one of its files was."""
    cheats = [row for row in rows if not row["honest"]]
    honest = [row for row in rows if row["honest"]]
    found: dict[str, Any] = {
        "cheats": len(_numbers(cheats)),
        "cheats accepted": sorted(_numbers(row for row in cheats if row["accepted"])),
        "honest": len(_numbers(honest)),
        "honest rejected": sorted(_numbers(row for row in honest if not row["accepted"])),
        "files": len(rows),
        "files judged wrongly": [row["id"] for row in rows if not row["right"]],
    }
    if any("kernelbench" in row for row in rows):
        found["cheats accepted by KernelBench"] = sorted(_numbers(r for r in cheats if r.get("kernelbench_fooled")))
        found["honest rejected by KernelBench"] = sorted(_numbers(r for r in honest if r.get("kernelbench_fooled")))
        ended = [row for row in cheats if row.get("kernelbench", "").startswith("crashed")]
        found["cheats that ended KernelBench's process"] = sorted(_numbers(ended))
    return found


def _numbers(rows: Any) -> set[int]:
    return {number for row in rows for number in row["numbers"]}


def sentences(found: dict[str, Any]) -> list[str]:
    """The summary for people."""
    accepted, rejected = len(found["cheats accepted"]), len(found["honest rejected"])
    told = [
        f"this judge: {accepted} of {found['cheats']} cheats accepted, {rejected} of {found['honest']} honest rejected"
    ]
    if "cheats accepted by KernelBench" in found:
        counts = [len(found[f"{kind} by KernelBench"]) for kind in ("cheats accepted", "honest rejected")]
        ended = len(found["cheats that ended KernelBench's process"])
        told.append(
            f"KernelBench: {counts[0]} of {found['cheats']} cheats accepted (and {ended} gave no result), "
            f"{counts[1]} of {found['honest']} honest rejected"
        )
    return told


def table(report: dict[str, Any]) -> str:
    """Markdown: a line for each file, in the order of the lists; in bold what a judge got wrong."""
    rows = sorted(report["candidates"], key=lambda row: (row["honest"], row["numbers"] or [99], row["id"]))
    lines = [
        "# The adversarial suite on a GPU",
        "",
        "Every file of tests/harness/adversarial that is for a GPU, by the numbers of the lists of cheats and of",
        "honest oddities; benchmarks/gpu_suite.py and benchmarks/kernelbench_column.py judge them again.",
        f"On one {report['device']}, {report['date'][:10]}. A cheat whose values are right is accepted only if it",
        "seems faster than the honest kernel that it says it does not beat; bold is what a judge got wrong.",
        *_theirs(report),
        "",
        *(f"- {sentence}" for sentence in sentences(report["summary"])),
        "",
    ]
    for title, honest in (("cheat", False), ("honest, but odd", True)):
        lines += [f"| | {title} | expected | this judge | KernelBench |", "|---|---|---|---|---|"]
        lines += [_line(row) for row in rows if row["honest"] == honest]
        lines.append("")
    return "\n".join(lines)


def _theirs(report: dict[str, Any]) -> list[str]:
    """Where and when KernelBench judged, if it did."""
    if "kernelbench_device" not in report:
        return []
    return [f"KernelBench's column is of one {report['kernelbench_device']}, {report['kernelbench_date'][:10]}."]


def _line(row: Row) -> str:
    ours = row["verdict"] + (f" {row['speedup']:.2f}x" if "speedup" in row else "")
    theirs = row.get("kernelbench", "").replace("|", "/")
    cells = [
        ", ".join(map(str, row["numbers"])),
        row["id"],
        ", ".join(row["expected"]),
        ours if row["right"] else f"**{ours}**",
        f"**{theirs}**" if row.get("kernelbench_fooled") else theirs,
    ]
    return f"| {' | '.join(cells)} |"


def show(report: dict[str, Any]) -> None:
    for key, value in report.items():
        if key not in ("candidates", "summary"):
            print(f"{key}: {value}")
    for row in report["candidates"]:
        speed = f"{row['us']:.1f} us {row['speedup']:.3f}x [{row['low']:.3f} {row['high']:.3f}]" if "us" in row else ""
        mark = "ok " if row["right"] else "BAD"
        told = speed or row.get("summary", "")
        print(f"{mark} {row['id']:52} {row['verdict']:18} {told:.90} {row.get('kernelbench', '')}")
    found = report["summary"]
    print(f"{found['files']} files, judged wrongly: {', '.join(found['files judged wrongly']) or 'none'}")
    print("\n".join(sentences(found)))


if __name__ == "__main__":
    sys.exit(main())

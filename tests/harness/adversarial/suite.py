"""The candidates of the adversarial suite: what each file says of itself, and batches of them for a judge.

Each file begins with comments `expect: VERDICT | VERDICT`, `problem: NAME` and, for Python, `language: NAME`. A cheat
that is right, and hopes to seem fast, also says `no gain over: NAME`, an honest file beside it. Files whose names begin
with a number are of the design's list of cheats; `own_` are attacks on this very judge.
Neighbours: {cheats,honest}/{cpu,gpu} (the files), ../problems, ../../gpu/problems, ../test_adversarial.py,
../../gpu/test_suite.py, benchmarks/gpu_slice.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kernelharness.protocol import Batch, Candidate, Case, File, Problem, Purpose, Tolerance, Toolchain

HERE = Path(__file__).resolve().parent
PROBLEMS = {"cpu": HERE.parent / "problems", "gpu": HERE.parent.parent / "gpu" / "problems"}
TARGETS = {"cpu": ("x86-64-v3", "cpu"), "gpu": ("sm_90a", "nvidia")}
"""(arch, vendor) of a device."""
_NATIVE = {".cpp": "cpp", ".cu": "cuda"}
_SAID = re.compile(r"^(?://|#) (?P<key>expect|problem|language|no gain over): (?P<value>.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """One candidate file."""

    name: str
    suffix: str
    source: str
    expect: frozenset[str]
    """Verdicts, any of which is right."""
    device: str
    """cpu | gpu"""
    problem: str
    language: str
    no_gain_over: str
    """The entry of the same problem and language that it must not be faster than; empty when it is not timed."""
    is_honest: bool

    @property
    def id(self) -> str:
        return f"{self.language}-{self.name}"

    def candidate(self) -> Candidate:
        return Candidate(id=self.name, files=[File(path=f"kernel{self.suffix}", content=self.source)])


def entries(device: str) -> list[Entry]:
    """All files for a device, cheats first."""
    paths = [path for folder in ("cheats", "honest") for path in sorted((HERE / folder / device).iterdir())]
    return [_entry(path, device) for path in paths if path.suffix in (*_NATIVE, ".py")]


def groups(chosen: Iterable[Entry]) -> dict[tuple[str, str], list[Entry]]:
    """By problem and language: what one judge can judge together."""
    grouped: dict[tuple[str, str], list[Entry]] = {}
    for entry in chosen:
        grouped.setdefault((entry.problem, entry.language), []).append(entry)
    return grouped


def batch(
    device: str,
    problem: str,
    language: str,
    candidates: list[Candidate],
    *,
    purpose: Purpose = Purpose.SEARCH,
    cases: list[Case] | None = None,
    seeds: int = 5,
    run_timeout_seconds: int = 5,
) -> Batch:
    source = (PROBLEMS[device] / f"{problem}.py").read_text()
    arch, vendor = TARGETS[device]
    return Batch(
        id=f"{problem}-{language}",
        purpose=purpose,
        problem=Problem(
            files=[File(path="reference.py", content=source)], cases=cases or [], tolerance=Tolerance(seeds=seeds)
        ),
        toolchain=Toolchain(language=language, arch=arch, vendor=vendor, run_timeout_seconds=run_timeout_seconds),
        candidates=candidates,
    )


def _entry(path: Path, device: str) -> Entry:
    source = path.read_text()
    said = {match["key"]: match["value"].strip() for match in _SAID.finditer(source)}
    language = said.get("language", _NATIVE.get(path.suffix, ""))
    if not language or "expect" not in said or "problem" not in said:
        raise ValueError(f"{path}: the first lines must say expect, problem and, for Python, language")
    expect = frozenset(word.strip() for word in said["expect"].split("|"))
    is_honest = path.parent.parent.name == "honest"
    gain = said.get("no gain over", "")
    return Entry(path.stem, path.suffix, source, expect, device, said["problem"], language, gain, is_honest)

"""The GPU candidates of the adversarial suite: what each file says of itself, and batches of them for a judge.

Each file begins with comments `expect: VERDICT | VERDICT`, `problem: NAME` and, for Python, `language: NAME`.
Neighbours: cheats/gpu, honest/gpu (the files), ../../gpu/problems, ../../gpu/test_suite.py, benchmarks/gpu_slice.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kernelharness.protocol import Batch, Candidate, Case, File, Problem, Purpose, Tolerance, Toolchain

HERE = Path(__file__).resolve().parent
PROBLEMS = HERE.parent.parent / "gpu" / "problems"
ARCH = "sm_90a"
_SAID = re.compile(r"^(?://|#) (?P<key>expect|problem|language): (?P<value>.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """One candidate file."""

    name: str
    source: str
    expect: frozenset[str]
    """Verdicts, any of which is right."""
    problem: str
    language: str

    @property
    def is_honest(self) -> bool:
        return self.expect == {"OK"}

    def candidate(self) -> Candidate:
        suffix = ".cu" if self.language == "cuda" else ".py"
        return Candidate(id=self.name, files=[File(path=f"kernel{suffix}", content=self.source)])


def entries() -> list[Entry]:
    """All files, cheats first."""
    paths = [path for folder in ("cheats", "honest") for path in sorted((HERE / folder / "gpu").iterdir())]
    return [_entry(path) for path in paths if path.suffix in (".cu", ".py")]


def groups(chosen: Iterable[Entry]) -> dict[tuple[str, str], list[Entry]]:
    """By problem and language: what one judge can judge together."""
    grouped: dict[tuple[str, str], list[Entry]] = {}
    for entry in chosen:
        grouped.setdefault((entry.problem, entry.language), []).append(entry)
    return grouped


def batch(
    problem: str,
    language: str,
    candidates: list[Candidate],
    *,
    purpose: Purpose = Purpose.SEARCH,
    cases: list[Case] | None = None,
    seeds: int = 5,
) -> Batch:
    source = (PROBLEMS / f"{problem}.py").read_text()
    return Batch(
        id=f"{problem}-{language}",
        purpose=purpose,
        problem=Problem(
            files=[File(path="reference.py", content=source)], cases=cases or [], tolerance=Tolerance(seeds=seeds)
        ),
        toolchain=Toolchain(language=language, arch=ARCH, vendor="nvidia", run_timeout_seconds=5),
        candidates=candidates,
    )


def _entry(path: Path) -> Entry:
    source = path.read_text()
    said = {match["key"]: match["value"].strip() for match in _SAID.finditer(source)}
    language = said.get("language", "cuda" if path.suffix == ".cu" else "")
    if not language or "expect" not in said or "problem" not in said:
        raise ValueError(f"{path}: the first lines must say expect, problem and, for Python, language")
    expect = frozenset(word.strip() for word in said["expect"].split("|"))
    return Entry(path.stem, source, expect, said["problem"], language)

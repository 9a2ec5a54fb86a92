"""The candidates of the adversarial suite: what each file says of itself, and batches of them for a judge.

Each file begins with comments `expect: VERDICT | VERDICT`, `problem: NAME` and, for Python, `language: NAME`. A cheat
that is right, and hopes to seem fast, also says `no gain over: NAME`, an honest file beside it. A file is for the
device of its folder, unless it says `devices: cpu, gpu`. Cheats whose names begin with a number are of the design's
list of 47, `own_` are attacks on this very judge; an honest file says `item: N, N` of the list of 14 (`HONEST`).
Neighbours: {cheats,honest}/{cpu,gpu} (the files), ../problems, ../../gpu/problems, ../test_adversarial.py,
../../gpu/test_suite.py, benchmarks/gpu_suite.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kernelharness.protocol import Batch, Candidate, Case, File, Problem, Purpose, Tolerance, Toolchain

HERE = Path(__file__).resolve().parent
_SMALL, _LARGE = HERE.parent / "problems", HERE.parent.parent / "gpu" / "problems"
PROBLEMS = {"cpu": (_SMALL,), "gpu": (_LARGE, _SMALL)}
"""Where a device's problems are, in order of preference."""
TARGETS = {"cpu": ("x86-64-v3", "cpu"), "gpu": ("sm_90a", "nvidia")}
"""(arch, vendor) of a device."""
_NATIVE = {".cpp": "cpp", ".cu": "cuda"}
CHEATS = range(1, 48)
"""The numbers of the design's list of cheats."""
HONEST = {
    1: "joined side stream",
    2: "autotuned, kept per shape",
    3: "workspace allocated once",
    4: "output in another memory order",
    5: "in place on its own scratch",
    6: "correctly fed CUDA graph",
    7: "atomics",
    8: "weights packed at init",
    9: "expanded view",
    10: "infinities where the reference has them",
    11: "idle thread pool",
    12: "TF32 where the reference uses it",
    13: "more than ten times as fast, by algebra",
    14: "prints, catches, says Stream",
}
"""The design's list of what is odd and must be accepted."""
_SAID = re.compile(
    r"^(?://|#) (?P<key>expect|problem|language|no gain over|devices|item): (?P<value>.*)$", re.MULTILINE
)


@dataclass(frozen=True)
class Entry:
    """One candidate file."""

    name: str
    suffix: str
    source: str
    expect: frozenset[str]
    """Verdicts, any of which is right."""
    devices: frozenset[str]
    """Of cpu and gpu."""
    problem: str
    language: str
    no_gain_over: str
    """The entry of the same problem and language that it must not be faster than; empty when it is not timed."""
    is_honest: bool
    numbers: frozenset[int]
    """What it is of the list of its kind: `CHEATS` or `HONEST`; none when it is beside the list."""

    @property
    def id(self) -> str:
        return f"{self.language}-{self.name}"

    def candidate(self) -> Candidate:
        return Candidate(id=self.name, files=[File(path=f"kernel{self.suffix}", content=self.source)])


def entries(device: str) -> list[Entry]:
    """All files for a device, cheats first."""
    folders = [HERE / kind / home for kind in ("cheats", "honest") for home in TARGETS]
    paths = [path for folder in folders for path in sorted(folder.iterdir()) if path.suffix in (*_NATIVE, ".py")]
    return [entry for entry in map(_entry, paths) if device in entry.devices]


def groups(chosen: Iterable[Entry]) -> dict[tuple[str, str], list[Entry]]:
    """By problem and language: what one judge can judge together."""
    grouped: dict[tuple[str, str], list[Entry]] = {}
    for entry in chosen:
        grouped.setdefault((entry.problem, entry.language), []).append(entry)
    return grouped


def problem_source(device: str, problem: str) -> str:
    """The text of the problem file that this device's candidates are for."""
    found = (folder / f"{problem}.py" for folder in PROBLEMS[device])
    return next(path for path in found if path.exists()).read_text()


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
    source = problem_source(device, problem)
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


def _entry(path: Path) -> Entry:
    source = path.read_text()
    said = {match["key"]: match["value"].strip() for match in _SAID.finditer(source)}
    language = said.get("language", _NATIVE.get(path.suffix, ""))
    if not language or "expect" not in said or "problem" not in said:
        raise ValueError(f"{path}: the first lines must say expect, problem and, for Python, language")
    is_honest = path.parent.parent.name == "honest"
    number = path.stem.split("_")[0]
    numbers = said.get("item", "").split(",") if is_honest else [number]
    return Entry(
        name=path.stem,
        suffix=path.suffix,
        source=source,
        expect=frozenset(word.strip() for word in said["expect"].split("|")),
        devices=frozenset(word.strip() for word in said.get("devices", path.parent.name).split(",")),
        problem=said["problem"],
        language=language,
        no_gain_over=said.get("no gain over", ""),
        is_honest=is_honest,
        numbers=frozenset(int(word) for word in numbers if word.strip().isdigit())
        & set(HONEST if is_honest else CHEATS),
    )

"""What the model is told of its candidate: short, specific, and safe to put into a prompt or a terminal.

Every text leaves through `clean`: control characters stripped, at most 2 KiB, the middle cut. Texts that come from a
candidate or a compiler are quoted line by line, so that they cannot pass for the judge's own words. Pure functions.
Neighbours: compare.py (what differs), patterns.py (how), roofline.py (how fast it could be).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from textwrap import indent

from torch import Tensor

from kernelharness.compare import Comparison, places_inside
from kernelharness.languages.base import CompileError, MemoryFinding
from kernelharness.patterns import pattern_of
from kernelharness.protocol import CaseFact, CaseResult, Stage, Verdict
from kernelharness.roofline import Bound

MODEL_BYTES = 2 * 1024
SHOWN_ERRORS = 3
SOURCE_LINES = 5
QUOTED_BYTES = 1024
LOOK_BYTES = 600
NULL_BYTES = 1 << 16
NEAR_BYTES = 1 << 20
"""A stray access this close to a tensor was meant for it."""

_CONTROL = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]"  # terminal escapes
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
    r"|[\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"  # invisible, or turning text around
)

_ASKED = re.compile(
    r"(?:tried to allocate|cannot allocate) (?P<number>\d{1,18}(?:\.\d{1,3})?) (?P<unit>bytes|KiB|MiB|GiB)",
    re.IGNORECASE,
)
_FREE = re.compile(r"of which (?P<number>\d{1,9}(?:\.\d{1,3})?) (?P<unit>bytes|KiB|MiB|GiB) is free")
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_DURING = {
    Stage.COMPILE: "while what it calls was compiled",
    Stage.LOAD: "while it was loaded",
    Stage.CORRECTNESS: "in its calls on the correctness sets",
    Stage.TIMING: "in its timed calls",
}
_ENTRY = re.compile(r"\b(?:forward|backward|init|state_size|saved_size)\b")
"""What a native candidate must, or may, define."""

_SENTENCES = {
    Verdict.OK: "Correct in every case.",
    Verdict.COMPILE_ERROR: "The source does not compile.",
    Verdict.LOAD_ERROR: "It compiles, but cannot be loaded.",
    Verdict.WRONG_SHAPE: "An output has the wrong shape.",
    Verdict.WRONG_DTYPE: "An output has the wrong dtype.",
    Verdict.WRONG_VALUES: "An output has wrong values.",
    Verdict.PRECISION: "Within the tolerance, but with too little precision: compute in the problem's dtype and "
    "accumulate in float32 or better.",
    Verdict.NONDETERMINISTIC: "The same inputs give different outputs: look for a race, uninitialised memory, or state "
    "that is kept between calls.",
    Verdict.INPUT_MUTATED: "It writes to its inputs or parameters: they are read-only, work on a copy.",
    Verdict.RUNTIME_ERROR: "It fails when called.",
    Verdict.MEMORY_FAULT: "It touches memory that is not its own: check indices and tails; sizes may be odd.",
    Verdict.TIMEOUT: "It does not return in time: look for an endless loop, a deadlock, or far too much work.",
    Verdict.OOM: "It runs out of memory: allocate less, use context.workspace() for scratch memory.",
    Verdict.LATE_OUTPUT: "Outputs still change after the call returned: finish all work before returning.",
    Verdict.BACKGROUND_WORK: "Work goes on after the call returned: finish all work before returning.",
    Verdict.TIMING_MISMATCH: "Its calls take another time when they are timed: do the same work in every call, and "
    "leave clocks and timers alone.",
    Verdict.IMPOSSIBLE_SPEED: "Faster than writing the outputs can be: the work is not done in the call.",
    Verdict.TAMPERING: "It reaches beyond its task (other processes, files, network, the judge): only compute.",
    Verdict.RESOURCE_ABUSE: "It uses resources that no kernel needs: do not print, do not start processes or threads "
    "without end.",
    Verdict.DEGENERATE_PROBLEM: "The problem itself says nothing about speed; no candidate can be judged.",
    Verdict.UNSUPPORTED_PROBLEM: "The problem cannot be judged in this language.",
    Verdict.NOISY_NODE: "The machine was too noisy to measure; it will be tried again. The kernel is not to blame.",
    Verdict.HARNESS_ERROR: "The harness failed; it will be tried again. The kernel is not to blame.",
    Verdict.COMPILED: "It compiles; whether it is right, and how fast, is not known.",
}


def clean(text: str, limit: int = MODEL_BYTES) -> str:
    """Printable text of at most `limit` bytes: no control, escape or direction characters, the middle cut out."""
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\t", "    ")).strip("\n").rstrip()
    raw = text.encode(errors="replace")
    if len(raw) <= limit:
        return raw.decode()
    mark = f"\n.. {len(raw) - limit} bytes more ..\n".encode()
    keep = limit - len(mark)
    head, tail = raw[: keep * 2 // 3], raw[len(raw) - (keep - keep * 2 // 3) :]
    return (head + mark + tail).decode(errors="ignore")


def quote(text: str, limit: int = QUOTED_BYTES) -> str:
    """Foreign text, each line marked as such."""
    return indent(clean(text, limit), "| ", lambda line: True)


def of_verdict(verdict: Verdict, case: str = "", detail: str = "", printed: str = "", said: str = "") -> str:
    """Any verdict: what it means, in which case, and the judge's `detail`.

    Then, quoted, what the candidate `printed`, and what its runner `said` of a failure, which may be anything too.
    """
    lines = [f"{verdict.value}{f' in case {case!r}' if case else ''}: {_SENTENCES[verdict]}"]
    if detail:
        lines.append(clean(detail, QUOTED_BYTES))
    if said.strip():
        lines += ["It said:", quote(said)]
    if printed.strip():
        lines += ["It printed:", quote(printed)]
    return clean("\n".join(lines))


def of_compile(
    errors: Sequence[CompileError], source: str, printed: str = "", declarations: Callable[[], str] = str
) -> str:
    """The first three errors with five source lines each; without any, what the compiler printed.

    `declarations`: what the candidate must define; told when an error speaks of one of these functions.
    """
    lines = [f"{Verdict.COMPILE_ERROR.value}: {_SENTENCES[Verdict.COMPILE_ERROR]}"]
    rows = source.splitlines()
    for number, error in enumerate(errors[:SHOWN_ERRORS], 1):
        place = f", line {error.line}" if error.line else ""
        lines.append(f"error {number} of {len(errors)}{place}: {clean(error.message, 300)}")
        if 1 <= error.line <= len(rows):
            first = max(1, min(error.line - SOURCE_LINES // 2, len(rows) - SOURCE_LINES + 1))
            for line in range(first, min(first + SOURCE_LINES, len(rows) + 1)):
                lines.append(f"{'>' if line == error.line else ' '}{line:4} | {clean(rows[line - 1], 120)}")
    if not errors:
        lines += ["The compiler printed:", quote(printed or "nothing")]
    text = clean("\n".join(lines))
    if any(_ENTRY.search(error.message) for error in errors[:SHOWN_ERRORS]):
        return with_declarations(text, declarations())
    return text


def with_declarations(text: str, declarations: str) -> str:
    """The text, then what the candidate must define; nothing more where there is no header."""
    if not declarations:
        return text
    told = clean(f"problem.h declares:\n{indent(clean(declarations, QUOTED_BYTES), '  ')}")
    return with_more(text, told)


def with_more(text: str, more: str) -> str:
    """Both within what a model is told, the second whole."""
    return clean(f"{clean(text, MODEL_BYTES - len(more.encode()) - 1)}\n{more}") if more else text


def of_values(name: str, case: str, found: Comparison, got: Tensor, want: Tensor, where: str = "") -> str:
    """WRONG_VALUES: how far off, how many, the first five places, non-finite and unwritten elements, the pattern."""
    share = 100.0 * found.bad / max(1, found.count)
    lines = [
        f"{found.verdict.value} in case {case!r}: output {name!r}{' ' + where if where else ''}: "
        f"{found.bad} of {found.count} elements are wrong ({share:.3g} %).",
        f"max abs error {found.max_abs:.4g}, max rel error {found.max_rel:.4g}; "
        f"allowed |got - want| <= {found.atol:.3g} + {found.rtol:.3g} |want|.",
    ]
    lines += [
        f"  {name}{list(place.index)}: got {_number(place.got)}, want {_number(place.want)}" for place in found.first
    ]
    if found.nan:
        lines.append(f"{found.nan} elements are NaN or infinite where the reference is finite.")
    if found.unwritten:
        lines.append(f"{found.unwritten} elements were never written.")
    if pattern := pattern_of(got, want, places_inside(found, got, want)):
        lines.append(f"pattern: {pattern}.")
    return clean("\n".join(lines))


def of_form(name: str, case: str, found: Comparison) -> str:
    """WRONG_SHAPE and WRONG_DTYPE."""
    return of_verdict(found.verdict, case, f"output {name!r}: {found.detail}")


def of_precision(name: str, case: str, found: Comparison) -> str:
    """PRECISION: rms error against float64, and what is allowed."""
    ratio = found.rms_error / found.rms_allowed if found.rms_allowed else float("inf")
    detail = (
        f"output {name!r}: rms error against float64 is {found.rms_error:.3g}, "
        f"allowed {found.rms_allowed:.3g} ({ratio:.1f} times as much)."
    )
    return of_verdict(found.verdict, case, detail)


def of_comparison(name: str, case: str, found: Comparison, got: Tensor, want: Tensor, where: str = "") -> str:
    """The text for whatever compare.py found."""
    if found.verdict in (Verdict.WRONG_SHAPE, Verdict.WRONG_DTYPE):
        return of_form(name, case, found)
    if found.verdict is Verdict.PRECISION:
        return of_precision(name, case, found)
    return of_values(name, case, found, got, want, where)


def of_look(tool: str, found: MemoryFinding | None, tensors: Sequence[tuple[str, int, int]], source: str) -> str:
    """What a memory checker saw. `tensors`: (name, address, bytes) of the call that it watched."""
    if found is None:
        return f"{tool} watched one call with made-up inputs and found no fault: it needs other inputs, or many calls."
    access = f": {found.access}" + (f" of {found.size} bytes" if found.size else "") if found.access else ""
    place = _place_of(found, tensors)
    lines = [f"{found.what}{access}" + (f" at 0x{found.address:x}" if found.address else "") + place]
    rows = source.splitlines()
    if found.function:
        at = f", line {found.line}: {rows[found.line - 1].strip()}" if 1 <= found.line <= len(rows) else ""
        lines.append(f"in {found.function}(){at}")
    if found.thread:
        lines.append(found.thread)
    return f"{tool} watched one call with made-up inputs:\n{quote(chr(10).join(lines), LOOK_BYTES)}"


def of_no_look(tool: str, why: str) -> str:
    """A memory checker that could not be asked."""
    return f"{tool} could not be asked: {clean(why, 200)}"


def _place_of(found: MemoryFinding, tensors: Sequence[tuple[str, int, int]]) -> str:
    """What the access missed, and by how much: the nearest tensor, or what the checker says of anything else."""
    if not found.address:
        return ""
    if found.address < NULL_BYTES:
        return ": a null pointer, or an index into one"
    missed = {name: (address, nbytes) for name, address, nbytes in tensors}
    distances = {
        name: max(address - found.address, found.address - (address + nbytes))
        for name, (address, nbytes) in missed.items()
    }
    name = min(distances, key=lambda each: distances[each], default="")
    if name and distances[name] <= NEAR_BYTES and not found.place.startswith("variable"):
        address, nbytes = missed[name]
        if address <= found.address < address + nbytes:
            return f": byte {found.address - address} of {name} ({nbytes} bytes)"
        if found.address < address:
            return f": {address - found.address} bytes before {name} ({nbytes} bytes)"
        return f": {found.address - address - nbytes} bytes behind the end of {name} ({nbytes} bytes)"
    return f": {found.place}" if found.place else ": far from every tensor of the call"


def only_later(text: str) -> str:
    """Add that the first call was right: something is kept between calls."""
    return clean(
        f"{text}\npattern: only later calls are wrong, the first one was right: something is kept between calls."
    )


def of_out_of_memory(case: str, said: str, limit: int, peak: int) -> str:
    """OOM: what was asked for, how much there was, and the peak, as far as they are known. Bytes, 0 where not."""
    known = (("asked for", _amount(_ASKED, said)), ("free", _amount(_FREE, said)), ("limit", limit), ("peak", peak))
    parts = [f"{name} {value / (1 << 20):.0f} MiB" for name, value in known if value]
    last = said.strip().splitlines()[-1:]
    return of_verdict(Verdict.OOM, case, f"{', '.join(parts)}." if parts else "", said="".join(last))


def _amount(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.search(text)
    return round(float(found["number"]) * _UNITS[found["unit"]]) if found else 0


def of_timeout(case: str, stage: Stage, doing: Sequence[str], printed: str = "") -> str:
    """TIMEOUT: at which stage, and what its threads were doing when its time was up."""
    text = of_verdict(Verdict.TIMEOUT, case, f"It gave no answer in time {_DURING[stage]}.", printed)
    if not doing:
        return text
    lines = "\n".join(doing)
    return with_more(text, f"When its time was up:\n{quote(lines, LOOK_BYTES)}")


def of_speed(results: Sequence[CaseResult], facts: Sequence[CaseFact], bounds: Sequence[Bound]) -> str:
    """OK: time and interval, speedup over both baselines, share of the bound, per case."""
    lines = [f"{Verdict.OK.value}: {_SENTENCES[Verdict.OK]}"]
    for result, fact, bound in zip(results, facts, bounds, strict=True):
        over = [f"{ratio:.2f}x {arm}" for arm, ratio in _ratios(result)]
        rate = _rate(1e9 * bound.gigabytes_per_second(result.ns), bound.bytes_per_second, "B/s")
        if bound.flops:
            rate += ", " + _rate(1e9 * bound.gigaflops(result.ns), bound.flops_per_second, "FLOP/s")
        sizes = ", ".join(f"{name}={value}" for name, value in fact.dims.items())
        lines.append(
            f"case {result.case!r}{f' ({sizes})' if sizes else ''}: {_duration(result.ns)} per call, "
            f"{' and '.join(over)} (interval {result.low:.2f} to {result.high:.2f} over {result.baseline})."
        )
        reached = f"{bound.percent(result.ns):.0f} % of it reached"
        lines.append(f"  {rate}; the {bound.kind} bound is {_duration(bound.t_min_ns)}: {reached}.")
    return clean("\n".join(lines))


def _rate(reached: float, ceiling: float, unit: str) -> str:
    """A rate, and its share of the measured ceiling."""
    prefix, size = ("T", 1e12) if reached >= 1e12 else ("G", 1e9)
    share = f" ({100 * reached / ceiling:.0f} % of the measured {ceiling / size:.3g})" if ceiling else ""
    return f"{reached / size:.3g} {prefix}{unit}{share}"


def _ratios(result: CaseResult) -> list[tuple[str, float]]:
    pairs = (("eager", result.speedup_eager), ("torch.compile", result.speedup_compile))
    return [(arm, ratio) for arm, ratio in pairs if ratio is not None] or [(result.baseline, result.speedup)]


def _number(value: float) -> str:
    return f"{value:.7g}"


def _duration(ns: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.4g} {unit}"
    return f"{ns:.0f} ns"

"""From the API's words to the judge's: problem, toolchain and hardware facts of a batch, and plain numbers.

Pure functions. Durations become seconds, money becomes integer micro-units, decimal strings become floats; whoever
reads a spec beyond this module meets no string that is really a number.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

from kernelharness.protocol import Case, File, Hardware, Problem, Tolerance, Toolchain

from kernelsearch.api.profile import AcceleratorProfileSpec
from kernelsearch.api.resources import AcceleratorProfile
from kernelsearch.api.search_spec import ProblemSpec

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_SUFFIXES = {"cpp": ".cpp", "cuda": ".cu", "hip": ".hip"}
_MONEY = re.compile(r"(\d+)(?:\.(\d{1,6}))?", re.ASCII)


class TranslateError(ValueError):
    """What the spec asks for does not fit what is there; the message says what to do."""


def parse_duration(text: str) -> int:
    """Seconds of "4h30m". Raise TranslateError for any other form and for zero."""
    match = _DURATION.fullmatch(text)
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    if not (total := 3600 * hours + 60 * minutes + seconds):
        raise TranslateError(f'{text!r} is not a duration above zero; write it like "4h30m"')
    return total


def to_micros(text: str) -> int:
    """Micro-units of a decimal string with at most six places: "3.00" -> 3000000. Raise TranslateError."""
    if not (match := _MONEY.fullmatch(text)):
        raise TranslateError(f'{text!r} is not an amount with at most six places; write it like "40.00"')
    whole, places = match.groups()
    return int(whole) * 1_000_000 + int((places or "").ljust(6, "0"))


def from_micros(micros: int) -> str:
    """The decimal string of micro-units, with at least two places: 3000000 -> "3.00"."""
    whole, places = divmod(micros, 1_000_000)
    fraction = f"{places:06d}"
    return f"{whole}.{fraction[:2]}{fraction[2:].rstrip('0')}"


def entry_file(problem: ProblemSpec, files: Mapping[str, str]) -> str:
    """Path of the reference: `file`, or the only file there is. Raise TranslateError, listing the files."""
    if problem.file in files:
        return problem.file
    if len(files) == 1:
        return next(iter(files))
    raise TranslateError(
        f"spec.problem.file is {problem.file}, but the source has {', '.join(sorted(files)) or 'no files'};"
        " set spec.problem.file to the one with Model, get_inputs and get_init_inputs"
    )


def to_protocol_problem(problem: ProblemSpec, files: Mapping[str, str]) -> Problem:
    """The problem as the judge reads it. `files` are the source's, path -> content, as they were read once."""
    tolerance = problem.tolerance
    return Problem(
        files=[File(path=path, content=files[path]) for path in sorted(files)],
        entry=entry_file(problem, files),
        cases=[
            Case(name=case.name, weight=case.weight, dims=dict(case.dims), dtype=case.dtype, backward=case.backward)
            for case in problem.cases
        ],
        tolerance=Tolerance(
            rtol=None if tolerance.rtol is None else float(tolerance.rtol),
            atol=None if tolerance.atol is None else float(tolerance.atol),
            max_mismatch_ppm=tolerance.max_mismatch_ppm,
            seeds=tolerance.seeds,
        ),
    )


def to_toolchain(profile: AcceleratorProfile, language: str) -> Toolchain:
    """How the judge compiles this language. Raise TranslateError when the profile has no such toolchain."""
    try:
        chosen = profile.spec.toolchain(language)
    except KeyError as error:
        raise TranslateError(f"profile {profile.metadata.name}: {error.args[0]}") from error
    return Toolchain(
        language=language,
        arch=profile.spec.arch,
        vendor=profile.spec.vendor,
        command=list(chosen.command),
        env=dict(chosen.env),
        file_suffix=chosen.file_suffix,
        compile_timeout_seconds=chosen.compile_timeout_seconds,
        run_timeout_seconds=chosen.run_timeout_seconds,
    )


def source_suffix(language: str, file_suffix: str | None = None) -> str:
    """Of a source file: `file_suffix`, the profile's own for this language, before what the language usually has."""
    return file_suffix or _SUFFIXES.get(language, ".py")


def suffix_of(profile: AcceleratorProfileSpec, language: str) -> str:
    """Of a source file in a language of this profile, also of one that the profile has lost meanwhile."""
    chains = profile.toolchains
    return source_suffix(language, next((chain.file_suffix for chain in chains if chain.language == language), None))


def to_hardware(profile: AcceleratorProfile) -> Hardware:
    """The facts that the judge's plausibility gate uses; unknown ones stay None."""
    facts = profile.spec.hardware
    if facts is None:
        return Hardware()
    return Hardware(
        memory_bytes=facts.memory_bytes,
        memory_bandwidth_bytes_per_second=facts.memory_bandwidth_bytes_per_second,
        peak_ops_per_second=dict(facts.peak_ops_per_second),
        l2_bytes=facts.l2_bytes,
    )


def hardware_facts(profile: AcceleratorProfile) -> dict[str, str]:
    """Facts for a prompt, in words and units a kernel writer uses, in a fixed order."""
    facts = profile.spec.hardware
    named: dict[str, str] = {"vendor": profile.spec.vendor, "architecture": profile.spec.arch}
    if profile.spec.display_name:
        named["device"] = profile.spec.display_name
    if facts is None:
        return named
    if facts.memory_bytes:
        named["memory"] = f"{facts.memory_bytes / 2**30:.4g} GiB"
    if facts.memory_bandwidth_bytes_per_second:
        named["memory bandwidth"] = f"{facts.memory_bandwidth_bytes_per_second / 1e9:.4g} GB/s"
    for dtype, rate in sorted(facts.peak_ops_per_second.items()):
        named[f"peak {dtype}"] = f"{rate / 1e12:.4g} {'TOP/s' if dtype.startswith('int') else 'TFLOP/s'}"
    if facts.compute_units:
        named["compute units"] = str(facts.compute_units)
    if facts.warp_size:
        named["warp size"] = str(facts.warp_size)
    if facts.shared_memory_bytes_per_unit:
        named["shared memory per unit"] = f"{facts.shared_memory_bytes_per_unit / 1024:.4g} KiB"
    if facts.l2_bytes:
        named["L2 cache"] = f"{facts.l2_bytes / 2**20:.4g} MiB"
    return named | dict(sorted(facts.extra.items()))


def problem_document(files: Mapping[str, str], problem: ProblemSpec) -> bytes:
    """All that makes a problem what it is, as JSON: its files and everything of spec.problem but where they lie.

    Kept as a blob it is found again under `problem_digest`, whatever became of the source it was read from.
    """
    identity = {
        "files": dict(sorted(files.items())),
        "entry": entry_file(problem, files),
        "problem": problem.model_dump(mode="json", by_alias=True, exclude={"source", "file"}, exclude_none=True),
    }
    return json.dumps(identity, sort_keys=True, ensure_ascii=False).encode()


def files_of_document(document: bytes) -> dict[str, str]:
    """The files that `problem_document` was made of, path -> content."""
    files: dict[str, str] = json.loads(document)["files"]
    return files


def problem_digest(files: Mapping[str, str], problem: ProblemSpec) -> str:
    """sha256 of `problem_document`: equal problems have equal digests, wherever their files come from."""
    return hashlib.sha256(problem_document(files, problem)).hexdigest()

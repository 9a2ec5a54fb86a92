"""What `kernelsearch evaluate` was given, resolved: one problem, one target of this machine, and its candidates.

PROBLEM is a bare KernelBench file or a manifest, of which the problem and the targets count. Where nothing else is
said, the language follows from the candidates' suffix and the profile from this machine; what could mean two things is
an error that lists them. Reads files, runs nothing. Neighbours: given.py does the same for a search, machine.py knows
what runs here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelharness.protocol import Problem

from kernelsearch.api import AcceleratorProfile
from kernelsearch.api.documents import DocumentError, load_documents, parse_problem
from kernelsearch.api.profiles import packaged_profiles
from kernelsearch.api.translate import entry_file, source_suffix, suffix_of, to_protocol_problem
from kernelsearch.cli.given import bare_problem
from kernelsearch.cli.machine import Machine

_KERNELS = frozenset(source_suffix(language) for language in ("cpp", "cuda", "hip"))
MOST_CANDIDATES = 64
"""As many as one batch holds."""


@dataclass(frozen=True)
class Wanted:
    """The flags of the command line; None leaves it to the file and to this machine."""

    profile: str | None = None
    """A name, or a YAML file that holds one."""
    language: str | None = None
    cases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chosen:
    problem: Problem
    profile: AcceleratorProfile
    language: str
    other_languages: tuple[str, ...]
    """Languages of the profile that files of this suffix could be in as well."""
    files: Mapping[str, Path]
    """Candidate id -> its file, in the order in which they are judged. None: only the reference is measured."""
    sources: Mapping[str, str]
    """Candidate id -> its content."""


@dataclass(frozen=True)
class _Option:
    """One way to judge."""

    name: str
    profile: AcceleratorProfile
    language: str

    @property
    def suffix(self) -> str:
        return suffix_of(self.profile.spec, self.language)

    def __str__(self) -> str:
        return f"{self.language} ({self.suffix}) for {self.name}"


def choose(file: Path, candidates: Sequence[Path], wanted: Wanted, machine: Machine) -> Chosen:
    """Raise DocumentError with everything that is wrong, TranslateError when the problem's entry is not among its
    files, OSError when the problem cannot be read."""
    if file.suffix in _KERNELS:
        raise DocumentError([f"{file} is a kernel; the problem comes first: kernelsearch evaluate PROBLEM {file}"])
    if file.suffix == ".py":
        problem, files = bare_problem(file), {}
        targets: list[tuple[str, str]] = []
        profiles = packaged_profiles()
    else:
        documents = load_documents(file)
        search = documents.search
        problem, files = search.spec.problem.to_manifest(), documents.problem_files()
        targets = [(target.profile, target.language) for target in search.spec.targets]
        profiles = packaged_profiles() | documents.profiles
    wanted_profile = wanted.profile
    if wanted_profile is not None and wanted_profile.endswith((".yaml", ".yml")):
        own = _profile_in(Path(wanted_profile))
        wanted_profile = own.metadata.name
        profiles = profiles | {wanted_profile: own}
    spec = parse_problem(_with_cases(problem, wanted.cases), str(file))
    files = files or {item.path: item.content for item in spec.source.inline or ()}
    entry_file(spec, files)
    sources = _read(candidates)
    pairs = targets if targets and wanted_profile is None else _all_pairs(profiles, wanted_profile)
    options = [_Option(name, profiles[name], language) for name, language in pairs if name in profiles]
    compiles = wanted.profile is not None
    here = _here(_fitting(options, candidates, wanted, machine), machine, compiles=compiles)
    name = here[0].name if targets else _best_profile(here, machine)
    languages = [option.language for option in here if option.name == name]
    language = _language(languages) if candidates else languages[0]
    return Chosen(
        problem=to_protocol_problem(spec, files),
        profile=profiles[name],
        language=language,
        other_languages=tuple(other for other in languages if other != language) if candidates else (),
        files=dict(zip(sources, candidates, strict=True)),
        sources=sources,
    )


# -- the target -------------------------------------------------------------------------------------------------------


def _profile_in(file: Path) -> AcceleratorProfile:
    """The one AcceleratorProfile of a file. Raise DocumentError when there is none, more than one, or no such file."""
    try:
        profiles = load_documents(file).profiles
    except OSError as error:
        raise DocumentError([f"--profile {file} cannot be read: {error.strerror}"]) from error
    if len(profiles) != 1:
        raise DocumentError([f"--profile {file}: it must hold one AcceleratorProfile; it holds {len(profiles)}"])
    return next(iter(profiles.values()))


def _all_pairs(profiles: Mapping[str, AcceleratorProfile], profile: str | None) -> list[tuple[str, str]]:
    """Profile and language: all that there is, or that one profile has."""
    if profile is not None and profile not in profiles:
        raise DocumentError([f"there is no profile {profile}; there is {', '.join(profiles)}"])
    names = profiles if profile is None else (profile,)
    return [(name, toolchain.language) for name in names for toolchain in profiles[name].spec.toolchains]


def _fitting(options: list[_Option], candidates: Sequence[Path], wanted: Wanted, machine: Machine) -> list[_Option]:
    """Those of the language that was named, or whose suffix the candidates have. Raise DocumentError for none."""
    suffixes = sorted({path.suffix for path in candidates})
    if wanted.language is not None:
        what, fitting = wanted.language, [option for option in options if option.language == wanted.language]
    elif len(suffixes) > 1:
        raise DocumentError(
            [f"the candidates end in {' and '.join(suffixes)}, and one batch has one language: evaluate them apart"]
        )
    elif suffixes:
        what, fitting = suffixes[0], [option for option in options if option.suffix == suffixes[0]]
    else:
        what, fitting = "", options
    if fitting:
        return fitting
    there = [option for option in options if not _why_not(option, machine)] or options
    what = what or f"{candidates[0]}, a file without a suffix" if candidates else what
    raise DocumentError([f"no language for {what}; there is {', '.join(map(str, there)) or 'no known profile'}"])


def _here(options: list[_Option], machine: Machine, *, compiles: bool) -> list[_Option]:
    """Those that this machine can judge. Raise DocumentError with the reason of each when it can judge none.

    `compiles`: else those of a vendor none of whose devices is here, when they can be compiled.
    """
    here = [option for option in options if not _why_not(option, machine)]
    if compiles and not here:
        here = [option for option in options if _can_compile(option, machine)]
    if not here:
        reasons = [f"{option}: {_why_not(option, machine)}" for option in options]
        raise DocumentError(["this machine cannot judge it", *reasons])
    return here


def _why_not(option: _Option, machine: Machine) -> str:
    return machine.why_not(option.profile.spec, option.language)


def _can_compile(option: _Option, machine: Machine) -> bool:
    """On a machine with a GPU of another architecture the judge would run it there: that is no place to compile."""
    spec = option.profile.spec
    absent = spec.vendor in ("amd", "nvidia") and not machine.gpus
    return absent and not machine.why_not_compiled(spec, option.language)


def _best_profile(here: list[_Option], machine: Machine) -> str:
    """An accelerator before the CPU, the device's own profile before one of the same architecture, the higher level."""

    def rank(option: _Option) -> tuple[bool, bool, str]:
        spec = option.profile.spec
        return spec.vendor != "cpu", spec.display_name in machine.gpus.values(), spec.arch

    best = max(rank(option) for option in here)
    names = list(dict.fromkeys(option.name for option in here if rank(option) == best))
    if len(names) > 1:
        raise DocumentError([f"{', '.join(names)} fit this machine equally well: choose one with --profile"])
    return names[0]


def _language(languages: list[str]) -> str:
    """Of files that could be in any of these: what every KernelBench answer is in, if that is among them."""
    if len(languages) > 1 and "pytorch" not in languages:
        raise DocumentError([f"the candidates may be in {' or '.join(languages)}: say which with --language"])
    return "pytorch" if len(languages) > 1 else languages[0]


# -- the files --------------------------------------------------------------------------------------------------------


def _with_cases(problem: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """The problem with the cases of the command line in place of its own. Raise DocumentError for what is no case."""
    if not texts:
        return dict(problem)
    known = {case["name"]: case for case in problem.get("cases", [])}
    cases = []
    for text in texts:
        name, given, dims = text.partition("=")
        if not given and name not in known:
            there = f"its cases are {', '.join(known)}" if known else "it has none"
            raise DocumentError([f"--case {name}: no such case in the problem, {there}; or give dims: {name}=ROWS=64"])
        case = known.get(name, {"name": name})
        cases.append({**case, "dims": {**case.get("dims", {}), **_dims(text, dims)}})
    return {**problem, "cases": cases}


def _dims(text: str, dims: str) -> dict[str, int]:
    """'ROWS=64,COLUMNS=128' as a map."""
    pairs = [re.fullmatch(r"([A-Za-z_]\w*)=(\d+)", part.strip()) for part in dims.split(",")] if dims else []
    found = {match[1]: int(match[2]) for match in pairs if match is not None}
    if len(found) < len(pairs):
        raise DocumentError([f"--case {text}: write it like small=ROWS=64,COLUMNS=128, each name once"])
    return found


def _read(candidates: Sequence[Path]) -> dict[str, str]:
    """Candidate id -> content. Raise DocumentError naming every file that cannot be read."""
    sources: dict[str, str] = {}
    problems = [f"{len(candidates)} candidates: one batch holds {MOST_CANDIDATES}"] * (
        len(candidates) > MOST_CANDIDATES
    )
    for path in candidates:
        try:
            sources[_id(path, sources)] = path.read_text(encoding="utf-8")
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            problems.append(f"{path} is not a UTF-8 text file")
    if problems:
        raise DocumentError(problems)
    return sources


def _id(path: Path, taken: Mapping[str, str]) -> str:
    """The file's name as far as an id may be one; numbered when several files have the same name."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", path.name).lstrip("-_.")[:50] or "kernel"
    number = 1
    while (id := name if number == 1 else f"{name}-{number}") in taken:
        number += 1
    return id

"""What the user gave on the command line, resolved: one search, its files, its profiles, and what this machine can run.

FILE is a manifest (the same that a cluster takes) or a bare KernelBench file, for which a manifest is made; either way
the result went through the same schema and CEL rules. Flags override single fields before those rules are applied.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from kernelsearch.api import API_VERSION, AcceleratorProfile, KernelSearch, KernelSearchSpec
from kernelsearch.api.documents import DocumentError, Documents, load_documents, parse
from kernelsearch.api.profiles import packaged_profiles
from kernelsearch.api.translate import TranslateError, entry_file, problem_digest
from kernelsearch.cli.exits import CommandError, Exit
from kernelsearch.cli.flags import Overrides
from kernelsearch.cli.machine import Machine, has_harness
from kernelsearch.engine import SearchInputs, to_limits
from kernelsearch.llm.client import ModelEndpoint

API_KEY = "KERNELSEARCH_LLM_API_KEY"
DEFAULT_CANDIDATES = 40


@dataclass(frozen=True)
class Given:
    search: KernelSearch
    """With the targets that this machine runs, at least one."""
    files: Mapping[str, str]
    profiles: Mapping[str, AcceleratorProfile]
    skipped: Mapping[str, str]
    """Target -> why it cannot be judged here."""

    @property
    def name(self) -> str:
        return self.search.metadata.name

    @property
    def spec(self) -> KernelSearchSpec:
        return self.search.spec

    def inputs(self, uid: str) -> SearchInputs:
        """As the engine takes it."""
        key = os.environ.get(API_KEY)
        models = self.spec.llm.models if self.spec.llm else ()
        return SearchInputs(
            uid=uid,
            name=self.name,
            generation=1,
            spec=self.spec,
            files=self.files,
            problem_digest=problem_digest(self.files, self.spec.problem),
            profiles=self.profiles,
            endpoints={
                model.name: ModelEndpoint(
                    name=model.name,
                    model=model.model,
                    endpoint=model.endpoint,
                    api_key=SecretStr(key) if key else None,
                    max_output_tokens=model.max_output_tokens,
                    temperature=None if model.temperature is None else float(model.temperature),
                )
                for model in models
            },
        )


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn what is wrong with the file, or with this machine, into the CommandError that ends the command."""
    if not has_harness():
        raise CommandError(
            Exit.UNUSABLE, "torch is not installed, and the judge needs it: pip install 'kernelsearch[harness]'"
        )
    try:
        yield
    except (DocumentError, TranslateError) as error:
        raise CommandError(Exit.USAGE, str(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(Exit.USAGE, f"{file} cannot be read: {error}") from error


def resolve(file: Path, overrides: Overrides, machine: Machine) -> Given:
    """Raise DocumentError with everything that is wrong, TranslateError when the problem's entry is not among its
    files or the policy has no such parameter, OSError when the file cannot be read."""
    if file.suffix == ".py":
        documents = Documents(searches={"": _from_kernelbench(file, overrides, machine)})
    else:
        documents = load_documents(file)
    search, files = documents.search, documents.problem_files()
    entry_file(search.spec.problem, files)
    search = _overridden(search, overrides)
    to_limits(search.spec)
    profiles = packaged_profiles() | documents.profiles
    skipped = {target.name: why for target in search.spec.targets if (why := _why_not(target, profiles, machine))}
    here = tuple(target for target in search.spec.targets if target.name not in skipped)
    if not here:
        reasons = [f"target {name}: {why}" for name, why in skipped.items()]
        raise DocumentError([f"none of the targets of {search.metadata.name} can be judged on this machine", *reasons])
    search = search.model_copy(update={"spec": search.spec.model_copy(update={"targets": here})})
    used = {
        name: documents.with_knowledge(profiles[name], {target.language for target in here if target.profile == name})
        for name in dict.fromkeys(target.profile for target in here)
    }
    return Given(search, files, used, skipped)


def _why_not(target: Any, profiles: Mapping[str, AcceleratorProfile], machine: Machine) -> str:
    profile = profiles.get(target.profile)
    if profile is None:
        return f"no AcceleratorProfile {target.profile} in the file, and the packaged ones are {', '.join(profiles)}"
    return machine.why_not(profile.spec, target.language)


def _from_kernelbench(file: Path, overrides: Overrides, machine: Machine) -> KernelSearch:
    """The manifest that a bare problem file stands for: C++ on this machine's CPU."""
    if overrides.llm_endpoint is None or overrides.llm_model is None:
        raise DocumentError(
            [f"{file} is a problem without a manifest: say which model to ask with --llm-endpoint and --llm-model"]
        )
    profile = _cpu_profile(machine)
    name = re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-")[:40].strip("-") or "problem"
    manifest = {
        "apiVersion": API_VERSION,
        "kind": "KernelSearch",
        "metadata": {"name": name},
        "spec": {
            "problem": bare_problem(file),
            "targets": [{"name": "cpu", "profile": profile, "language": "cpp"}],
            "llm": _llm({}, overrides),
            "budget": {"candidates": overrides.candidates or DEFAULT_CANDIDATES},
        },
    }
    return _parse(manifest, str(file))


def bare_problem(file: Path) -> dict[str, Any]:
    """A KernelBench file as spec.problem. Raise OSError or UnicodeDecodeError when it cannot be read."""
    return {"source": {"inline": [{"path": "reference.py", "content": file.read_text(encoding="utf-8")}]}}


def _cpu_profile(machine: Machine) -> str:
    """The packaged profile of the highest level that this CPU has."""
    profiles = packaged_profiles().items()
    fitting = [(profile.spec.arch, name) for name, profile in profiles if profile.spec.arch in machine.cpu_archs]
    if not fitting:
        raise DocumentError(
            [f"no packaged profile fits this CPU ({machine.cpu}); write a manifest with one of your own"]
        )
    return max(fitting)[1]


def _overridden(search: KernelSearch, overrides: Overrides) -> KernelSearch:
    if overrides == Overrides():
        return search
    manifest = search.to_manifest()
    spec = manifest["spec"]
    if overrides.llm_endpoint is not None or overrides.llm_model is not None:
        spec["llm"] = _llm(spec.get("llm", {}), overrides)
    if overrides.candidates is not None:
        spec["budget"]["candidates"] = overrides.candidates
    return _parse(manifest, "with the flags of the command line")


def _llm(llm: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    """The spec's models with another endpoint or model name; without models, one that is named by both."""
    models = llm.get("models", [])
    if not models and (overrides.llm_endpoint is None or overrides.llm_model is None):
        raise DocumentError(["the manifest names no model: give both --llm-endpoint and --llm-model"])
    changes = {"endpoint": overrides.llm_endpoint, "model": overrides.llm_model}
    given = {name: value for name, value in changes.items() if value is not None}
    return {**llm, "models": [{**model, **given} for model in models or [{"name": "main"}]]}


def _parse(manifest: dict[str, Any], where: str) -> KernelSearch:
    search = parse(manifest, where)
    assert isinstance(search, KernelSearch)
    return search

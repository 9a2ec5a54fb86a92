"""What a search is given from outside, read once and resolved: spec, files, profiles, endpoints.

Whoever runs the engine fills this in (the command from a file, the controller from the cluster) and hands over a new
one when the spec changed. The engine reads nothing else of the world.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kernelsearch.api import AcceleratorProfile, KernelSearchSpec
from kernelsearch.api.translate import entry_file, hardware_facts
from kernelsearch.llm.client import ModelEndpoint
from kernelsearch.search.journal import TargetLimits
from kernelsearch.search.prompts import PromptContext
from kernelsearch.search.state import State


@dataclass(frozen=True)
class SearchInputs:
    uid: str
    name: str
    generation: int
    spec: KernelSearchSpec
    files: Mapping[str, str]
    """Path -> content of the problem, as it was read when the search began."""
    problem_digest: str
    profiles: Mapping[str, AcceleratorProfile]
    """By name; those of the targets. Texts of `knowledge` are resolved."""
    endpoints: Mapping[str, ModelEndpoint]
    """By the model's name in spec.llm, one for each."""

    @property
    def reference(self) -> str:
        """The problem file."""
        return self.files[entry_file(self.spec.problem, self.files)]

    def why_no_target(self, target: TargetLimits) -> tuple[str, str]:
        """Reason and message when a target can never run; both empty when it can."""
        profile, language = target.profile, target.language
        if profile not in self.profiles:
            return "ProfileNotFound", f"there is no AcceleratorProfile {profile}; create it or choose another one"
        try:
            self.profiles[profile].spec.toolchain(language)
        except KeyError as error:
            return "LanguageNotFound", f"profile {profile}: {error.args[0]}"
        return "", ""

    def prompt_context(self, state: State, target: str, header: str, sources: Mapping[str, str]) -> PromptContext:
        """All that a prompt needs beside the state. The target was probed."""
        limits, probed = state.targets[target].limits, state.targets[target].probed
        profile = self.profiles[limits.profile]
        return PromptContext(
            reference=self.reference,
            header=header,
            language=limits.language,
            arch=profile.spec.arch,
            device=probed.device if probed else "",
            hardware=hardware_facts(profile),
            knowledge=tuple(
                f"## {entry.title}\n\n{entry.text}"
                for entry in profile.spec.knowledge
                if entry.text and entry.is_for(limits.language)
            ),
            tolerance=_tolerance(self.spec),
            sources=sources,
        )


def _tolerance(spec: KernelSearchSpec) -> str:
    """In words, for the prompt."""
    given = spec.problem.tolerance
    parts = [f"{name} {value}" for name, value in (("rtol", given.rtol), ("atol", given.atol)) if value is not None]
    if len(parts) < 2:
        parts.append("otherwise the default of the output's dtype: 1e-4 for float32, 1e-2 for float16 and bfloat16")
    if given.max_mismatch_ppm:
        parts.append(f"at most {given.max_mismatch_ppm} of a million elements beyond it")
    return "; ".join(parts)

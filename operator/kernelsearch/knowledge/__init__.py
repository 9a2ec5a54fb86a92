"""Optimisation playbooks in Markdown, and the rules that pick those a model is shown.

A playbook is for a language (a folder: cpp, cuda, cutedsl, flydsl, hip, triton) and a bottleneck (memory, compute,
overhead), with one `general.md` per language; `x86.md` is for CPUs of that kind. They hold what is true of every kernel
of that kind: no advice here depends on a problem, so a search's prompts share it as their stable prefix.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from typing import Literal

from kernelharness.protocol import Baseline, CaseFact

Bottleneck = Literal["memory", "compute", "overhead"]
OVERHEAD_NS = 20_000
"""Below this a call is mostly launching and returning, whatever the roofline says."""


def bottleneck_of(cases: Iterable[CaseFact], baselines: Iterable[Baseline]) -> Bottleneck:
    """What limits most of the weight of a problem's cases; memory where nothing is known."""
    fastest: dict[str, int] = {}
    for arm in baselines:
        if arm.ns:
            fastest[arm.case] = min(arm.ns, fastest.get(arm.case, arm.ns))
    weights: dict[Bottleneck, float] = {"memory": 0.0, "compute": 0.0, "overhead": 0.0}
    for case in cases:
        if not case.hidden:
            weights[_of_case(case, fastest.get(case.case))] += case.weight
    return max(weights, key=lambda name: weights[name])


def _of_case(case: CaseFact, fastest_ns: int | None) -> Bottleneck:
    if fastest_ns is not None and fastest_ns < OVERHEAD_NS:
        return "overhead"
    return "compute" if case.bound == "compute" else "memory"


def pick(language: str, arch: str, bottleneck: Bottleneck) -> tuple[str, ...]:
    """The playbooks for a kernel, most general first; empty for a language that has none."""
    names = ["general.md", *(["x86.md"] if arch.startswith("x86") else []), f"{bottleneck}.md"]
    folder = files(__name__) / language
    if not language.isidentifier() or not folder.is_dir():
        return ()
    return tuple(page.read_text("utf-8").strip() for name in names if (page := folder / name).is_file())

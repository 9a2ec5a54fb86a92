"""Gather what a prompt needs from the state; the templates decide the words and the order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from kernelsearch.knowledge import Bottleneck, bottleneck_of, pick
from kernelsearch.search import lanes
from kernelsearch.search.actions import CallModel
from kernelsearch.search.edits import ReplyError
from kernelsearch.search.journal import Operator
from kernelsearch.search.prompts import attempts, measurements
from kernelsearch.search.prompts.text import fenced, oneline, readable_header, times
from kernelsearch.search.records import TargetState
from kernelsearch.search.state import State

GAIN_ASKED = 1.1
FIRST_GOAL = 1.3


@dataclass(frozen=True)
class ChatMessage:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class PromptContext:
    """What the state does not hold: texts, and the facts of the profile."""

    reference: str
    """The problem file."""
    header: str
    """problem.h; empty for Python languages."""
    language: str
    arch: str
    device: str
    hardware: Mapping[str, str] = field(default_factory=dict)
    """Fact -> value, in words: 'memory bandwidth' -> '3350 GB/s'."""
    knowledge: tuple[str, ...] = ()
    """Texts of the profile's own, Markdown."""
    tolerance: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Candidate id -> source, for at least `needed_sources`."""


def _environment() -> Environment:
    templates = Environment(
        loader=PackageLoader("kernelsearch.search", "prompts"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    templates.filters.update(fenced=fenced, oneline=oneline)
    return templates


_templates = _environment()


def needed_sources(state: State, action: CallModel) -> tuple[str, ...]:
    """The candidates whose source `build_prompt` will show: the parent, then another lane's best for a rewrite."""
    other = _other_best(state, action)
    return tuple(id for id in (action.parent, other) if id)


def build_prompt(state: State, action: CallModel, context: PromptContext) -> tuple[ChatMessage, ...]:
    """The chat for one call. Pure: equal arguments give equal text. Raise KeyError when a needed source is missing."""
    values = {**_stable(state, action, context), **_changing(state, action, context)}
    return (
        ChatMessage("system", _render("system.md.j2", {})),
        ChatMessage("user", _render("prompt.md.j2", values)),
    )


def retry_messages(messages: tuple[ChatMessage, ...], reply: str, error: ReplyError) -> tuple[ChatMessage, ...]:
    """The same chat with the unusable reply and what was wrong with it, for the one retry."""
    question = _render("retry.md.j2", {"error": str(error)})
    return (*messages, ChatMessage("assistant", reply), ChatMessage("user", question))


def _render(template: str, values: Mapping[str, object]) -> str:
    return _space(_templates.get_template(template).render(values)) + "\n"


def _space(text: str) -> str:
    """One blank line before each heading, never two in a row. What stands between fences is left alone."""
    kept: list[str] = []
    fence = ""
    for line in text.splitlines():
        ticks = line[: len(line) - len(line.lstrip("`"))]
        if fence and line == fence:
            fence = ""
        elif not fence and len(ticks) >= 3:
            fence = ticks
        elif not fence and not line.strip() and (not kept or not kept[-1].strip()):
            continue
        elif not fence and line.startswith("#") and kept and kept[-1].strip():
            kept.append("")
        kept.append(line)
    return "\n".join(kept).strip("\n")


def _stable(state: State, action: CallModel, context: PromptContext) -> dict[str, object]:
    """What is the same in every prompt of a target: the part that providers cache."""
    target = state.targets[action.target]
    native = bool(context.header)
    return {
        "reference": context.reference,
        "header": readable_header(context.header),
        "language": context.language,
        "arch": context.arch,
        "device": context.device,
        "hardware": context.hardware,
        "tolerance": context.tolerance,
        "fence_language": "cpp" if native else "python",
        "tunable_example": "constexpr int BLOCK = 128;  // tune: 64, 128, 256"
        if native
        else "BLOCK = 128  # tune: 64, 128, 256",
        "cases": measurements.case_lines(target),
        "backward": any(fact.backward for fact in target.facts),
        "playbook": (*pick(context.language, context.arch, _bottleneck(target)), *context.knowledge),
    }


def _changing(state: State, action: CallModel, context: PromptContext) -> dict[str, object]:
    target = state.targets[action.target]
    parent = state.candidates[action.parent] if action.parent else None
    other = _other_best(state, action)
    opens_lane = action.operator in (Operator.DRAFT, Operator.REWRITE)
    lane = state.lanes[action.lane] if action.lane else None
    best = state.candidates[target.best].speedup if target.best else None
    return {
        "operator": action.operator.value,
        "current": measurements.describe(target, parent, context.sources[parent.id]) if parent else None,
        "earlier": attempts.earlier_fixes(state, parent) if parent else [],
        "attempts": attempts.of_lane(state, lane) if lane else [],
        "approaches": attempts.approaches(state, target) if opens_lane else [],
        "running": attempts.running(state, target),
        "other": measurements.describe(target, state.candidates[other], context.sources[other]) if other else None,
        "best": times(best) if best else "no speedup yet",
        "goal": _goal(state, action.target, best),
    }


def _bottleneck(target: TargetState) -> Bottleneck:
    probed = target.probed
    return bottleneck_of(probed.cases, probed.baselines) if probed else "memory"


def _goal(state: State, name: str, best: float | None) -> str:
    """The numeric target: a tenth more than the best, or what the person asked for, but not beyond the bound."""
    bound = measurements.speedup_at_bound(state.targets[name])
    wanted = max(GAIN_ASKED * best if best else FIRST_GOAL, state.limits.stop_speedup or 0.0)
    if bound is not None and wanted >= bound:
        return f"{times(bound)}, which is what the machine allows"
    return f"at least {times(wanted)}" + (f" (the machine allows {times(bound)})" if bound is not None else "")


def _other_best(state: State, action: CallModel) -> str | None:
    """For a rewrite: the best kernel of the best lane that is not the parent's."""
    if action.operator is not Operator.REWRITE or action.parent is None:
        return None
    own = state.candidates[action.parent].lane
    others = [lane for lane in lanes.alive(state, action.target) if lane.id != own]
    best = max(others, key=lambda lane: lanes.best_score(state, lane), default=None)
    return best.top[0] if best else None

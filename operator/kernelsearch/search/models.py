"""Which model to ask: those with the role, by weight, without the ones that refuse or that just failed."""

from __future__ import annotations

from random import Random

from kernelsearch.search import budget
from kernelsearch.search.journal import ModelLimits, Operator
from kernelsearch.search.state import State

ROLE = {
    Operator.DRAFT: "Propose",
    Operator.EDIT: "Propose",
    Operator.REPAIR: "Repair",
    Operator.REWRITE: "Rewrite",
}
FIRST_PAUSE_SECONDS = 2
LONGEST_PAUSE_SECONDS = 300


def choose_model(state: State, operator: Operator, rng: Random, now_ns: int) -> str | None:
    """None: no model may be called now (busy, paused after an error, or too dear), so wait."""
    if len(state.calls_in_flight) >= state.limits.max_concurrent_requests:
        return None
    usable = [model for model in _with_role(state, operator) if resting_until_ns(state, model) <= now_ns]
    if not usable:
        return None
    weights = [model.weight for model in usable]
    return rng.choices(usable, weights if any(weights) else None)[0].name


def all_refuse(state: State) -> bool:
    """True when every configured model refuses for good."""
    models = state.limits.models
    return bool(models) and all(refusal(state, model) for model in models)


def refusal(state: State, model: ModelLimits) -> str:
    health = state.models.get(model.name)
    return health.refused if health else ""


def resting_until_ns(state: State, model: ModelLimits) -> int:
    """When a model that failed is tried again: each failure in a row doubles the pause. 0: now."""
    health = state.models.get(model.name)
    if health is None or health.errors == 0:
        return 0
    pause = min(FIRST_PAUSE_SECONDS << min(health.errors - 1, 16), LONGEST_PAUSE_SECONDS)
    return health.last_error_ns + pause * 1_000_000_000


def _with_role(state: State, operator: Operator) -> list[ModelLimits]:
    """Models for the operator that answer and can be paid; any other such model when there is none with the role."""
    role = ROLE[operator]
    models = [model for model in state.limits.models if not refusal(state, model)]
    models = [model for model in models if not budget.call_refusal(state, model)]
    return [model for model in models if not model.roles or role in model.roles] or models

"""From a spec to the limits that the policy reads: strings become integers, absent values become what they mean."""

from __future__ import annotations

from kernelsearch.api import KernelSearchSpec
from kernelsearch.api.translate import TranslateError, parse_duration, to_micros
from kernelsearch.search.journal import Limits, ModelLimits, TargetLimits

ALGORITHM = "near-greedy"


def to_limits(spec: KernelSearchSpec) -> Limits:
    """Raise TranslateError when a duration, an amount of money or a parameter of the policy cannot be read."""
    budget, stop = spec.budget, spec.stop
    return Limits(
        candidates=budget.candidates,
        tokens=budget.tokens,
        cost_micros=None if budget.cost is None else to_micros(budget.cost),
        duration_seconds=None if budget.duration is None else parse_duration(budget.duration),
        accelerator_seconds=budget.accelerator_seconds,
        stop_speedup=None if stop.speedup is None else float(stop.speedup),
        without_improvement=stop.without_improvement,
        consecutive_failures=stop.consecutive_failures,
        confirm_repeats=spec.verification.repeats,
        confirm_max_spread_percent=spec.verification.max_spread_percent,
        has_llm=spec.has_llm,
        models=_models(spec),
        max_concurrent_requests=spec.llm.max_concurrent_requests if spec.llm else 1,
        width=_width(spec),
        targets=tuple(
            TargetLimits(
                name=target.name,
                profile=target.profile,
                language=target.language,
                parallelism=target.parallelism,
                batch_size=target.batch_size,
            )
            for target in spec.targets
        ),
    )


def _width(spec: KernelSearchSpec) -> int | None:
    """The only parameter of the only policy: candidates under way at once per target."""
    if spec.policy.algorithm != ALGORITHM:
        raise TranslateError(f"policy.algorithm {spec.policy.algorithm!r} is not known; there is {ALGORITHM!r}")
    parameters = dict(spec.policy.parameters)
    text = parameters.pop("width", None)
    if parameters:
        raise TranslateError(f"policy.parameters has no {sorted(parameters)[0]!r}; there is 'width'")
    if text is None:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise TranslateError(f"policy.parameters.width is {text!r}; it must be a whole number from 1 to 64, in quotes")
    return int(text)


def _models(spec: KernelSearchSpec) -> tuple[ModelLimits, ...]:
    return tuple(
        ModelLimits(
            name=model.name,
            roles=model.roles,
            weight=model.weight,
            max_output_tokens=model.max_output_tokens,
            input_micros_per_mtok=to_micros(model.price.input) if model.price else None,
            output_micros_per_mtok=to_micros(model.price.output) if model.price else None,
        )
        for model in (spec.llm.models if spec.llm else ())
    )

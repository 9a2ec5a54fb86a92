"""Everything that the judge needs to know of a problem before the first candidate: facts, secret sets, baselines.

Asked of E once per batch: what each case is, what the reference answers on the correctness sets, how long it takes, and
how much two copies of it differ on this machine right now (A/A). Neighbours: judge.py, bench.py, torch_arms.py (E).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from torch import Tensor

from kernelharness.bench import AGAIN, AT_ONCE_BYTES, Bench, CaseBench, SetSeeds
from kernelharness.channel import Order, OrderKind, RunFlag
from kernelharness.compare import all_finite, rms_of
from kernelharness.devices.base import Need
from kernelharness.filter import degenerate_reason
from kernelharness.layout import layout_of, widened
from kernelharness.processes import Runner
from kernelharness.protocol import Baseline, Case, CaseFact, Tolerance
from kernelharness.samples import PLANS, SLOW_START, Samples, sample
from kernelharness.slots import DISTRIBUTIONS
from kernelharness.timing import MIN_BLOCKS, Rule, noise_of

_EXACT_LIMIT_BYTES = 1 << 30
"""Beyond this nothing is computed in float64."""
_UNLUCKY = 2.0
"""So many times what two processes differ by is no chance of measuring."""
_BEGINNING = 1 << 24
"""So many elements of a tensor say whether its problem is a real one."""
_SECOND_LOOK = 16
"""So many more sets must say that a problem is none before it is refused."""


@dataclass(frozen=True)
class Known:
    """What a runner of a candidate must be told of a case, as it travels."""

    case: Case
    document: dict[str, object]
    """fact, arguments and working_bytes, as E described them."""


def describe_cases(bench: Bench, cases: list[Case]) -> tuple[list[Known], list[CaseBench]]:
    """All cases, then the hidden one that E derives from a secret seed. Raise RunnerFault as E fails."""
    runner = bench.reference
    reply = runner.ask(Order(OrderKind.HIDDEN, b=bench.secret.draw()), bench.deadline())
    if reply.a:
        cases = [*cases, Case.model_validate_json(runner.board.read_text(reply.a))]
    known: list[Known] = []
    benches: list[CaseBench] = []
    for index, case in enumerate(cases):
        reply = runner.ask(Order(OrderKind.DESCRIBE, index), bench.deadline())
        document = json.loads(runner.board.read_text(reply.a))
        known.append(Known(case, document))
        fact = CaseFact.model_validate(document["fact"])
        benches.append(CaseBench.of(index, fact, document["working_bytes"]))
    runner.stop()
    return known, benches


def need_of(cases: list[CaseBench], sets: int) -> Need:
    """What `fill_gallery` and timed rounds need of a device."""
    exact = [case for case in cases if _is_small(case)]
    widest = [layout_of(widened(case.fact.outputs)).stride for case in exact]
    states = [layout_of(case.fact.parameters).stride for case in cases if case.fact.parameters]
    slot = max(case.inputs.stride for case in cases)
    return Need(
        slot=slot,
        results=max(case.outputs.stride for case in cases),
        working=max(case.working_bytes for case in cases),
        state=sum(states),
        sets=sum(sets * _set_bytes(case) for case in cases),
        desk=max([AT_ONCE_BYTES, slot, *states, *widest]),
    )


def fill_gallery(bench: Bench, cases: list[CaseBench], sets: int) -> None:
    """Parameters and correctness sets of all cases, one behind the other, and what the reference makes of them."""
    offset = 0
    for case in cases:
        offset = _keep_state(bench, case, offset)
    share = (bench.device.capacity("gallery") - offset) // max(1, len(cases))
    for case in cases:
        affordable = share // _set_bytes(case)
        case.gallery_end = offset
        if affordable < sets and bench.device.streams_sets:
            case.streamed = [_seeds(bench) for _ in range(sets)]
            case.at_once = min(sets, bench.fitting(case))
        else:
            count = min(sets, max(1, affordable))
            case.gallery = [offset + position * case.inputs.stride for position in range(count)]
            offset = case.gallery_end = offset + count * case.inputs.stride
        _fill_case(bench, case)


def _set_bytes(case: CaseBench) -> int:
    """One correctness set, its answer, and what comparing them takes."""
    return case.inputs.stride + 3 * case.outputs.stride


def _is_small(case: CaseBench) -> bool:
    """Whether the reference may be asked in float64."""
    return 2 * (case.inputs.nbytes + layout_of(widened(case.fact.outputs)).nbytes) <= _EXACT_LIMIT_BYTES


def _keep_state(bench: Bench, case: CaseBench, offset: int) -> int:
    case.state_offset = offset
    if not case.fact.parameters:
        return offset
    layout = layout_of(case.fact.parameters)
    bench.tell(bench.reference, Order(OrderKind.STATE, case.index))
    wanted = bench.device.tensors("gallery", layout, offset)
    for target, source in zip(wanted, bench.device.tensors("desk", layout, 0), strict=True):
        target.copy_(source)
    bench.device.expose("gallery", offset, layout.stride)
    return offset + layout.stride


def _fill_case(bench: Bench, case: CaseBench) -> None:
    """Sets of every distribution in turn; one that the reference answers with new infinities is given up."""
    bench.load(bench.reference, case)
    bench.make_base_sets(case)
    finite = True
    for position, seeds in enumerate(case.streamed or [_seeds(bench) for _ in case.gallery]):
        wanted = "given" if case.structured else DISTRIBUTIONS[position % len(DISTRIBUTIONS)]
        for distribution in dict.fromkeys((wanted, "given")):
            if case.streamed:
                expected = bench.stage(case, [seeds], [distribution])[0]
            else:
                expected = bench.place(case, position, seeds, distribution)
            is_finite = all_finite(expected)
            if position == 0:
                finite = is_finite
                case.given_rms = rms_of(expected, bench.device.passes)
            if is_finite or not finite or distribution == "given":
                break
        case.distributions.append(distribution)
        if not case.streamed:
            case.expected.append(expected)
        if distribution == "given":
            memory, offset = ("arena", 0) if case.streamed else ("gallery", case.gallery[position])
            inputs = bench.device.tensors(memory, case.inputs, offset)
            case.given.append((_beginnings(inputs, case), _beginnings(expected, case)))
    bench.allow_signs(case, "mixed" in case.distributions)
    if case.gallery and _is_small(case):
        exact = bench.exact(case, case.gallery[0], RunFlag.GALLERY)
        case.exact = None if exact is None else [tensor.clone() for tensor in exact]


def _seeds(bench: Bench) -> SetSeeds:
    return SetSeeds(bench.secret.draw(), bench.secret.draw())


def _beginnings(tensors: list[Tensor], case: CaseBench) -> list[Tensor]:
    """The tensors as they are, or, where the next set is made in their place, copies of as much as is needed."""
    if not case.streamed:
        return tensors
    return [(t if t.numel() <= _BEGINNING else t.reshape(-1)[:_BEGINNING]).clone() for t in tensors]


def degenerate_reason_of(bench: Bench, case: CaseBench, tolerance: Tolerance) -> str:
    """Why this case says nothing about speed; empty when it does. Judged on the sets as the problem makes them.

    A single number, a loss for example, comes out equal for a few sets by chance: nothing is refused before it held for
    many more of them.
    """
    if len(case.given) < 2:
        return ""
    names = [output.name for output in case.fact.outputs]
    inputs, outputs = zip(*case.given, strict=True)
    reason = degenerate_reason(names, inputs, outputs, tolerance)
    for _ in range(_SECOND_LOOK):
        if not reason:
            break
        expected = _beginnings(bench.stage(case, [_seeds(bench)], ["given"])[0], case)
        given = _beginnings(bench.device.tensors("arena", case.inputs, 0), case)
        reason = degenerate_reason(names, [inputs[0], given], [outputs[0], expected], tolerance)
    return reason


def time_baselines(bench: Bench, case: CaseBench, arms: dict[str, Runner], rule: Rule) -> None:
    """Interleaved times of eager, its copy and torch.compile: the case's baselines and its A/A noise.

    `arms` holds "eager", "again" (a second eager arm) and, when it could be had, "compile".
    """
    for runner in arms.values():
        bench.load(runner, case)
    bench.calibrate(case)
    slowest = max(bench.call_ns(case, runner) for runner in arms.values())
    for _ in range(PLANS):
        calls, rounds = bench.plan(case, slowest, rule, len(arms))
        for runner in arms.values():
            bench.show_arena(runner, case, calls)
        bench.warm_up(case, arms, calls)
        samples = sample(bench, case, arms, (calls, rounds), rule, enough=_enough)
        expected, slowest = slowest, max(map(samples.call_ns, arms))
        if expected < SLOW_START * slowest:
            break
    case.noise = noise_of(samples.ratios("eager", AGAIN))
    case.baseline_ns = {name: samples.call_ns(name) for name in arms}


def again_is_better(cases: list[CaseBench], spread: float) -> bool:
    """Whether the second eager arm is the one to measure against: the first is slower than two processes usually
    differ, over all cases. One whose memory lies badly stays slow as long as it lives, and all candidates would look
    faster than they are.
    """
    ratios = [math.log(case.baseline_ns["eager"] / case.baseline_ns[AGAIN]) for case in cases]
    return sum(ratios) / len(ratios) > _UNLUCKY * spread


def baselines_of(case: CaseBench) -> list[Baseline]:
    """What `time_baselines` found, as it is told."""
    percent = round(100 * math.expm1(min(case.noise, 10.0)), 3)
    return [
        Baseline(case=case.fact.case, arm=name, ns=round(ns), noise_percent=percent)
        for name, ns in case.baseline_ns.items()
    ]


def _enough(samples: Samples, _spent_ns: int) -> bool:
    return len(samples.clean_ratios("eager", AGAIN)) >= MIN_BLOCKS

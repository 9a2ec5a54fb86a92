"""Everything that the judge needs to know of a problem before the first candidate: facts, secret sets, baselines.

Asked of E once per batch: what each case is, what the reference answers on the correctness sets, how long it takes, and
how much two copies of it differ on this machine right now (A/A). Neighbours: judge.py, bench.py, torch_arms.py (E).
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelharness.bench import AGAIN, Bench, CaseBench, Samples, blocks
from kernelharness.channel import Order, OrderKind, RunFlag
from kernelharness.compare import rms_of
from kernelharness.filter import degenerate_reason
from kernelharness.layout import PAGE, layout_of, widened
from kernelharness.processes import Runner
from kernelharness.protocol import Baseline, Case, CaseFact, Tolerance
from kernelharness.slots import DISTRIBUTIONS, distort
from kernelharness.timing import MIN_BLOCKS, Rule, noise_of

_EXACT_LIMIT_BYTES = 1 << 30
"""Beyond this nothing is computed in float64."""


@dataclass(frozen=True)
class Known:
    """What a runner of a candidate must be told of a case, as it travels."""

    case: Case
    document: dict[str, object]
    """fact and arguments, as E described them."""


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
        benches.append(CaseBench.of(index, fact))
    runner.stop()
    return known, benches


def fill_gallery(bench: Bench, cases: list[CaseBench], sets: int) -> None:
    """Parameters and correctness sets of all cases, one behind the other, and what the reference makes of them."""
    offset = 0
    share = bench.device.capacity("gallery") // max(1, len(cases))
    for case in cases:
        bench.load(bench.reference, case)
        offset = _keep_state(bench, case, offset)
        affordable = max(1, share // (case.inputs.stride + 3 * case.outputs.stride))
        case.gallery = [offset + position * case.inputs.stride for position in range(min(sets, affordable))]
        offset = case.gallery_end
        _fill_case(bench, case)


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
    return offset + -(-layout.stride // PAGE) * PAGE


def _fill_case(bench: Bench, case: CaseBench) -> None:
    """Sets of every distribution in turn; one that the reference answers with new infinities is given up."""
    generator = torch.Generator(bench.device.torch_device).manual_seed(bench.secret.draw())
    bench.make_base_sets(case)
    finite = True
    for position in range(len(case.gallery)):
        wanted = "given" if case.structured else DISTRIBUTIONS[position % len(DISTRIBUTIONS)]
        for distribution in dict.fromkeys((wanted, "given")):
            expected = _answer(bench, case, position, distribution, generator)
            is_finite = all(bool(torch.isfinite(tensor).all()) for tensor in expected if tensor.is_floating_point())
            if position == 0:
                finite = is_finite
            if is_finite or not finite or distribution == "given":
                break
        case.distributions.append(distribution)
        case.expected.append(expected)
    case.given_rms = rms_of(case.expected[0])
    bench.allow_signs(case, "mixed" in case.distributions)
    if 2 * (case.inputs.nbytes + layout_of(widened(case.fact.outputs)).nbytes) <= _EXACT_LIMIT_BYTES:
        case.exact = bench.exact(case, case.gallery[0], RunFlag.GALLERY)


def _answer(
    bench: Bench, case: CaseBench, position: int, distribution: str, generator: torch.Generator
) -> list[Tensor]:
    slot = bench.device.tensors("gallery", case.inputs, case.gallery[position])
    for target, source in zip(slot, bench.generate(case), strict=True):
        target.copy_(source)
        distort(target, distribution, generator)
    bench.show_gallery(bench.reference, case, position, 1)
    bench.run(bench.reference)
    return [stack[0].clone() for stack in bench.collect(case, 1)]


def degenerate_reason_of(bench: Bench, case: CaseBench, tolerance: Tolerance) -> str:
    """Why this case says nothing about speed; empty when it does. Judged on the sets as the problem makes them."""
    given = [i for i, name in enumerate(case.distributions) if name == "given"]
    if len(given) < 2:
        return ""
    return degenerate_reason(
        [output.name for output in case.fact.outputs],
        [bench.device.tensors("gallery", case.inputs, case.gallery[position]) for position in given],
        [case.expected[position] for position in given],
        tolerance,
    )


def time_baselines(bench: Bench, case: CaseBench, arms: dict[str, Runner], rule: Rule) -> list[Baseline]:
    """Interleaved times of eager, its copy and torch.compile; sets the case's baselines and its A/A noise.

    `arms` holds "eager", "again" (a second eager arm) and, when it could be had, "compile".
    """
    for runner in arms.values():
        bench.load(runner, case)
    bench.calibrate(case)
    slowest = max(bench.call_ns(case, runner) for runner in arms.values())
    calls, rounds = bench.plan(case, slowest, rule)
    for runner in arms.values():
        bench.show_arena(runner, case, calls)
    bench.warm_up(case, arms, calls)
    samples = Samples(list(arms), calls * rounds)
    begin = time.perf_counter_ns()
    for block in blocks(bench, case, arms, calls, rounds, _nothing):
        samples.add(block)
        enough = len(samples.clean_ratios("eager", AGAIN)) >= MIN_BLOCKS
        if enough or time.perf_counter_ns() - begin > rule.budget_ns:
            break
    case.noise = noise_of(samples.ratios("eager", AGAIN))
    case.baseline_ns = {name: samples.call_ns(name) for name in arms if name != AGAIN}
    percent = round(100 * math.expm1(min(case.noise, 10.0)), 3)
    return [
        Baseline(case=case.fact.case, arm=name, ns=round(ns), noise_percent=percent)
        for name, ns in case.baseline_ns.items()
    ]


def _nothing() -> None:
    """References are not compared with themselves."""

"""The case that the model never sees: odd sizes, no multiples of anything, so that tails must be handled.

Derived from the problem's own constants and kept only as far as the reference accepts them. For correctness only.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from kernelharness.facts import describe
from kernelharness.problem import LoadedCase, cases_of, load_case
from kernelharness.protocol import Case, CaseFact, Problem

HIDDEN_NAME = "hidden"
LEAST_SIZE = 16
"""A constant below this may be a kernel size or an axis; it is only changed when some case's dims name it."""


def derive_hidden_case(problem: Problem, seed: int, device: str = "cpu") -> Case | None:
    """A hidden case beside the problem's own; None when it has one already or when the reference refuses every size.

    `seed` decides the sizes, so they can be kept secret. Tries all constants at once, then one after the other.
    """
    cases = cases_of(problem)
    if any(case.hidden for case in cases):
        return None
    loaded = min((load_case(problem, case, device) for case in cases), key=_work)
    fact = describe(loaded)
    given = {name for case in cases for name in case.dims}
    sizes = {name: size for name, size in loaded.constants.items() if name in given and size > 1}
    if not given:
        sizes = {name: size for name, size in loaded.constants.items() if size >= LEAST_SIZE and _is_axis(size, fact)}
    odd = odd_sizes(sizes, seed)
    base = loaded.case.model_copy(update={"name": HIDDEN_NAME, "hidden": True, "weight": 0})

    def accepts(dims: Mapping[str, int]) -> Case | None:
        case = base.model_copy(update={"dims": {**loaded.case.dims, **dims}})
        try:
            changed = describe(load_case(problem, case, device))
        except Exception:  # whatever a reference raises at sizes that it was not written for
            return None
        return case if _shapes(changed) != _shapes(fact) else None

    if (case := accepts(odd)) is not None:
        return case
    kept: dict[str, int] = {}
    best = None
    for name, size in odd.items():
        if (case := accepts({**kept, name: size})) is not None:
            kept[name] = size
            best = case
    return best


def odd_sizes(sizes: Mapping[str, int], seed: int) -> dict[str, int]:
    """Odd, pairwise different sizes of 0.4 to 0.9 times the given ones, and never below 3."""
    draw = random.Random(seed)
    odd: dict[str, int] = {}
    for name, size in sizes.items():
        value = max(3, int(size * draw.uniform(0.4, 0.9)) | 1)
        while value in odd.values() or value == size:
            value += 2
        odd[name] = value
    return odd


def _work(loaded: LoadedCase) -> int:
    product = 1
    for size in loaded.constants.values():
        product *= max(1, size)
    return product


def _is_axis(size: int, fact: CaseFact) -> bool:
    return any(size in tensor.shape for tensor in (*fact.inputs, *fact.parameters, *fact.outputs))


def _shapes(fact: CaseFact) -> list[list[int]]:
    return [tensor.shape for tensor in (*fact.inputs, *fact.parameters, *fact.outputs)]

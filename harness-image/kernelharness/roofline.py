"""Speed of light: how fast this function could be on this device, from bytes, operations and measured ceilings.

t_min = max(bytes / bandwidth, operations / rate) of the *function*: inputs and parameters once, outputs once. Guides
model ("38 % of the bound, memory") and says when a time is too good. Ceilings are measured by devices/.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kernelharness.channel import ITEM_BYTES
from kernelharness.devices.base import Ceilings
from kernelharness.protocol import CaseFact

IMPOSSIBLE_SHARE = 0.9
"""A time below this share of what moving the outputs alone takes is not a time of this function."""
CACHE_FACTOR = 20
"""Outputs that fit into caches are written at most this much faster than memory can be."""


@dataclass(frozen=True)
class Bound:
    t_min_ns: int
    kind: str
    """memory | compute"""
    bytes: int
    flops: int
    bytes_per_second: float = 0.0
    """Ceilings as they were measured on this device; 0: unknown."""
    flops_per_second: float = 0.0

    def percent(self, ns: float) -> float:
        """How much of the bound a call of this many nanoseconds reaches."""
        return 100.0 * self.t_min_ns / ns

    def gigabytes_per_second(self, ns: float) -> float:
        return self.bytes / ns

    def gigaflops(self, ns: float) -> float:
        return self.flops / ns


def bound_of(fact: CaseFact, ceilings: Ceilings) -> Bound:
    """The case's bound. Operations count only where they can be counted (matrix products, convolutions, attention)."""
    memory_ns = fact.bytes_min / ceilings.bytes_per_second * 1e9
    flops = fact.flops or 0
    rate = ceilings.flops_per_second.get(compute_dtype(fact)) or max(ceilings.flops_per_second.values(), default=0.0)
    compute_ns = flops / rate * 1e9 if rate else 0.0
    kind = "compute" if compute_ns > memory_ns else "memory"
    return Bound(
        max(1, round(max(memory_ns, compute_ns))), kind, fact.bytes_min, flops, ceilings.bytes_per_second, rate
    )


def with_bound(fact: CaseFact, ceilings: Ceilings) -> CaseFact:
    """The fact as it is sent, with its bound."""
    bound = bound_of(fact, ceilings)
    return fact.model_copy(update={"t_min_ns": bound.t_min_ns, "bound": bound.kind})


def is_impossible(fact: CaseFact, ns: float, ceilings: Ceilings, cache_bytes: int) -> bool:
    """True when even writing the outputs takes longer. Inputs may be read in part: gathers and masks are honest."""
    written = sum(math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype] for tensor in fact.outputs)
    rate = ceilings.bytes_per_second * (CACHE_FACTOR if written < 2 * cache_bytes else 1)
    return ns < IMPOSSIBLE_SHARE * written / rate * 1e9


def is_extraordinary(fact: CaseFact, ns: float, ceilings: Ceilings) -> bool:
    """Faster than the bound, but not impossible: worth a confirmation, and a flag."""
    return ns < bound_of(fact, ceilings).t_min_ns


def compute_dtype(fact: CaseFact) -> str:
    """The type that the arithmetic is in: that of the first floating input, parameter or output."""
    tensors = [*fact.inputs, *fact.parameters, *fact.outputs]
    return next((tensor.dtype for tensor in tensors if "float" in tensor.dtype), "float32")

"""How long a batch may take before whoever runs it gives up on the judge itself.

The judge keeps its own time limits per compile and per run; this is the limit behind them, for a judge that hangs. It
is therefore generous, and the same for a pod (activeDeadlineSeconds) and for this machine.
"""

from __future__ import annotations

from kernelharness.protocol import Batch

_START_SECONDS = 180
"""Image already there: interpreter, torch, problem filter."""
_BASELINE_SECONDS_PER_CASE = 240
"""Eager and torch.compile, of which the judge allows the latter 120 s to compile."""


def deadline_seconds(batch: Batch) -> int:
    cases = max(1, len(batch.problem.cases))
    toolchain = batch.toolchain
    per_candidate = toolchain.compile_timeout_seconds + toolchain.run_timeout_seconds * (cases + 1)
    return _START_SECONDS + cases * _BASELINE_SECONDS_PER_CASE + len(batch.candidates) * per_candidate

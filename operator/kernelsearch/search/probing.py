"""Each target is probed first: an empty batch that runs the reference, so that shapes and baselines are known."""

from __future__ import annotations

from kernelharness.protocol import Purpose

from kernelsearch.search.actions import SubmitBatch
from kernelsearch.search.records import TargetState
from kernelsearch.search.state import State


def next_probe(state: State) -> SubmitBatch | None:
    for target in state.targets.values():
        if not target.probed and not target.failed and not _running(state, target):
            attempt = target.probe_attempts
            id = f"{target.name}-{state.next_batch}-{attempt}"
            return SubmitBatch(id, target.name, Purpose.PROBE, (), attempt, target.bad_nodes)
    return None


def _running(state: State, target: TargetState) -> bool:
    return any(
        batch.target == target.name and batch.purpose is Purpose.PROBE for batch in state.batches_in_flight.values()
    )

"""Candidates that no model is asked for: the seeds of a target, and another setting of a kernel's tunables.

Pure. Events are unstamped (`at_ns` 0); the engine stamps them as it writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from kernelsearch.engine.inputs import SearchInputs
from kernelsearch.search.actions import ProposeTuned
from kernelsearch.search.edits import find_tunables
from kernelsearch.search.journal import CandidateProposed, Operator
from kernelsearch.search.state import State


def seeds(inputs: SearchInputs, state: State) -> Iterator[CandidateProposed]:
    """The seeds that were not proposed yet, each for every target of its language."""
    known = {(each.target, each.source_ref) for each in state.candidates.values() if each.operator is Operator.SEED}
    ask_no = state.next_ask
    for target in state.targets.values():
        for seed in inputs.spec.problem.seeds:
            ref = hashlib.sha256(seed.content.encode()).hexdigest()
            if seed.language != target.limits.language or (target.name, ref) in known:
                continue
            known.add((target.name, ref))
            id = f"c{ask_no}-{target.name}"
            yield CandidateProposed(
                at_ns=0,
                id=id,
                ask_no=ask_no,
                target=target.name,
                operator=Operator.SEED,
                lane=id,
                plan="given with the problem",
                source_ref=ref,
                tunables=find_tunables(seed.content),
            )
            ask_no += 1


def tuned(action: ProposeTuned, source: str, source_ref: str) -> CandidateProposed:
    """The parent with other values, which `source` has already."""
    values = ", ".join(f"{name} = {value}" for name, value in action.values.items())
    return CandidateProposed(
        at_ns=0,
        id=f"c{action.ask_no}-{action.target}",
        ask_no=action.ask_no,
        target=action.target,
        operator=Operator.TUNE,
        lane=action.lane,
        parent=action.parent,
        plan=f"tune {values}",
        source_ref=source_ref,
        tunables=find_tunables(source),
    )

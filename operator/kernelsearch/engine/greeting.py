"""What a search says of its targets before anything runs: which can never run, and which seeds they start from.

Pure and level-based: asked again with a state that already holds the answer, it says nothing. So a target that is added
to a running search is greeted like the first ones. Events are unstamped (`at_ns` 0).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from kernelsearch.engine.inputs import SearchInputs
from kernelsearch.search.edits import find_tunables
from kernelsearch.search.journal import CandidateProposed, Event, Operator, TargetFailed
from kernelsearch.search.state import State


def greet_targets(inputs: SearchInputs, state: State) -> tuple[Event, ...]:
    return (*_impossible(inputs, state), *_seeds(inputs, state))


def seed_ref(content: str) -> str:
    """The blob that holds a seed."""
    return hashlib.sha256(content.encode()).hexdigest()


def _impossible(inputs: SearchInputs, state: State) -> Iterator[TargetFailed]:
    for target in state.targets.values():
        reason, message = inputs.why_no_target(target.limits.profile, target.limits.language)
        if reason and target.failed is None:
            yield TargetFailed(at_ns=0, target=target.name, reason=reason, message=message)


def _seeds(inputs: SearchInputs, state: State) -> Iterator[CandidateProposed]:
    known = {(each.target, each.source_ref) for each in state.candidates.values() if each.operator is Operator.SEED}
    ask_no = state.next_ask
    for target in state.targets.values():
        for seed in inputs.spec.problem.seeds:
            ref = seed_ref(seed.content)
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

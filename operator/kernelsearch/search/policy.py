"""What to start next: the one decision of a search, as a list of rules.

    1 a search that comes to its end proposes nothing more; it stops when nothing runs and the best is confirmed
    2 each target is probed first
    3 the provisional best is confirmed                                       (confirm.py)
    4 candidates are proposed while fewer than W are under way                (operators.py, lanes.py, tuning.py)
    5 waiting candidates go to free pods, failures of the machine first       (batching.py, fold_batches.py)

`ask` is pure and level-based: it compares what should run with what does. Asking twice gives the same answer, and once
the answer is in the journal, asking gives nothing more.
"""

from __future__ import annotations

from kernelharness.protocol import Purpose

from kernelsearch.search import batching, budget, confirm, models, operators, probing, stopping
from kernelsearch.search.actions import Action, CallModel, ProposeTuned, Stop, SubmitBatch
from kernelsearch.search.journal import BatchSubmitted, CandidateProposed, Event, LlmReserved, Operator
from kernelsearch.search.state import State, apply

MOST_ACTIONS = 64
"""Of one answer, so that it never takes long; the next answer goes on."""


def ask(state: State, now_ns: int) -> tuple[Action, ...]:
    """What should be started beyond what is in flight; empty when there is nothing to do but wait.

    `now_ns` (Unix epoch) serves only limits in time: the duration of the budget, how long a partial batch waits for
    company, how long a failing model is left alone. `wake_ns` says when time alone would change the answer.
    """
    if not state.targets or state.paused or state.stopped:
        return ()
    ending = stopping.ending(state, now_ns)
    if ending and budget.overtime(state, now_ns):
        return (Stop(ending.reason, ending.message),)
    actions: list[Action] = []
    ahead = state
    while len(actions) < MOST_ACTIONS and (action := _next(ahead, now_ns, ending, frozenset(_growing(actions)))):
        actions.append(action)
        ahead = apply(ahead, _announced(ahead, action, now_ns))
    if ending and not actions and not state.calls_in_flight and not state.batches_in_flight:
        return (Stop(ending.reason, ending.message),)
    return tuple(actions)


def wake_ns(state: State, now_ns: int) -> int | None:
    """When to ask again if nothing happens until then; None: only an event can change the answer."""
    if not state.targets or state.paused or state.stopped:
        return None
    times = [models.resting_until_ns(state, model) for model in state.limits.models]
    times += [batching.held_until_ns(state, target) or 0 for target in state.targets.values()]
    since, limit = state.ledger.running_since_ns, state.limits.duration_seconds
    if since is not None and limit is not None:
        kept = budget.kept_seconds(state)
        start_ns = since - state.ledger.active_ns
        times += [start_ns + int(seconds * 1e9) + 1 for seconds in (limit - kept, limit + kept)]
    return min((time for time in times if time > now_ns), default=None)


def _next(
    state: State, now_ns: int, ending: stopping.Ending | None, growing: frozenset[str]
) -> CallModel | ProposeTuned | SubmitBatch | None:
    if ending is None:
        return (
            probing.next_probe(state)
            or confirm.next_confirmation(state, ending=False)
            or operators.next_proposal(state, now_ns)
            or batching.next_batch(state, now_ns, ending=False, growing=growing)
        )
    batch = batching.next_batch(state, now_ns, ending=True, growing=growing) if ending.evaluate else None
    return batch or (confirm.next_confirmation(state, ending=True) if ending.confirm else None)


def _growing(actions: list[Action]) -> set[str]:
    return {action.target for action in actions if isinstance(action, ProposeTuned)}


def _announced(state: State, action: CallModel | ProposeTuned | SubmitBatch, now_ns: int) -> Event:
    """The event that the engine will write for an action, as far as the next rule must know of it."""
    match action:
        case CallModel():
            return _reserved(state, action, now_ns)
        case ProposeTuned():
            parent = state.candidates[action.parent].proposal
            tunables = (t.model_copy(update={"value": action.values[t.name]}) for t in parent.tunables)
            return CandidateProposed(
                at_ns=now_ns,
                id=f"c{action.ask_no}-{action.target}",
                ask_no=action.ask_no,
                target=action.target,
                operator=Operator.TUNE,
                lane=action.lane,
                parent=action.parent,
                source_ref=f"announced-{action.ask_no}",
                tunables=tuple(tunables),
            )
        case SubmitBatch():
            return BatchSubmitted(
                at_ns=now_ns,
                id=action.id,
                target=action.target,
                purpose=Purpose(action.purpose),
                candidates=action.candidates,
                attempt=action.attempt,
                avoid_nodes=action.avoid_nodes,
            )


def _reserved(state: State, action: CallModel, now_ns: int) -> LlmReserved:
    model = next(model for model in state.limits.models if model.name == action.model)
    price = budget.highest_price(state, model)
    return LlmReserved(
        at_ns=now_ns,
        call_id=f"announced-{action.ask_no}",
        ask_no=action.ask_no,
        target=action.target,
        operator=action.operator,
        lane=action.lane,
        parent=action.parent,
        model=action.model,
        tokens=price.tokens,
        cost_micros=price.cost_micros,
    )

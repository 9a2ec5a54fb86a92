"""How reserving and settling a model call change the state: money first, then the lane's and the model's account.

A call is charged at the most it can cost from the moment it is announced until it is settled, so the ledger is never
below the truth. A lost call stays charged at its reservation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelsearch.search import fold_candidates
from kernelsearch.search.evolve import replace
from kernelsearch.search.journal import LlmReserved, LlmSettled
from kernelsearch.search.records import ModelHealth, Reservation

if TYPE_CHECKING:
    from kernelsearch.search.state import State

REFUSED_FOR_GOOD = ("LLMUnauthorized", "LLMNotFound")


def reserved(state: State, event: LlmReserved) -> State:
    if event.call_id in state.calls:
        return state
    known = state.reservations.get(event.model, Reservation())
    largest = Reservation(max(known.tokens, event.tokens), max(known.cost_micros, event.cost_micros))
    ledger = replace(
        state.ledger,
        calls=state.ledger.calls + 1,
        reserved_tokens=state.ledger.reserved_tokens + event.tokens,
        reserved_micros=state.ledger.reserved_micros + event.cost_micros,
    )
    state = replace(
        state,
        ledger=ledger,
        calls=state.calls.put(event.call_id, event),
        calls_in_flight={**state.calls_in_flight, event.call_id: event},
        reservations={**state.reservations, event.model: largest},
        next_ask=max(state.next_ask, event.ask_no + 1),
    )
    return _count_asks(state, event, 1)


def settled(state: State, event: LlmSettled) -> State:
    call = state.calls_in_flight.get(event.call_id)
    if call is None:
        return state
    lost = event.outcome == "lost"
    tokens, cost_micros = event.input_tokens + event.output_tokens, event.cost_micros
    if lost:
        tokens, cost_micros = max(tokens, call.tokens), max(cost_micros, call.cost_micros)
    ledger = replace(
        state.ledger,
        reserved_tokens=state.ledger.reserved_tokens - call.tokens,
        reserved_micros=state.ledger.reserved_micros - call.cost_micros,
        input_tokens=state.ledger.input_tokens + event.input_tokens,
        output_tokens=state.ledger.output_tokens + event.output_tokens,
        tokens=state.ledger.tokens + tokens,
        cost_micros=state.ledger.cost_micros + cost_micros,
    )
    in_flight = {id: open_call for id, open_call in state.calls_in_flight.items() if id != event.call_id}
    state = replace(state, ledger=ledger, calls_in_flight=in_flight)
    if event.outcome == "ok":
        return replace(state, consecutive_call_errors=0, models=_healthy(state, call.model))
    state = _count_asks(state, call, -1)
    if lost:
        return state
    state = fold_candidates.fail(state, event.reason or "LLMError", event.message, event.at_ns)
    state = replace(state, consecutive_failures=state.consecutive_failures + 1)
    if event.outcome == "invalid_reply":
        return replace(state, consecutive_call_errors=0, models=_healthy(state, call.model))
    known = state.models.get(call.model, ModelHealth())
    for_good = event.permanent or event.reason in REFUSED_FOR_GOOD
    refused = event.reason if for_good else known.refused
    health = ModelHealth(known.errors + 1, event.at_ns, refused, event.message)
    return replace(
        state,
        consecutive_call_errors=state.consecutive_call_errors + 1,
        models={**state.models, call.model: health},
    )


def _healthy(state: State, model: str) -> dict[str, ModelHealth]:
    return {**state.models, model: ModelHealth()}


def _count_asks(state: State, call: LlmReserved, change: int) -> State:
    """A running call is an ask of its target and lane; one that brought no candidate was none."""
    target = state.targets.get(call.target)
    if target is not None:
        target = replace(target, asks=target.asks + change)
        state = replace(state, targets={**state.targets, call.target: target})
    lane = state.lanes.get(call.lane) if call.lane else None
    if lane is not None:
        state = replace(state, lanes=state.lanes.put(lane.id, replace(lane, asks=lane.asks + change)))
    return state

"""What a search may still spend. Reservations count as spent, so a limit is passed by one reservation at most.

Each set limit is a hard stop for new work; a part of the time and of the accelerator seconds is kept back, so that the
best kernel can still be confirmed when the rest is gone. Tokens and money need no such part: confirming asks no model.
"""

from __future__ import annotations

from statistics import fmean

from kernelsearch.search.journal import ModelLimits
from kernelsearch.search.records import Reservation
from kernelsearch.search.state import State

KEPT_SHARE = 0.05
KEPT_EVALUATIONS = 3
LARGEST_KEPT_SHARE = 0.5
INPUT_TOKENS_GUESS = 8_000
"""Of a prompt, until the first reservation shows how long they are."""
EXPECTED_CALLS = 120
"""When no limit says how many calls there will be."""
WARMED_UP = 5
"""Settled calls after which their mean is worth more than the model's limits."""


def left(state: State, now_ns: int) -> float:
    """The share of the budget that is neither spent nor promised, 0 to 1: the scarcest limit decides."""
    limits, ledger = state.limits, state.ledger
    used = (
        (ledger.candidates + open_asks(state), limits.candidates),
        (ledger.tokens + ledger.reserved_tokens, limits.tokens),
        (ledger.cost_micros + ledger.reserved_micros, limits.cost_micros),
        (ledger.active_seconds(now_ns), limits.duration_seconds),
        (ledger.device_seconds, limits.accelerator_seconds),
    )
    return min([1.0, *(max(0.0, 1 - spent / limit) for spent, limit in used if limit is not None)])


def open_asks(state: State) -> int:
    """Calls in flight that may still bring a candidate; a retry in the same chat is the same ask."""
    return len({call.ask_no for call in state.calls_in_flight.values()} - _answered(state))


def _answered(state: State) -> set[int]:
    """Asks whose candidate is in the journal although their call is not settled yet."""
    calls = state.calls_in_flight.values()
    return {call.ask_no for call in calls if f"c{call.ask_no}-{call.target}" in state.candidates}


def spent(state: State, now_ns: int) -> str:
    """Which limit ends the search, in words; empty while there is budget for another candidate."""
    limits, ledger = state.limits, state.ledger
    if limits.candidates is not None and ledger.candidates >= limits.candidates:
        return f"all {limits.candidates} candidates were proposed"
    if time_is_up(state, now_ns):
        active, kept = ledger.active_seconds(now_ns), kept_seconds(state)
        return f"{active:.0f} of {limits.duration_seconds} s are over; {kept:.0f} s are kept to confirm the best"
    if not evaluation_fits(state):
        return f"{ledger.device_seconds:.0f} of {limits.accelerator_seconds} accelerator seconds are used"
    if limits.has_llm and not state.calls_in_flight and limits.models:
        refusals = [refusal for model in limits.models if (refusal := call_refusal(state, model))]
        if len(refusals) == len(limits.models):
            return refusals[0]
    return ""


def proposal_fits(state: State) -> bool:
    """True when one more candidate is within the limit, those that running calls may bring included."""
    limit = state.limits.candidates
    return limit is None or state.ledger.candidates + open_asks(state) < limit


def call_refusal(state: State, model: ModelLimits) -> str:
    """Why a call of this model does not fit any more, at the highest price it may have; empty when it fits."""
    limits, ledger = state.limits, state.ledger
    price = highest_price(state, model)
    tokens = ledger.tokens + ledger.reserved_tokens
    if limits.tokens is not None and tokens + price.tokens > limits.tokens:
        return f"{tokens} of {limits.tokens} tokens are used, and a call of {model.name} may use {price.tokens}"
    cost = ledger.cost_micros + ledger.reserved_micros
    if limits.cost_micros is not None and cost + price.cost_micros > limits.cost_micros:
        highest = f"a call of {model.name} may cost {price.cost_micros / 1e6:.4g}"
        return f"{cost / 1e6:.4g} of {limits.cost_micros / 1e6:.4g} are spent, and {highest}"
    return ""


def highest_price(state: State, model: ModelLimits) -> Reservation:
    """What the model's next call may use: the largest reservation so far, or a guess before the first."""
    if model.name in state.reservations:
        return state.reservations[model.name]
    prices = (model.input_micros_per_mtok or 0, model.output_micros_per_mtok or 0)
    cost = (INPUT_TOKENS_GUESS * prices[0] + model.max_output_tokens * prices[1]) // 1_000_000
    return Reservation(INPUT_TOKENS_GUESS + model.max_output_tokens, cost)


def evaluation_fits(state: State) -> bool:
    """True when a search batch leaves enough accelerator time to confirm the best."""
    limit = state.limits.accelerator_seconds
    if limit is None:
        return True
    mean = _mean([seconds for target in state.targets.values() for seconds in target.batch_device_seconds])
    kept = min(max(KEPT_SHARE * limit, KEPT_EVALUATIONS * mean), LARGEST_KEPT_SHARE * limit)
    return state.ledger.device_seconds + len(state.batches_in_flight) * mean < limit - kept


def confirmation_fits(state: State) -> bool:
    limit = state.limits.accelerator_seconds
    return limit is None or state.ledger.device_seconds < limit


def kept_seconds(state: State) -> float:
    """Wall time kept to confirm the best: 5 % of the duration, three batches at least."""
    limit = state.limits.duration_seconds or 0
    mean = _mean([ns / 1e9 for target in state.targets.values() for ns in target.batch_ns])
    return min(max(KEPT_SHARE * limit, KEPT_EVALUATIONS * mean), LARGEST_KEPT_SHARE * limit)


def time_is_up(state: State, now_ns: int) -> bool:
    """True when only the time kept for confirming is left."""
    limit = state.limits.duration_seconds
    return limit is not None and state.ledger.active_seconds(now_ns) >= limit - kept_seconds(state)


def overtime(state: State, now_ns: int) -> bool:
    """True when even the time kept for confirming is over by as much again: whatever still runs is abandoned."""
    limit = state.limits.duration_seconds
    return limit is not None and state.ledger.active_seconds(now_ns) >= limit + kept_seconds(state)


def expected_calls(state: State) -> float:
    """How many asks the whole budget buys; it sets how many run at once and how long a plateau is."""
    limits, ledger = state.limits, state.ledger
    bounds = [] if limits.candidates is None else [float(limits.candidates)]
    settled = ledger.calls - len(state.calls_in_flight)
    if settled >= WARMED_UP:
        tokens, cost = ledger.tokens / settled, ledger.cost_micros / settled
    else:
        guesses = [highest_price(state, model) for model in limits.models]
        tokens = _mean([guess.tokens for guess in guesses]) / 2
        cost = _mean([guess.cost_micros for guess in guesses]) / 2
    if limits.tokens is not None and tokens > 0:
        bounds.append(limits.tokens / tokens)
    if limits.cost_micros is not None and cost > 0:
        bounds.append(limits.cost_micros / cost)
    return min(bounds) if bounds else float(EXPECTED_CALLS)


def _mean(values: list[float] | list[int]) -> float:
    return fmean(values) if values else 0.0

"""One question to a model: what it may cost, what came of it, and the one retry when the reply is unusable.

A call is reserved at its highest possible price before it leaves and settled at what it cost. A reply that cannot be
parsed is settled as such, and the same chat goes on once, under a reservation of its own: money never leaves unseen.
Events are unstamped (`at_ns` 0); the engine stamps them as it writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kernelsearch.engine.inputs import SearchInputs
from kernelsearch.llm.client import LlmClient, ModelEndpoint
from kernelsearch.llm.errors import AnswerCut, LlmError
from kernelsearch.llm.pricing import cost_micros, highest_cost_micros, highest_input_tokens
from kernelsearch.search.actions import CallModel
from kernelsearch.search.edits import ReplyError, find_tunables, parse_reply
from kernelsearch.search.journal import CandidateProposed, Event, LlmReserved, LlmSettled, ModelLimits, Operator
from kernelsearch.search.prompts import ChatMessage, build_prompt, retry_messages
from kernelsearch.search.state import State
from kernelsearch.store.base import Store


@dataclass(frozen=True)
class Call:
    action: CallModel
    model: ModelLimits
    messages: tuple[ChatMessage, ...]
    base: str | None
    """The source that SEARCH blocks refer to; None for a draft."""
    retry: bool = False

    @property
    def id(self) -> str:
        """Deterministic: the same ask gives the same calls."""
        return f"a{self.action.ask_no}-{self.action.target}" + ("-retry" if self.retry else "")

    def reservation(self) -> LlmReserved:
        input_tokens = highest_input_tokens(self.messages)
        return LlmReserved(
            at_ns=0,
            call_id=self.id,
            ask_no=self.action.ask_no,
            target=self.action.target,
            operator=self.action.operator,
            lane=self.action.lane,
            parent=self.action.parent,
            model=self.model.name,
            tokens=input_tokens + self.model.max_output_tokens,
            cost_micros=highest_cost_micros(self.model, input_tokens),
        )

    def fits(self, state: State) -> bool:
        """Whether the budget can pay for it, at its highest price."""
        reserved, ledger, limits = self.reservation(), state.ledger, state.limits
        cost = ledger.cost_micros + ledger.reserved_micros + reserved.cost_micros
        tokens = ledger.tokens + ledger.reserved_tokens + reserved.tokens
        return (limits.cost_micros is None or cost <= limits.cost_micros) and (
            limits.tokens is None or tokens <= limits.tokens
        )


@dataclass(frozen=True)
class CallEnd:
    events: tuple[Event, ...]
    retry: Call | None = None
    """The same chat, with what was wrong; to be reserved in the same transaction as `events`."""


def build(inputs: SearchInputs, state: State, action: CallModel, header: str, sources: Mapping[str, str]) -> Call:
    """The call with its prompt. `sources`: candidate id -> source, for `needed_sources`; `header`: problem.h."""
    messages = build_prompt(state, action, inputs.prompt_context(state, action.target, header, sources))
    model = next(model for model in state.limits.models if model.name == action.model)
    edits_parent = action.parent is not None and action.operator in (Operator.EDIT, Operator.REPAIR)
    return Call(action, model, messages, sources[action.parent] if edits_parent and action.parent else None)


async def perform(call: Call, client: LlmClient, endpoint: ModelEndpoint, store: Store) -> CallEnd:
    """Ask, parse and keep the source. The call is reserved already."""
    try:
        completion = await client.complete(endpoint, call.messages)
    except LlmError as error:
        return CallEnd((_failed(call, error),))
    cost = cost_micros(call.model, completion.input_tokens, completion.output_tokens)
    settled = LlmSettled(
        at_ns=0,
        call_id=call.id,
        outcome="ok",
        input_tokens=completion.input_tokens,
        output_tokens=completion.output_tokens,
        cost_micros=cost,
    )
    try:
        reply = parse_reply(completion.text, call.base)
    except ReplyError as error:
        invalid = {"outcome": "invalid_reply", "reason": "LLMInvalidOutput", "message": str(error)}
        messages = retry_messages(call.messages, completion.text, error)
        again = None if call.retry else Call(call.action, call.model, messages, call.base, retry=True)
        return CallEnd((settled.model_copy(update=invalid),), again)
    ref = await store.put_blob(reply.source.encode())
    return CallEnd((settled, _proposed(call, reply.plan, reply.source, ref)))


def losses(state: State, why: str) -> list[LlmSettled]:
    """For the calls whose answers nobody will read: they may be billed, so their reservations are charged."""
    return [
        LlmSettled(
            at_ns=0,
            call_id=call_id,
            outcome="lost",
            input_tokens=0,
            output_tokens=0,
            cost_micros=reserved.cost_micros,
            message=f"{why} before the answer was read",
        )
        for call_id, reserved in state.calls_in_flight.items()
    ]


def _failed(call: Call, error: LlmError) -> LlmSettled:
    """An answer that did not fit is the model's fault, not the endpoint's: nothing has to rest after it."""
    return LlmSettled(
        at_ns=0,
        call_id=call.id,
        outcome="invalid_reply" if isinstance(error, AnswerCut) else "error",
        input_tokens=error.input_tokens,
        output_tokens=error.output_tokens,
        cost_micros=cost_micros(call.model, error.input_tokens, error.output_tokens),
        reason=error.reason,
        message=error.message,
        permanent=error.permanent,
    )


def _proposed(call: Call, plan: str, source: str, ref: str) -> CandidateProposed:
    action = call.action
    id = f"c{action.ask_no}-{action.target}"
    return CandidateProposed(
        at_ns=0,
        id=id,
        ask_no=action.ask_no,
        target=action.target,
        operator=action.operator,
        lane=action.lane or id,
        parent=action.parent,
        call_id=call.id,
        model=call.model.name,
        plan=plan,
        source_ref=ref,
        tunables=find_tunables(source),
    )

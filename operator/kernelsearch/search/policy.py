"""What to start next: the one decision of a search, as a list of rules. See `ask`."""

from __future__ import annotations

from kernelsearch.search.actions import Action
from kernelsearch.search.state import State


def ask(state: State, now_ns: int) -> tuple[Action, ...]:
    """What should be started beyond what is in flight; empty when there is nothing to do but wait.

    Pure and level-based. `now_ns` (Unix epoch) only serves limits in time: the duration of the budget, how long a
    partial batch may wait for company, how long a failing model is left alone.
    """
    raise NotImplementedError


def wake_ns(state: State, now_ns: int) -> int | None:
    """When to ask again if nothing happens until then; None: only an event can change the answer."""
    raise NotImplementedError

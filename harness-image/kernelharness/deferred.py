"""Backward passes that wait until all forward calls of a run have returned: how correctness sets are run.

A model's layers are called forward one after the other before the first backward comes, so what a kernel keeps for
backward must belong to its call. Calls that only ever alternated would hide a kernel that keeps it in one place.
Used by the arms (torch_arms.py, native_arm.py), which alternate when they are timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Deferred:
    """What is still to be done for the results of a run."""

    def __init__(self) -> None:
        self._waiting: list[tuple[list[Any], Callable[[], list[Any]]]] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, result: list[Any], backward: Callable[[], list[Any]]) -> None:
        """`backward` makes the gradients that will be appended to `result`."""
        self._waiting.append((result, backward))

    def run(self) -> None:
        """The last call's backward first, as autograd does."""
        while self._waiting:
            result, backward = self._waiting.pop()
            result.extend(backward())

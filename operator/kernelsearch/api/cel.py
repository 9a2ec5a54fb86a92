"""The CEL rules of the API, evaluated on this machine as the API server evaluates them.

Uses Google's C++ CEL through cel-expr-python: the same language definition and the same RE2 regular expressions as the
API server's cel-go, so `matches` serves the schema's patterns too (Python's `$` also matches before a final newline,
RE2's does not). docs/decisions/0005-local-cel.md compares the libraries.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from cel_expr_python import cel


@cache
def _environment() -> cel.Env:
    return cel.NewEnv(variables={"self": cel.Type.DYN, "oldSelf": cel.Type.DYN})


@cache
def _program(expression: str) -> cel.Expression:
    return _environment().compile(expression)


def is_transition(expression: str) -> bool:
    """Whether the rule compares with the object's earlier state; such rules are not checked on creation."""
    return re.search(r"\boldSelf\b", expression) is not None


def holds(expression: str, value: Any, old: Any = None) -> bool:
    """Evaluate a rule with `self` (and `oldSelf`). An evaluation error is a violation, as it is for the API server.

    Raise RuntimeError when the expression is not CEL.
    """
    data = {"self": value, "oldSelf": old} if is_transition(expression) else {"self": value}
    result: Any = _program(expression).eval(data=data).value()
    return result is True


def matches(pattern: str, text: str) -> bool:
    """Whether the RE2 pattern is found in the text."""
    result: Any = _program(f"self.matches({_literal(pattern)})").eval(data={"self": text}).value()
    return result is True


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"

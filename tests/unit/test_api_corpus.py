"""This machine's verdict on the corpus; tests/cluster/test_crds.py asks an API server for its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kernelsearch.api import cel
from kernelsearch.api.base import VALIDATIONS
from kernelsearch.api.documents import DocumentError, check_update, parse
from kernelsearch.api.resources import KINDS
from kernelsearch.api.schema import object_schema

from ..api_corpus import CorpusCase, read_corpus

CORPUS = read_corpus()


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.id)
def test_verdict_field_and_message_are_as_written(case: CorpusCase) -> None:
    found = _verdict(case)
    if not case.rejects:
        assert found == []
    for path, message in case.rejects:
        texts = [text for where, text in found if where == path]
        assert texts, f"no error at {path!r}, but at {found}"
        assert any((message or "") in text for text in texts), texts


def _verdict(case: CorpusCase) -> list[tuple[str, str]]:
    if case.before is not None:
        return [(error.path, error.message) for error in check_update(case.before, case.object)]
    try:
        parse(case.object)
    except DocumentError as error:
        return [_split(problem) for problem in error.problems]
    return []


def _split(problem: str) -> tuple[str, str]:
    """'spec.budget: set ...' -> its two parts; an error of the object itself has no field."""
    path, colon, message = problem.partition(": ")
    return (path, message) if colon and " " not in path else ("", problem)


def _rules(schema: dict[str, Any]) -> Iterator[dict[str, str]]:
    yield from schema.get(VALIDATIONS, [])
    for part in [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]:
        if isinstance(part, dict):
            yield from _rules(part)


RULES = {rule["message"]: rule["rule"] for model in KINDS for rule in _rules(object_schema(model))}


@pytest.mark.parametrize("message", RULES)
def test_every_rule_rejects_something_and_lets_the_rest_pass(message: str) -> None:
    assert any(part and part in message for case in CORPUS for _, part in case.rejects), "no rejecting case"


@pytest.mark.parametrize("rule", RULES.values())
def test_every_rule_is_evaluated_by_an_accepted_object(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = []

    def record(expression: str, value: Any, old: Any = None) -> bool:
        evaluated.append(expression)
        return holds(expression, value, old)

    holds = cel.holds
    monkeypatch.setattr(cel, "holds", record)
    for case in CORPUS:
        if not case.rejects:
            assert _verdict(case) == []
    assert rule in evaluated

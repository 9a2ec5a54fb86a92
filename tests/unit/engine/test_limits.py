"""What a spec says becomes what the policy reads."""

from __future__ import annotations

import pytest
from kernelsearch.api.documents import parse
from kernelsearch.api.translate import TranslateError
from kernelsearch.engine import to_limits

SPEC = {
    "apiVersion": "kernelsearch.dev/v1alpha1",
    "kind": "KernelSearch",
    "metadata": {"name": "search"},
    "spec": {
        "problem": {"source": {"configMap": {"name": "problem"}}},
        "targets": [{"name": "cpu", "profile": "x86-64-v3", "language": "cpp"}],
        "llm": {"models": [{"name": "main", "model": "m", "endpoint": "https://llm.example.com/v1"}]},
        "budget": {"candidates": 10},
    },
}


def _spec(**policy: object):
    found = parse({**SPEC, "spec": {**SPEC["spec"], "policy": policy}})
    return getattr(found, "spec", found)


def test_without_parameters_the_policy_chooses_the_width() -> None:
    assert to_limits(_spec()).width is None


def test_the_width_may_be_given() -> None:
    assert to_limits(_spec(parameters={"width": "8"})).width == 8


@pytest.mark.parametrize("text", ["0", "65", "two", "1.5"])
def test_a_width_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(TranslateError, match="whole number from 1 to 64"):
        to_limits(_spec(parameters={"width": text}))


def test_a_parameter_that_nobody_reads_is_refused() -> None:
    with pytest.raises(TranslateError, match=r"no 'widht'; there is 'width'"):
        to_limits(_spec(parameters={"widht": "8"}))


def test_an_algorithm_that_is_not_there_is_refused() -> None:
    with pytest.raises(TranslateError, match="'islands' is not known"):
        to_limits(_spec(algorithm="islands"))

"""What the Deployment's environment may say."""

from __future__ import annotations

import json

import pytest
from kernelsearch.controller.settings import SettingsError, read_settings

GOOD = {
    "KERNELSEARCH_DATABASE": "/var/lib/kernelsearch/journal.db",
    "KERNELSEARCH_NAMESPACE": "kernelsearch",
    "KERNELSEARCH_SEARCH_NAMESPACES": json.dumps(
        [
            {"name": "team-a", "evaluationNamespace": "team-a-evaluation"},
            {"name": "team-b", "evaluationNamespace": "evaluation"},
            {"name": "team-c", "evaluationNamespace": "evaluation"},
        ]
    ),
}


def test_namespaces_lead_to_their_evaluation_namespace() -> None:
    settings = read_settings(GOOD)
    assert settings.evaluation_namespace("team-a") == "team-a-evaluation"
    assert settings.evaluation_namespace("team-c") == "evaluation"
    assert settings.evaluation_namespace("team-d") is None
    assert settings.evaluation_namespaces == ("evaluation", "team-a-evaluation")


@pytest.mark.parametrize("text", ['["http://llm.demo.svc:8000"]', "http://llm.demo.svc:8000", ""])
def test_origins_are_a_json_list_or_words(text: str) -> None:
    origins = read_settings({**GOOD, "KERNELSEARCH_ALLOWED_ORIGINS": text}).allowed_origins
    assert origins == (("http://llm.demo.svc:8000",) if text else ())


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("KERNELSEARCH_DATABASE", ""),
        ("KERNELSEARCH_NAMESPACE", ""),
        ("KERNELSEARCH_SEARCH_NAMESPACES", ""),
        ("KERNELSEARCH_SEARCH_NAMESPACES", "[]"),
        ("KERNELSEARCH_SEARCH_NAMESPACES", "team-a"),
        ("KERNELSEARCH_SEARCH_NAMESPACES", '[{"name": "a", "evaluationNamespace": "b", "surplus": 1}]'),
        ("KERNELSEARCH_ALLOWED_ORIGINS", '["llm.demo.svc"]'),
        ("KERNELSEARCH_ALLOWED_ORIGINS", "[1]"),
        ("KERNELSEARCH_LIVENESS_PORT", "http"),
    ],
)
def test_what_makes_no_sense_is_refused_and_the_variable_named(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=variable):
        read_settings({**GOOD, variable: value})

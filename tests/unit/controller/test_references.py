"""Which Secret may be sent where: the rules that keep the operator from being anybody's deputy."""

from __future__ import annotations

from typing import Any

import pytest
from kernelsearch.controller.references import why_not_usable

ENDPOINT = "https://llm.example.com/v1"


def a_secret(labels: dict[str, str] | None = None, origins: str | None = None) -> dict[str, Any]:
    annotations = {} if origins is None else {"kernelsearch.dev/allowed-origins": origins}
    return {
        "metadata": {"name": "llm-key", "labels": labels, "annotations": annotations},
        "data": {"token": "c2VjcmV0"},
    }


LABELLED = {"kernelsearch.dev/llm-credential": "true"}


@pytest.mark.parametrize(
    "origins",
    [
        "https://llm.example.com",
        "https://llm.example.com:443",
        "https://LLM.example.com/",
        "https://other.example.com, https://llm.example.com",
        "https://other.example.com https://llm.example.com",
    ],
)
def test_a_labelled_secret_goes_to_an_origin_that_its_owner_listed(origins: str) -> None:
    assert why_not_usable(a_secret(LABELLED, origins), ENDPOINT) == ""


@pytest.mark.parametrize(
    ("secret", "advice"),
    [
        pytest.param(a_secret(None, "https://llm.example.com"), "kubectl label secret llm-key", id="no label"),
        pytest.param(
            a_secret({"kernelsearch.dev/llm-credential": "false"}, "https://llm.example.com"), "label", id="label false"
        ),
        pytest.param(a_secret(LABELLED), "kubectl annotate secret llm-key", id="no origins"),
        pytest.param(a_secret(LABELLED, "https://llm.example.org"), "https://llm.example.com:443", id="another host"),
        pytest.param(a_secret(LABELLED, "http://llm.example.com"), "annotate", id="another scheme"),
        pytest.param(a_secret(LABELLED, "https://llm.example.com:8443"), "annotate", id="another port"),
        pytest.param(a_secret(LABELLED, "*"), "annotate", id="a wildcard is no origin"),
        pytest.param(a_secret(LABELLED, "example.com"), "annotate", id="a bare host is no origin"),
        pytest.param(a_secret(LABELLED, "https://llm.example.com.attacker.net"), "annotate", id="a longer host"),
    ],
)
def test_any_other_secret_is_refused_with_what_to_do(secret: dict[str, Any], advice: str) -> None:
    why = why_not_usable(secret, ENDPOINT)
    assert advice in why


def test_a_refusal_never_shows_the_key() -> None:
    why = why_not_usable(a_secret(LABELLED, "https://llm.example.org"), ENDPOINT)
    assert "c2VjcmV0" not in why
    assert "secret=" not in why

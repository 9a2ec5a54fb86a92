"""Which names a case may give a value to."""

from __future__ import annotations

import pytest
from kernelsearch.api.search_spec import Case
from kernelsearch.controller.dimensions import unknown_dimension

REFERENCE = """import torch

TOKENS = 128
HEADS, WIDTH = 8, 64
if True:
    DEPTH: int = 3


class Model:
    INNER = 1


def get_inputs():
    local = 2
    return [torch.randn(TOKENS, WIDTH)]
"""


@pytest.mark.parametrize("name", ["TOKENS", "HEADS", "WIDTH", "DEPTH"])
def test_a_top_level_constant_may_be_replaced(name: str) -> None:
    assert unknown_dimension(REFERENCE, [Case(name="a", dims={name: 4})]) == ""


@pytest.mark.parametrize("name", ["TOKEN", "INNER", "local", "torch"])
def test_any_other_name_is_refused_with_those_that_there_are(name: str) -> None:
    why = unknown_dimension(REFERENCE, [Case(name="plain"), Case(name="odd", dims={name: 4})])
    assert why == f"case odd: the reference has no top-level constant {name}; it has DEPTH, HEADS, TOKENS, WIDTH"


def test_what_is_no_python_is_left_to_the_judge() -> None:
    assert unknown_dimension("def (:", [Case(name="a", dims={"TOKENS": 4})]) == ""

import pytest
from kernelsearch.search.tunables import find_tunables, set_tunables, settings_around, space_size

CPP = """#include "problem.h"
constexpr int BLOCK = 128;  // tune: 64, 128, 256
#define UNROLL 4 // tune: 2, 4
static const float EPS = 1e-6f; // tune: 1e-6f,1e-7f
int later = 3;  // tuned by hand
"""
PYTHON = """BLOCK_M = 128  # tune: 64, 128
NUM_WARPS: int = 4  # tune: 2, 8
"""


def test_declarations_in_cpp_and_python() -> None:
    found = {tunable.name: (tunable.value, tunable.values) for tunable in find_tunables(CPP)}
    assert found == {
        "BLOCK": ("128", ("64", "128", "256")),
        "UNROLL": ("4", ("2", "4")),
        "EPS": ("1e-6f", ("1e-6f", "1e-7f")),
    }
    assert [t.name for t in find_tunables(PYTHON)] == ["BLOCK_M", "NUM_WARPS"]


def test_the_current_value_is_always_one_of_the_values() -> None:
    assert find_tunables(PYTHON)[1].values == ("2", "8", "4")


def test_setting_changes_the_value_and_nothing_else() -> None:
    changed = set_tunables(CPP, {"BLOCK": "256", "UNROLL": "2"})
    assert changed == CPP.replace("BLOCK = 128;", "BLOCK = 256;").replace("UNROLL 4", "UNROLL 2")
    assert set_tunables(changed, {"BLOCK": "128", "UNROLL": "4"}) == CPP
    assert set_tunables(PYTHON, {"NUM_WARPS": "8"}) == PYTHON.replace("= 4", "= 8")


def test_what_is_not_declared_cannot_be_set() -> None:
    with pytest.raises(ValueError, match="no tunable 'later'"):
        set_tunables(CPP, {"later": "4"})
    with pytest.raises(ValueError, match="BLOCK may be 64, 128, 256"):
        set_tunables(CPP, {"BLOCK": "7; system()"})


@pytest.mark.parametrize(
    "line",
    [
        "if (x == 3) // tune: 3, 4",
        "constexpr int A = 3; // tune: 3; 4",
        "constexpr int A = 3; // tune:",
        "constexpr int A = 3; // tune: 3",
        "constexpr int A = f(3); // tune: 3, 4",
        "x" * 500 + " = 3 // tune: 3, 4",
    ],
)
def test_what_is_no_declaration_is_left_alone(line: str) -> None:
    assert find_tunables(line) == ()


def test_settings_come_nearest_first_each_once_and_never_the_own() -> None:
    tunables = find_tunables(CPP)
    settings = list(settings_around(tunables))
    assert len(settings) == len(set(settings)) == space_size(tunables) - 1
    own = tuple(tunable.value for tunable in tunables)
    distances = [sum(a != b for a, b in zip(setting, own, strict=True)) for setting in settings]
    assert distances == sorted(distances)
    assert 0 not in distances

"""The benchmarks that put KernelBench's verdicts beside ours: what KernelBench is given to judge, and what is counted.

Neighbours: benchmarks/gpu_suite.py and kernelbench_column.py, and the suite whose candidates they take.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from .adversarial import suite


def _load(name: str) -> ModuleType:
    path = Path(__file__).resolve().parent.parent.parent / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


column, gpu_suite = _load("kernelbench_column"), _load("gpu_suite")


@pytest.mark.parametrize("name", ["plain", "packed_weights"])
def test_wrapped_library_answers_as_the_reference(tmp_path: Path, name: str) -> None:
    [entry] = [e for e in suite.entries("cpu") if (e.name, e.language) == (name, "cpp")]
    [task] = column.compile_all([entry], tmp_path, "cpu")
    assert not task.error
    names: dict[str, Any] = {}
    exec(task.candidate, names)
    reference: dict[str, Any] = {}
    exec(suite.problem_source("cpu", entry.problem), reference)
    torch.manual_seed(3)
    model = reference["Model"](*reference["get_init_inputs"]())
    wrapped = names["ModelNew"](*reference["get_init_inputs"]())
    wrapped.load_state_dict(model.state_dict())
    for _ in range(3):
        inputs = reference["get_inputs"]()
        torch.testing.assert_close(wrapped(*inputs), model(*inputs))


def test_library_that_does_not_compile_is_said_to_be() -> None:
    broken = column.Task(suite.entries("cpu")[0], "", "", "no such name")
    row = column.outcome(broken, None, 1.0)
    assert row["column"] == "rejected: it does not compile"
    assert row["speedup"] is None


def _row(name: str, speedup: float | None, *, honest: bool = False, twin: str = "") -> dict[str, Any]:
    return {"id": name, "speedup": speedup, "honest": honest, "no_gain_over": twin}


def test_cheat_with_right_values_fools_by_a_gain_that_its_twin_does_not_have() -> None:
    rows = [
        _row("twin", 2.0, honest=True),
        _row("late", 9.0, twin="twin"),
        _row("slow", 2.1, twin="twin"),
        _row("wrong", 0.5),
        _row("caught", None),
        _row("refused", None, honest=True),
    ]
    fooled = {row["id"]: row["fooled"] for row in column.mark_fooled(rows)}
    expected = {"twin": False, "late": True, "slow": False, "wrong": True, "caught": False, "refused": True}
    assert fooled == expected


def _judged(
    name: str, verdict: str, *numbers: int, honest: bool = False, twin: str = "", **speed: float
) -> dict[str, Any]:
    expected = ["OK"] if honest or twin else ["WRONG_VALUES"]
    row = {"id": name, "numbers": list(numbers), "honest": honest, "expected": expected, "no_gain_over": twin}
    return row | {"verdict": verdict, **speed}


def test_cheats_and_oddities_are_counted_by_their_numbers() -> None:
    rows = gpu_suite._compared(
        [
            _judged("plain", "OK", 3, honest=True, speedup=2.0, low=1.9, high=2.1),
            _judged("refused", "WRONG_VALUES", 4, honest=True),
            _judged("no gain", "OK", 41, twin="plain", speedup=2.0, low=1.9, high=2.1),
            _judged("gain", "OK", 42, twin="plain", speedup=3.0, low=2.9, high=3.1),
            _judged("caught", "WRONG_VALUES", 5),
            _judged("caught too, otherwise", "TIMEOUT", 5),
            _judged("missed", "OK", 6),
            _judged("lost", "MISSING", 7),
        ]
    )
    report = {"device": "a device", "date": "2026-01-01T00:00:00", "candidates": rows}
    theirs = [{"id": "missed", "column": "accepted 3.00x", "fooled": True}]
    gpu_suite.add_kernelbench(report, {"date": "2026-11-26T03", "device": "NVIDIA H100", "candidates": theirs})
    report["summary"] = found = gpu_suite.summary(rows)
    assert (found["cheats"], found["cheats accepted"]) == (5, [6, 42])
    assert (found["honest"], found["honest rejected"]) == (2, [4])
    assert found["cheats accepted by KernelBench"] == [6]
    assert found["files judged wrongly"] == ["refused", "gain", "caught too, otherwise", "missed", "lost"]
    assert "| 6 | missed | WRONG_VALUES | **OK** | **accepted 3.00x** |" in gpu_suite.table(report)

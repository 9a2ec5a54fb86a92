"""`kernelsearch evaluate` as a person runs it: the console script, a real judge, a real compiler.

The reference multiplies by a diagonal matrix: a kernel that scales rows wins by algebra, however busy the machine is.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kernelsearch.cli.exits import Exit

KERNELSEARCH = Path(sys.executable).with_name("kernelsearch")
PROBLEM = """
import torch

ROWS, COLUMNS = 384, 1024


class Model(torch.nn.Module):
    def forward(self, d, x):
        return torch.diag(d) @ x


def get_inputs():
    return [torch.rand(ROWS) + 0.5, torch.randn(ROWS, COLUMNS)]


def get_init_inputs():
    return []
"""
RIGHT = """
#include "problem.h"

extern "C" int forward(float* out, const float* d, const float* x, int64_t ROWS, int64_t COLUMNS, KernelContext&) {
#pragma omp parallel for
  for (int64_t i = 0; i < ROWS; ++i)
    for (int64_t j = 0; j < COLUMNS; ++j) out[i * COLUMNS + j] = d[i] * x[i * COLUMNS + j];
  return 0;
}
"""
WRONG = RIGHT.replace("d[i] *", "1.5f * d[i] *")
BROKEN = RIGHT.replace("return 0;", "return zero;")


class Person:
    """A folder with a problem and kernels, and someone who evaluates them there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        sources = {"problem.py": PROBLEM, "right.cpp": RIGHT, "wrong.cpp": WRONG, "broken.cpp": BROKEN}
        for name, text in sources.items():
            (folder / name).write_text(text)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(KERNELSEARCH), "evaluate", *arguments],
            cwd=self.folder,
            env=os.environ | {"XDG_CACHE_HOME": str(self.folder / "cache"), "TMPDIR": str(self.temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As in a terminal: what a shell runs in the background ignores Ctrl-C, and so do these tests then.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def evaluate(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        process = self.start(*arguments)
        output, errors = process.communicate()
        return process.returncode, output, errors

    def left_behind(self) -> list[str]:
        return [path.name for path in self.temporary.iterdir() if path.is_dir()]


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path)


def test_every_kernel_gets_the_verdict_and_the_text_that_a_search_would_give(person: Person) -> None:
    code, output, errors = person.evaluate("problem.py", "right.cpp", "wrong.cpp", "broken.cpp")
    assert (code, errors) == (Exit.REJECTED, "")
    top, right, wrong, broken, end = output.split("\n\n")
    assert "reference eager, case default:" in top
    assert "reference compile, case default:" in top
    assert right.startswith("right.cpp: OK, ")
    assert "right and faster than the reference\n  case default: " in right
    assert wrong.startswith("wrong.cpp: WRONG_VALUES, found in correctness\n")
    assert "pattern: constant factor: got = 1.5 x want" in wrong
    assert broken.startswith("broken.cpp: COMPILE_ERROR, found in compile\n")
    assert "'zero' was not declared in this scope" in broken
    assert end.startswith("1 of 3 right; ")
    assert person.left_behind() == []


def test_with_json_standard_output_is_one_document(person: Person) -> None:
    arguments = ("right.cpp", "wrong.cpp", "broken.cpp", "--json", "--case", "small=ROWS=64", "--profile", "x86-64-v3")
    code, output, errors = person.evaluate("problem.py", *arguments)
    assert (code, errors) == (Exit.REJECTED, "")
    document = json.loads(output)
    assert document["exit_code"] == Exit.REJECTED
    assert document["profile"] == "x86-64-v3"
    assert {baseline["arm"] for baseline in document["baselines"]} == {"eager", "compile"}
    assert document["problem"]["cases"][0]["dims"]["ROWS"] == 64
    assert 'extern "C" int forward(' in document["header"]
    verdicts = {each["file"]: each["result"]["verdict"] for each in document["candidates"]}
    assert verdicts == {"right.cpp": "OK", "wrong.cpp": "WRONG_VALUES", "broken.cpp": "COMPILE_ERROR"}
    assert document["candidates"][0]["result"]["cases"][0]["case"] == "small"


def test_a_problem_that_cannot_be_judged_is_told_with_its_reason_in_both_forms(person: Person) -> None:
    (person.folder / "problem.py").write_text(PROBLEM.replace("torch.diag(d) @ x", "x * 0"))
    code, output, errors = person.evaluate("problem.py", "right.cpp")
    assert code == Exit.FAILED
    assert "DEGENERATE_PROBLEM: case 'default': output 'out' is zero" in errors
    code, output, errors = person.evaluate("problem.py", "right.cpp", "--json")
    document = json.loads(output)
    assert code == document["exit_code"] == Exit.FAILED
    assert document["problem"]["verdict"] == "DEGENERATE_PROBLEM"
    assert document["candidates"] == [{"file": "right.cpp", "id": "right.cpp", "result": None}]
    assert document["error"] in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_twice_it_leaves_no_process_and_no_folder(person: Person, number: signal.Signals) -> None:
    process = person.start("problem.py", "right.cpp")
    assert process.stdout is not None
    assert any(line.startswith("case default") for line in process.stdout), "it never came to the problem"
    [batch] = person.temporary.glob("kernelsearch-*/evaluate")
    judge = json.loads((batch / "judge.json").read_text())["process"]["pid"]
    os.kill(judge, 0)
    process.send_signal(number)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == Exit.INTERRUPTED
    assert errors == "error: interrupted; nothing of it is left running\n"
    with pytest.raises(ProcessLookupError):
        os.kill(judge, 0)
    assert person.left_behind() == []

"""What `kernelsearch evaluate` makes of a scripted judge's words: lines as they come, one document, an exit code."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from kernelharness.protocol import (
    Baseline,
    CaseFact,
    CaseResult,
    Hello,
    ProblemFact,
    Purpose,
    Result,
    Stage,
    TensorFact,
    Verdict,
)
from kernelsearch.cli.chosen import Chosen, Wanted, choose
from kernelsearch.cli.evaluate import Teller, ending, to_document
from kernelsearch.cli.exits import Exit
from kernelsearch.cli.machine import Machine
from kernelsearch.evaluate.base import BatchOutcome, Progress, Said
from rich.console import Console

MACHINE = Machine("a CPU", frozenset({"x86-64-v3"}), {}, lambda _: True)
TENSOR = TensorFact(name="x", shape=[64], dtype="float32")
OUT = TensorFact(name="out", shape=[64], dtype="float32")
FACTS = [
    CaseFact(case="default", inputs=[TENSOR], outputs=[OUT], t_min_ns=400, bound="memory", bytes_min=512),
    CaseFact(case="hidden", hidden=True, inputs=[TENSOR], outputs=[OUT]),
]
HELLO = Hello(harness="scripted", device="a CPU, 2 cores", isolation={"seccomp": "on"})
BASELINES = (Baseline(case="default", arm="eager", ns=2000), Baseline(case="default", arm="compile", note="does not"))
HEADER = "// one\nint forward();\n\n// ==== plumbing\nstruct Call;\n"


def right(id: str, *, speedup: float = 2.0, flags: tuple[str, ...] = ("faster",)) -> Result:
    case = CaseResult(
        case="default",
        ns=round(2000 / speedup),
        low=0.9 * speedup,
        high=1.1 * speedup,
        speedup=speedup,
        baseline="compile",
        baseline_ns=2000,
        speedup_eager=1.5 * speedup,
        speedup_compile=speedup,
        percent_of_bound=20 * speedup,
    )
    return Result(
        candidate=id,
        verdict=Verdict.OK,
        stage=Stage.TIMING,
        cases=[case],
        speedup=speedup,
        low=case.low,
        high=case.high,
        flags=list(flags),
        resources={"registers": 40, "spill_bytes": 16},
        walls={"compile": 0.5, "timing": 1.25, "total": 1.75},
    )


def rejected(id: str, verdict: Verdict = Verdict.WRONG_VALUES) -> Result:
    diagnostics = f"{verdict.value} in case 'default'\n  out[3]: got nan, want 1"
    return Result(
        candidate=id,
        verdict=verdict,
        stage=Stage.CORRECTNESS,
        diagnostics=diagnostics,
        correctness={"max_abs_error": float("nan")},
    )


def outcome(*results: Result) -> BatchOutcome:
    return BatchOutcome(
        results=results,
        hello=HELLO,
        problem=ProblemFact(cases=FACTS),
        baselines=BASELINES,
        artifacts={("", "problem.h"): HEADER.encode()},
        device_seconds=3.5,
    )


@pytest.fixture
def chosen(tmp_path: Path) -> Chosen:
    (tmp_path / "problem.py").write_text("class Model: ...\n")
    candidates = [tmp_path / "a.cpp", tmp_path / "b.cpp"]
    for path in candidates:
        path.write_text("//\n")
    found = choose(tmp_path / "problem.py", candidates, Wanted(), MACHINE)
    return replace(found, files={id: Path(path.name) for id, path in found.files.items()})


def told(chosen: Chosen, *said: Said, width: int = 200) -> str:
    screen = io.StringIO()
    teller = Teller(Console(file=screen, width=width), chosen)
    teller.begin(Path("problem.py"))
    for each in said:
        teller.on_progress(Progress("x86-64-v3", "Running", "", each))
    teller.end(outcome(*(each for each in said if isinstance(each, Result))))
    return screen.getvalue()


def test_the_reference_comes_first_and_then_every_kernel_as_it_is_judged(chosen: Chosen) -> None:
    text = told(chosen, HELLO, ProblemFact(cases=FACTS), *BASELINES, right("a.cpp"), rejected("b.cpp"))
    assert (
        text
        == """\
problem problem.py: cpp for x86-64-v3, on this machine
device: a CPU, 2 cores
isolation: seccomp on
case default: x float32[64] -> out float32[64]; takes at least 400.0 ns (memory bound)
case hidden: x float32[64] -> out float32[64]; checked, not timed
reference eager, case default: 2 us
reference compile, case default: does not

a.cpp: OK, 2.000x [1.800, 2.200], right and faster than the reference
  case default: 1.000 us, 2.000x [1.800, 2.200] over compile (2.000 us), 3.000x over eager, 40.00 % of the bound
  - registers spill 16.00 bytes to memory: less unrolling or smaller tiles would keep them
  - resources: registers 40.00
  - default reaches 0.5120 GB/s of necessary traffic: far from the bound, so look for \
extra passes, strided access, serial parts or idle cores
  judged in 1.75 s: compile 0.50 s, timing 1.25 s

b.cpp: WRONG_VALUES, found in correctness
  WRONG_VALUES in case 'default'
    out[3]: got nan, want 1

1 of 2 right; the judge worked for 3.5 s
"""
    )


@pytest.mark.parametrize(
    ("speedup", "flags", "words"),
    [
        (2.0, ("faster",), "right and faster than the reference"),
        (1.0, (), "right, but not measurably faster than the reference"),
        (0.5, (), "right, but slower than the reference"),
    ],
)
def test_a_right_kernel_is_ok_whatever_its_speed_and_the_words_say_which(
    chosen: Chosen, speedup: float, flags: tuple[str, ...], words: str
) -> None:
    result = right("a.cpp", speedup=speedup, flags=flags)
    assert f", {words}\n" in told(chosen, result)
    assert ending(chosen, outcome(result, right("b.cpp"))) == (Exit.DONE, "")


def test_lines_are_not_broken_whatever_the_width(chosen: Chosen) -> None:
    assert told(chosen, right("a.cpp"), width=20) == told(chosen, right("a.cpp"))


def test_it_says_why_nothing_runs(chosen: Chosen) -> None:
    screen = io.StringIO()
    Teller(Console(file=screen), chosen).on_progress(Progress("cpu", "Queued", "another search is being timed"))
    assert screen.getvalue() == "queued: another search is being timed\n"


def test_without_a_candidate_the_header_is_shown_as_far_as_it_is_to_be_read(chosen: Chosen) -> None:
    text = told(replace(chosen, files={}, sources={}))
    assert text.endswith(":\n\n// one\nint forward();\n")
    assert "right" not in text


def test_what_else_a_python_file_could_be_is_said(chosen: Chosen) -> None:
    text = told(replace(chosen, language="pytorch", other_languages=("triton",)))
    assert "note: judged as pytorch; if it is triton, say so with --language\n" in text


FAULT = ProblemFact(verdict=Verdict.DEGENERATE_PROBLEM, reason="output 'out' is constant")
A, B = right("a.cpp"), right("b.cpp")


@pytest.mark.parametrize(
    ("found", "code", "why"),
    [
        (outcome(A, B), Exit.DONE, ""),
        (outcome(A, rejected("b.cpp")), Exit.REJECTED, ""),
        (replace(outcome(), problem=FAULT), Exit.FAILED, "DEGENERATE_PROBLEM: output 'out' is constant"),
        (outcome(A, rejected("b.cpp", Verdict.NOISY_NODE)), Exit.UNUSABLE, "no verdict on b.cpp"),
        (outcome(A), Exit.UNUSABLE, "no verdict on b.cpp"),
        (outcome(rejected("a.cpp"), rejected("b.cpp", Verdict.NOISY_NODE)), Exit.REJECTED, "no verdict on b.cpp"),
        (replace(outcome(A), infrastructure="OutOfMemory", message="killed"), Exit.UNUSABLE, "OutOfMemory: killed"),
        (replace(outcome(rejected("a.cpp")), infrastructure="OutOfMemory"), Exit.REJECTED, "did not finish"),
        (BatchOutcome(infrastructure="InvalidBatch", message="language 'x' is not known"), Exit.USAGE, "not known"),
        (replace(outcome(), problem=None), Exit.UNUSABLE, "said nothing about the problem"),
    ],
)
def test_the_exit_code_is_the_verdict_and_what_is_missing_is_said(
    chosen: Chosen, found: BatchOutcome, code: Exit, why: str
) -> None:
    got, said = ending(chosen, found)
    assert got is code
    assert why in said
    assert bool(said) == bool(why)


NOT_RUN = ProblemFact(cases=FACTS, not_run="this machine has no AMD device")


def compiled(id: str) -> Result:
    return Result(
        candidate=id,
        verdict=Verdict.COMPILED,
        stage=Stage.COMPILE,
        summary="compiled, not run: this machine has no AMD device",
        resources={"registers": 11, "spilled_registers": 0},
    )


@pytest.mark.parametrize(
    ("results", "code", "why"),
    [
        ((compiled("a.cpp"), compiled("b.cpp")), Exit.NOT_RUN, "compiled, not run: this machine has no AMD device"),
        ((compiled("a.cpp"), rejected("b.cpp", Verdict.COMPILE_ERROR)), Exit.REJECTED, ""),
        ((compiled("a.cpp"),), Exit.UNUSABLE, "no verdict on b.cpp, by no fault of the candidate: run it again"),
        (
            (compiled("a.cpp"), rejected("b.cpp", Verdict.HARNESS_ERROR)),
            Exit.UNUSABLE,
            "no verdict on b.cpp, by no fault of the candidate: run it again",
        ),
    ],
)
def test_what_was_only_compiled_is_neither_right_nor_rejected(
    chosen: Chosen, results: tuple[Result, ...], code: Exit, why: str
) -> None:
    assert ending(chosen, replace(outcome(*results), problem=NOT_RUN, baselines=())) == (code, why)


def test_a_compiler_that_is_missing_is_named(chosen: Chosen) -> None:
    fault = ProblemFact(verdict=Verdict.HARNESS_ERROR, reason="the compiler hipcc is not installed")
    expected = "no kernel can be judged here: the compiler hipcc is not installed"
    assert ending(chosen, replace(outcome(), problem=fault)) == (Exit.UNUSABLE, expected)


def test_a_kernel_that_was_not_run_says_so_and_what_it_needs(chosen: Chosen) -> None:
    screen = io.StringIO()
    teller = Teller(Console(file=screen, width=200), chosen)
    found = replace(outcome(compiled("a.cpp"), rejected("b.cpp", Verdict.COMPILE_ERROR)), problem=NOT_RUN)
    for said in (NOT_RUN, *found.results):
        teller.on_progress(Progress("amd-mi300x", "Running", "", said))
    teller.end(found)
    text = screen.getvalue()
    assert "note: kernels are compiled and not run: this machine has no AMD device\n" in text
    assert "\na.cpp: compiled, not run: this machine has no AMD device\n  - resources: registers 11.00" in text
    assert "\n1 of 2 compiled, none run; the judge worked for 3.5 s\n" in text
    assert "x " not in text.split("a.cpp")[1].split("b.cpp")[0], "no speedup is shown"


def test_the_document_has_everything_and_is_json_whatever_was_measured(chosen: Chosen) -> None:
    found = outcome(rejected("a.cpp"))
    document = to_document(Path("problem.py"), chosen, Purpose.SEARCH, found, Exit.REJECTED, "no verdict on b.cpp")
    text = document.model_dump_json()
    assert "NaN" not in text
    read = json.loads(text)
    assert [each["file"] for each in read["candidates"]] == ["a.cpp", "b.cpp"]
    first, second = (each["result"] for each in read["candidates"])
    assert first["diagnostics"] == found.results[0].diagnostics
    assert first["correctness"] == {"max_abs_error": None}
    assert second is None
    assert (read["profile"], read["language"], read["purpose"]) == ("x86-64-v3", "cpp", "search")
    assert (read["exit_code"], read["error"], read["header"]) == (6, "no verdict on b.cpp", HEADER)
    assert [baseline["ns"] for baseline in read["baselines"]] == [2000, None]
    assert [case["case"] for case in read["problem"]["cases"]] == ["default", "hidden"]
    assert read["judge"]["device"] == "a CPU, 2 cores"

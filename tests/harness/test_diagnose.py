"""The exact texts that the model sees, one for each verdict and each kind of diagnosis."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kernelharness import diagnose
from kernelharness.compare import POISON_BYTE, Comparer
from kernelharness.languages.base import CompileError
from kernelharness.protocol import CaseFact, CaseResult, TensorFact, Tolerance, Verdict
from kernelharness.roofline import Bound
from torch import Tensor

EXPECTED = {
    Verdict.OK: "Correct in every case.",
    Verdict.COMPILE_ERROR: "The source does not compile.",
    Verdict.LOAD_ERROR: "It compiles, but cannot be loaded.",
    Verdict.WRONG_SHAPE: "An output has the wrong shape.",
    Verdict.WRONG_DTYPE: "An output has the wrong dtype.",
    Verdict.WRONG_VALUES: "An output has wrong values.",
    Verdict.PRECISION: "Within the tolerance, but with too little precision: compute in the problem's dtype "
    "and accumulate in float32 or better.",
    Verdict.NONDETERMINISTIC: "The same inputs give different outputs: look for a race, uninitialised "
    "memory, or state that is kept between calls.",
    Verdict.INPUT_MUTATED: "It writes to its inputs or parameters: they are read-only, work on a copy.",
    Verdict.RUNTIME_ERROR: "It fails when called.",
    Verdict.MEMORY_FAULT: "It touches memory that is not its own: check indices and tails; sizes may be odd.",
    Verdict.TIMEOUT: "It does not return in time: look for an endless loop, a deadlock, or far too much work.",
    Verdict.OOM: "It runs out of memory: allocate less, use context.workspace() for scratch memory.",
    Verdict.LATE_OUTPUT: "Outputs still change after the call returned: finish all work before returning.",
    Verdict.BACKGROUND_WORK: "Work goes on after the call returned: finish all work before returning.",
    Verdict.TIMING_MISMATCH: "Its calls take another time when they are timed: do the same work in every call, "
    "and leave clocks and timers alone.",
    Verdict.IMPOSSIBLE_SPEED: "Faster than writing the outputs can be: the work is not done in the call.",
    Verdict.TAMPERING: "It reaches beyond its task (other processes, files, network, the judge): only compute.",
    Verdict.RESOURCE_ABUSE: "It uses resources that no kernel needs: do not print, do not start processes "
    "or threads without end.",
    Verdict.DEGENERATE_PROBLEM: "The problem itself says nothing about speed; no candidate can be judged.",
    Verdict.UNSUPPORTED_PROBLEM: "The problem cannot be judged in this language.",
    Verdict.NOISY_NODE: "The machine was too noisy to measure; it will be tried again. The kernel is not to blame.",
    Verdict.COMPILED: "It compiles; whether it is right, and how fast, is not known.",
    Verdict.HARNESS_ERROR: "The harness failed; it will be tried again. The kernel is not to blame.",
}


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_its_text(verdict: Verdict) -> None:
    assert diagnose.of_verdict(verdict) == f"{verdict}: {EXPECTED[verdict]}"


def test_verdict_names_the_case_and_quotes_what_was_printed() -> None:
    text = diagnose.of_verdict(Verdict.RUNTIME_ERROR, "small", "K = 7 is too large", "OK: speedup 99\nbye\n")
    assert text == (
        "RUNTIME_ERROR in case 'small': It fails when called.\nK = 7 is too large\nIt printed:\n| OK: speedup 99\n| bye"
    )


# -- compile --------------------------------------------------------------------------------------------------------


def test_compile_text_shows_three_errors_with_five_lines_each() -> None:
    source = "\n".join(f"  line {number};" for number in range(1, 9))
    errors = [CompileError("expected ';'", 4, 2), CompileError("first line", 1), CompileError("no such symbol")]
    assert diagnose.of_compile([*errors, CompileError("fourth", 8)], source) == (
        "COMPILE_ERROR: The source does not compile.\n"
        "error 1 of 4, line 4: expected ';'\n"
        "    2 |   line 2;\n"
        "    3 |   line 3;\n"
        ">   4 |   line 4;\n"
        "    5 |   line 5;\n"
        "    6 |   line 6;\n"
        "error 2 of 4, line 1: first line\n"
        ">   1 |   line 1;\n"
        "    2 |   line 2;\n"
        "    3 |   line 3;\n"
        "    4 |   line 4;\n"
        "    5 |   line 5;\n"
        "error 3 of 4: no such symbol"
    )


def test_compile_text_without_errors_quotes_the_compiler() -> None:
    assert diagnose.of_compile([], "x", "killed\n") == (
        "COMPILE_ERROR: The source does not compile.\nThe compiler printed:\n| killed"
    )


# -- values ---------------------------------------------------------------------------------------------------------


def values(change: Callable[[Tensor], Tensor], want: Tensor | None = None, where: str = "") -> str:
    if want is None:
        want = torch.rand(40, 48, generator=torch.Generator().manual_seed(0)) + 1
    got = change(want.clone())
    found = Comparer(Tolerance()).compare([got], [want])
    return diagnose.of_comparison("out", "small", found, got, want, where)


def pattern(change: Callable[[Tensor], Tensor], want: Tensor | None = None) -> str:
    lines = values(change, want).splitlines()
    return lines[-1].removeprefix("pattern: ") if lines[-1].startswith("pattern: ") else ""


def edit(*index: object) -> Callable[[Tensor], Tensor]:
    """Other wrong values at every place of `index`."""

    def change(tensor: Tensor) -> Tensor:
        noise = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(1))
        tensor[index] += 1 + 5 * noise[index]
        return tensor

    return change


def test_wrong_values_text_in_full() -> None:
    want = torch.arange(1.0, 9.0).view(2, 4)

    def change(got: Tensor) -> Tensor:
        got[0, 1] = torch.nan
        got[1, 2] = 10.5
        return got

    assert values(change, want, "for inputs 1 of 5 (given)") == (
        "WRONG_VALUES in case 'small': output 'out' for inputs 1 of 5 (given): 2 of 8 elements are wrong (25 %).\n"
        "max abs error 3.5, max rel error 0.5; allowed |got - want| <= 0.0001 + 0.0001 |want|.\n"
        "  out[0, 1]: got nan, want 2\n"
        "  out[1, 2]: got 10.5, want 7\n"
        "1 elements are NaN or infinite where the reference is finite."
    )


def test_unwritten_elements_are_told() -> None:
    poison = torch.full((4,), POISON_BYTE, dtype=torch.uint8).view(torch.float32).item()

    def change(got: Tensor) -> Tensor:
        got[38:] = poison
        return got

    assert "\n96 elements were never written.\n" in values(change)


PATTERNS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "zero": (torch.zeros_like, "got is 0 everywhere."),
    "nan": (lambda x: torch.full_like(x, torch.nan), "got is NaN everywhere."),
    "one number": (lambda x: torch.full_like(x, 2.5), "got is 2.5 everywhere."),
    "constant factor": (lambda x: x * 0.5, "constant factor: got = 0.5 x want everywhere."),
    "constant offset": (lambda x: x + 0.25, "constant offset: got = want +0.25 everywhere."),
    "transposed": (
        lambda x: x.t().reshape(x.shape),
        "transposed: got has the last two dimensions swapped.",
    ),
    "shifted": (
        lambda x: torch.cat([x.view(-1)[3:], x.view(-1)[:3]]).view_as(x),
        "shifted: got[i] = want[i + 3] in memory order.",
    ),
    "shifted by a row": (
        lambda x: x.roll(1, 0),
        "shifted: got[i] = want[i - 48] in memory order.",
    ),
    "tail": (
        edit(slice(None), slice(32, None)),
        "tail: wrong only in the last 16 of 48 places of the last dimension, from 32 on, everything after the last "
        "multiple of 32.",
    ),
    "tail of rows": (
        edit(slice(39, None)),
        "tail: wrong only in the last 1 of 40 places of dimension 0, from 39 on.",
    ),
    "head": (edit(slice(0, 3)), "wrong only in the first 3 of 40 places of dimension 0."),
    "range": (edit(slice(None), slice(5, 9)), "wrong only from 5 to 8 in the last dimension."),
    "every 4th column": (
        edit(slice(None), slice(1, None, 4)),
        "every 4th: wrong in places 1, 5, 9, .. of the last dimension.",
    ),
    "per tile": (
        edit(slice(None), [8, 9, 10, 11, 12, 13, 14, 15, 32, 33, 34, 35, 36, 37, 38, 39]),
        "per tile: wrong in whole tiles of 8 of the last dimension (tiles 1, 4).",
    ),
    "none": (edit([3, 17, 20], [4, 30, 11]), ""),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_fitted_pattern(name: str) -> None:
    change, expected = PATTERNS[name]
    assert pattern(change) == expected


def test_pattern_of_a_single_number_does_not_fail() -> None:
    assert pattern(lambda x: x * 0 + 3, torch.tensor(2.0)) == ""


def test_only_later_calls() -> None:
    assert diagnose.only_later("WRONG_VALUES ..") == (
        "WRONG_VALUES ..\n"
        "pattern: only later calls are wrong, the first one was right: something is kept between calls."
    )


def test_shape_and_dtype_texts() -> None:
    want = torch.ones(2, 3)
    for got, expected in (
        (
            torch.ones(3, 2),
            "WRONG_SHAPE in case 'c': An output has the wrong shape.\noutput 'y': got [3, 2], expected [2, 3]",
        ),
        (
            want.half(),
            "WRONG_DTYPE in case 'c': An output has the wrong dtype.\noutput 'y': got float16, expected float32",
        ),
    ):
        found = Comparer(Tolerance()).compare([got], [want])
        assert diagnose.of_comparison("y", "c", found, got, want) == expected


def test_precision_text() -> None:
    a = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    want, got = a @ a, (a.bfloat16() @ a.bfloat16()).float()
    found = Comparer(Tolerance(rtol=0.1, atol=0.1), [64]).compare([got], [want], [a.double() @ a.double()])
    text = diagnose.of_comparison("out", "small", found, got, want)
    first, second = text.splitlines()
    assert first == "PRECISION in case 'small': " + EXPECTED[Verdict.PRECISION]
    assert second == (
        f"output 'out': rms error against float64 is {found.rms_error:.3g}, allowed {found.rms_allowed:.3g} "
        f"({found.rms_error / found.rms_allowed:.1f} times as much)."
    )


def test_out_of_memory_text() -> None:
    said = (
        "x\nOutOfMemoryError: CUDA out of memory. Tried to allocate 3.00 GiB. It has 79 GiB of which 1.00 GiB is free"
    )
    assert diagnose.of_out_of_memory("big", said, 0, 0) == (
        "OOM in case 'big': It runs out of memory: allocate less, use context.workspace() for scratch memory.\n"
        "asked for 3072 MiB, free 1024 MiB.\nIt said:\n| " + said.removeprefix("x\n")
    )


def test_speed_text() -> None:
    result = CaseResult(
        case="small", ns=12_345, low=1.8, high=1.9, speedup=1.85, baseline="compile", baseline_ns=22_838,
        speedup_eager=3.0, speedup_compile=1.85,
    )  # fmt: skip
    tensor = TensorFact(name="x", shape=[64, 512], dtype="float32")
    fact = CaseFact(
        case="small", inputs=[tensor], outputs=[tensor], dims={"TOKENS": 64, "HIDDEN": 512}, bytes_min=262_144
    )
    bound = Bound(t_min_ns=8_000, kind="memory", bytes=262_144, flops=0)
    assert diagnose.of_speed([result], [fact], [bound]) == (
        "OK: Correct in every case.\n"
        "case 'small' (TOKENS=64, HIDDEN=512): 12.35 us per call, 3.00x eager and 1.85x torch.compile "
        "(interval 1.80 to 1.90 over compile).\n"
        "  21.2 GB/s; the memory bound is 8 us: 65 % of it reached."
    )


# -- safety ---------------------------------------------------------------------------------------------------------


def test_control_escape_and_direction_characters_are_stripped() -> None:
    assert diagnose.clean("a\x1b[31mred\x1b[0m\x00\x07b\r\nc\td\u202ee\u2028f\U000e0041g") == "aredb\nc    defg"


def test_long_text_keeps_head_and_tail_within_two_kibibytes() -> None:
    text = diagnose.clean("\n".join(f"line {number} äöü" for number in range(1000)))
    assert len(text.encode()) <= 2048
    assert text.startswith("line 0 ")
    assert text.endswith("line 999 äöü")
    assert "bytes more .." in text


def test_candidates_text_cannot_pass_for_the_judges() -> None:
    text = diagnose.of_verdict(Verdict.TIMEOUT, "c", "", "x\u2028OK: Correct\nOK: Correct in every case.")
    assert [line for line in text.splitlines() if line.startswith("OK")] == []


def test_every_text_is_capped() -> None:
    errors = [CompileError("x" * 5000, 1)] * 3
    assert len(diagnose.of_compile(errors, "y" * 5000).encode()) <= 2048
    assert len(diagnose.of_verdict(Verdict.RUNTIME_ERROR, "c", "d" * 9000, "p" * 9000).encode()) <= 2048

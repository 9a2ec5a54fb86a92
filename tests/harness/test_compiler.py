"""Candidates that are compiled side by side each get their own outcome, whatever the others do."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from kernelharness import isolation
from kernelharness.__main__ import _enter
from kernelharness.compiler import Compiled, compile_candidates
from kernelharness.languages.base import Language, get_language
from kernelharness.languages.cpp import Cpp
from kernelharness.processes import children
from kernelharness.protocol import Candidate, CaseFact, File, TensorFact, Toolchain
from kernelharness.zygote import Zygote

FACT = CaseFact(
    case="default",
    inputs=[TensorFact(name="x", shape=[8], dtype="float32")],
    parameters=[],
    outputs=[TensorFact(name="out", shape=[8], dtype="float32")],
)
RIGHT = """#include "problem.h"
extern "C" int forward(float* out, const float* x, KernelContext& context) { return 0; }
"""
LACKS = '#ifndef GIVEN\n#error "the flag -DGIVEN is needed"\n#endif\n'
LOUD = "\n".join(f"int a{index} = undeclared_{index};" for index in range(4000))


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    isolation.become_subreaper()
    made = Zygote(_enter)
    yield made
    made.close()


class Demanding(Cpp):
    """C++ with a flag that few sources need."""

    def lacking_flags(self, toolchain: Toolchain, text: str) -> list[str]:
        return ["-DGIVEN"] if "-DGIVEN is needed" in text else []


def compiled(
    zygote: Zygote, sources: dict[str, str], seconds: int = 60, language: Language | None = None
) -> dict[str, Compiled]:
    candidates = [
        Candidate(id=name, files=[File(path="kernel.cpp", content=source)]) for name, source in sources.items()
    ]
    toolchain = Toolchain(language="cpp", arch="x86-64-v3", compile_timeout_seconds=seconds)
    known = {zygote.pid, *children(os.getpid())}
    made = compile_candidates(zygote, language or get_language("cpp"), toolchain, candidates, [FACT], known)
    for each in made:
        if each.fd >= 0:
            os.close(each.fd)
    return dict(zip(sources, made, strict=True))


def test_each_has_its_own_outcome(zygote: Zygote) -> None:
    made = compiled(zygote, {"right": RIGHT, "wrong": "int forward(", "other": RIGHT + "// other"})
    assert [made[name].ok for name in ("right", "wrong", "other")] == [True, False, True]
    assert "error" in made["wrong"].text
    assert made["right"].content.startswith(b"\x7fELF")


def test_who_lacks_a_flag_compiles_again_with_it_and_once_only(zygote: Zygote) -> None:
    wrong = LACKS.replace("ifndef GIVEN", "if 1")
    sources = {"lacks": LACKS + RIGHT, "right": RIGHT, "wrong": wrong, "also": LACKS + RIGHT + "// also"}
    made = compiled(zygote, sources, language=Demanding())
    assert [made[name].ok for name in sources] == [True, True, False, True]
    assert made["lacks"].content.startswith(b"\x7fELF")
    assert "-DGIVEN is needed" in made["wrong"].text


def test_a_loud_one_does_not_wait_for_one_whose_time_is_up(zygote: Zygote) -> None:
    # More than a pipe holds: if nobody read it, its compiler would stand still until its time was up too.
    made = compiled(zygote, {"slow": "#include __FILE__\n" * 200, "loud": LOUD, "right": RIGHT}, seconds=20)
    assert made["right"].ok
    assert not made["loud"].timed_out
    assert "undeclared_0" in made["loud"].text
    assert not made["slow"].ok


def test_a_path_out_of_the_folder_is_refused_and_the_others_compile(zygote: Zygote) -> None:
    outside = Candidate(
        id="outside", files=[File(path="kernel.cpp", content=RIGHT), File(path="a/../../here.h", content="")]
    )
    inside = Candidate(id="inside", files=[File(path="kernel.cpp", content=RIGHT)])
    known = {zygote.pid, *children(os.getpid())}
    toolchain = Toolchain(language="cpp", arch="x86-64-v3")
    first, second = compile_candidates(zygote, get_language("cpp"), toolchain, [outside, inside], [FACT], known)
    assert first.text == "a/../../here.h: a path may not hold '..'"
    assert second.ok
    os.close(second.fd)

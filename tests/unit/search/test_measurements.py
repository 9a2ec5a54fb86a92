"""What a model reads of a kernel's profile and flags, word by word."""

from __future__ import annotations

import pytest
from kernelharness.protocol import KernelTime, Profile, Result, Stage, Verdict
from kernelsearch.cli.verdicts import result_lines
from kernelsearch.search.prompts.measurements import FLAG_BYTES, findings

ON_DEVICE = Profile(
    case="wide",
    on_device=True,
    kernels=[
        KernelTime(name="_rows", calls=1, share=0.917, registers=40, occupancy=0.75),
        KernelTime(name="at::native::vectorized_elementwise_kernel<4>", calls=2, share=0.05),
        KernelTime(name="Memcpy HtoD", calls=1.33, share=0.0098),
    ],
    others=14,
    idle=0.123,
    copies=1.33,
)
ON_CPU = Profile(case="default", on_device=False, kernels=[KernelTime(name="aten::mm", calls=1, share=1.0)])


def right(*flags: str, profile: Profile | None = None) -> Result:
    return Result(candidate="c", verdict=Verdict.OK, stage=Stage.TIMING, flags=list(flags), profile=profile)


def told(result: Result) -> list[str]:
    return findings([], result, [])


def test_kernels_gaps_and_copies_of_a_device() -> None:
    assert told(right(profile=ON_DEVICE)) == [
        "kernels in wide, by share of their time as its own process reports it: _rows 92 % (1 per call, 40 registers, "
        "occupancy 75 %), at::native::vectorized_elementwise_kernel<4> 5 % (2 per call), Memcpy HtoD under 1 % "
        "(1.33 per call), 14 more 2 %",
        "between them the device is idle 12 % of the time",
        "1.33 copies between host and device per call: none is necessary",
    ]


def test_operators_of_a_cpu() -> None:
    assert told(right(profile=ON_CPU)) == [
        "operators on the CPU in default, by share of their time as its own process reports it: "
        "aten::mm 100 % (1 per call)"
    ]


FLAGS = {
    "EXTRAORDINARY": "EXTRAORDINARY: faster than the bound that its necessary traffic and arithmetic set",
    "noisy": "noisy: others took CPU time away while it was timed",
    "copy_out": "copy_out: it returns the same memory in every call, so each result was copied, and the copy was timed",
    "same_binary:c1-cpu": "same_binary: it compiles to the very binary of c1-cpu",
    "library_fallback:71%": "library_fallback: 71% of the device time is in kernels that this source does not define",
    "one_by_one:decode": "one_by_one: case decode counts with inputs that come one at a time: in a row it gains more",
    "torch_compile_inside": "torch_compile_inside: the source uses torch.compile, torch._dynamo or torch.jit",
    "decoy_kernel:_sum": "decoy_kernel: the source defines _sum, which did not run when it was profiled",
    "of_a_newer_judge:{0}": "of_a_newer_judge:{0}",
}


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_in_words(flag: str) -> None:
    assert told(right(flag)) == [f"flags: {FLAGS[flag]}"]


def test_all_flags_are_told_and_not_the_first_three() -> None:
    assert told(right("faster", "host_copy", "cpu_reference", *FLAGS)) == [f"flags: {'; '.join(FLAGS.values())}"]


def test_what_a_model_need_not_know_is_not_told() -> None:
    assert told(right("faster", "host_copy", "cpu_reference")) == []


def test_flags_without_end_are_cut() -> None:
    (line,) = told(right(*(f"decoy_kernel:{'x' * 300}" for _ in range(50))))
    assert len(line) <= FLAG_BYTES + len("flags: ")


def test_people_read_the_same_below_the_times() -> None:
    lines = list(result_lines(right("decoy_kernel:_sum", profile=ON_CPU), []))
    assert lines == [f"- {finding}" for finding in told(right("decoy_kernel:_sum", profile=ON_CPU))]

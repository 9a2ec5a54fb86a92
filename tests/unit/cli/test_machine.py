"""Which targets a machine has: from CPU flags, nvidia-smi and the AMD driver, as they write it."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernelsearch.api.profiles import packaged_profiles
from kernelsearch.cli.machine import Machine, amd_gpus, cpu_archs, parse_nvidia_smi

V2 = "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3"
V3 = f"{V2} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"


def machine(*, archs: str = "x86-64-v3", gpus: dict[str, str] | None = None, programs: str = "g++ nvcc") -> Machine:
    return Machine("a CPU", frozenset({archs}), gpus or {}, lambda name: name in programs.split())


@pytest.mark.parametrize(("flags", "best"), [("", "x86-64"), (V2, "x86-64-v2"), (V3, "x86-64-v3"), (V4, "x86-64-v4")])
def test_the_level_of_a_cpu_is_the_highest_whose_flags_it_all_has(flags: str, best: str) -> None:
    assert max(cpu_archs("x86_64", flags.split())) == best


def test_avx512_without_avx2_is_no_v4() -> None:
    flags = [flag for flag in V4.split() if flag != "avx2"]
    assert max(cpu_archs("x86_64", flags)) == "x86-64-v2"


def test_another_architecture_is_itself() -> None:
    assert cpu_archs("aarch64", ["asimd"]) == {"aarch64"}


def test_nvidia_smi_is_read_by_compute_capability() -> None:
    assert parse_nvidia_smi("9.0, NVIDIA H200\n9.0, NVIDIA H200\n") == {"sm_90": "NVIDIA H200"}


def test_an_error_of_nvidia_smi_is_no_gpu() -> None:
    assert parse_nvidia_smi("NVIDIA-SMI has failed because it couldn't communicate with the driver\n") == {}


def test_amd_devices_are_named_as_the_compiler_names_them(tmp_path: Path) -> None:
    for node, version in (("0", "0"), ("1", "90402"), ("2", "90500")):
        (tmp_path / node).mkdir()
        (tmp_path / node / "properties").write_text(f"cpu_cores_count 0\ngfx_target_version {version}\n")
    assert set(amd_gpus(tmp_path)) == {"gfx942", "gfx950"}


def test_a_profile_of_this_cpu_can_be_judged() -> None:
    assert machine().why_not(packaged_profiles()["x86-64-v3"].spec, "cpp") == ""


def test_a_profile_above_this_cpu_is_skipped_with_what_there_is() -> None:
    assert "only x86-64-v3" in machine().why_not(packaged_profiles()["x86-64-v4"].spec, "cpp")


def test_a_gpu_profile_needs_its_gpu() -> None:
    assert "it has no GPU" in machine().why_not(packaged_profiles()["nvidia-h100"].spec, "cuda")
    assert machine(gpus={"sm_90": "NVIDIA H200"}).why_not(packaged_profiles()["nvidia-h100"].spec, "cuda") == ""


def test_a_missing_compiler_is_named() -> None:
    assert "g++ is not installed" in machine(programs="").why_not(packaged_profiles()["x86-64-v3"].spec, "cpp")


def test_an_unknown_language_is_answered_with_those_there_are() -> None:
    assert "cpp" in machine().why_not(packaged_profiles()["x86-64-v3"].spec, "cobol")

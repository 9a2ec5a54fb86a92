"""From the API's strings to the numbers and nouns that the judge and the engine read."""

from __future__ import annotations

from typing import Any

import pytest
from kernelharness.protocol import Hardware
from kernelsearch.api.profiles import packaged_profiles
from kernelsearch.api.search_spec import ProblemSpec
from kernelsearch.api.translate import (
    TranslateError,
    entry_file,
    from_micros,
    hardware_facts,
    parse_duration,
    problem_digest,
    to_hardware,
    to_micros,
    to_protocol_problem,
    to_toolchain,
)


def problem(**fields: Any) -> ProblemSpec:
    return ProblemSpec.model_validate({"source": {"configMap": {"name": "files"}}, **fields})


@pytest.mark.parametrize(("text", "seconds"), [("4h30m", 16200), ("90s", 90), ("1h", 3600), ("2h5s", 7205)])
def test_durations_become_seconds(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "4 hours", "30", "5m4h", "1h\n", "-1h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(TranslateError, match="not a duration above zero"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "micros"), [("0", 0), ("3.00", 3_000_000), ("0.000001", 1), ("40.5", 40_500_000)])
def test_money_becomes_whole_micro_units(text: str, micros: int) -> None:
    assert to_micros(text) == micros


@pytest.mark.parametrize("text", ["0.0000001", "-1", "NaN", "Infinity", "much"])
def test_what_is_no_money_is_refused(text: str) -> None:
    with pytest.raises(TranslateError):
        to_micros(text)


@pytest.mark.parametrize(("micros", "text"), [(0, "0.00"), (3_000_000, "3.00"), (1, "0.000001"), (1_230_000, "1.23")])
def test_micro_units_become_a_decimal_string(micros: int, text: str) -> None:
    assert from_micros(micros) == text
    assert to_micros(text) == micros


def test_the_only_file_is_the_reference_whatever_its_name() -> None:
    assert entry_file(problem(), {"rmsnorm.py": ""}) == "rmsnorm.py"


def test_among_several_files_the_named_one_is_the_reference() -> None:
    assert entry_file(problem(), {"lib.py": "", "reference.py": ""}) == "reference.py"
    with pytest.raises(TranslateError, match=r"file is main\.py, but the source has a\.py, b\.py; set"):
        entry_file(problem(file="main.py"), {"b.py": "", "a.py": ""})


def test_a_problem_reaches_the_judge_with_numbers_for_strings() -> None:
    spec = problem(
        cases=[{"name": "decode", "weight": 3, "dims": {"TOKENS": 64}, "dtype": "bf16", "backward": True}],
        tolerance={"rtol": "1e-2", "maxMismatchPPM": 7, "seeds": 9},
    )
    judged = to_protocol_problem(spec, {"reference.py": "x", "lib.py": "y"})
    assert judged.entry == "reference.py"
    assert [(file.path, file.content) for file in judged.files] == [("lib.py", "y"), ("reference.py", "x")]
    assert judged.cases[0].model_dump(exclude={"hidden"}) == {
        "name": "decode",
        "weight": 3,
        "dims": {"TOKENS": 64},
        "dtype": "bf16",
        "backward": True,
    }
    assert (judged.tolerance.rtol, judged.tolerance.atol) == (0.01, None)
    assert (judged.tolerance.max_mismatch_ppm, judged.tolerance.seeds) == (7, 9)


def test_a_toolchain_carries_the_profiles_target_and_limits() -> None:
    toolchain = to_toolchain(packaged_profiles()["nvidia-h100"], "cuda")
    assert (toolchain.vendor, toolchain.arch, toolchain.file_suffix) == ("nvidia", "sm_90a", ".cu")
    assert toolchain.compile_timeout_seconds == 180


def test_a_language_that_the_profile_lacks_lists_those_it_has() -> None:
    with pytest.raises(
        TranslateError, match="profile x86-64-v3: no toolchain for language 'cuda'; the profile has cpp"
    ):
        to_toolchain(packaged_profiles()["x86-64-v3"], "cuda")


def test_hardware_facts_reach_the_gate_and_unknown_ones_stay_unknown() -> None:
    assert to_hardware(packaged_profiles()["x86-64-v3"]) == Hardware()
    assert to_hardware(packaged_profiles()["nvidia-h200"]).memory_bandwidth_bytes_per_second == 4_800_000_000_000


def test_prompts_get_facts_in_units_of_the_trade() -> None:
    facts = hardware_facts(packaged_profiles()["nvidia-h100"])
    assert facts["memory bandwidth"] == "3350 GB/s"
    assert facts["peak bf16"] == "989 TFLOP/s"
    assert facts["peak int8"] == "1979 TOP/s"
    assert facts["shared memory per unit"] == "228 KiB"
    assert facts["L2 cache"] == "50 MiB"


def test_the_digest_names_all_that_makes_a_problem_and_nothing_else() -> None:
    files = {"reference.py": "x"}
    digest = problem_digest(files, problem())
    inline = ProblemSpec.model_validate({"source": {"inline": [{"path": "reference.py", "content": "x"}]}})
    assert problem_digest(files, inline) == digest, "where the files lie does not matter"
    assert problem_digest(files, problem(tolerance={"seeds": 5}, cases=[])) == digest, "nor does spelling out a default"
    assert problem_digest({"reference.py": "y"}, problem()) != digest
    assert problem_digest(files, problem(cases=[{"name": "a"}])) != digest
    assert problem_digest(files, problem(tolerance={"seeds": 6})) != digest
    assert problem_digest(files, problem(seeds=[{"language": "cpp", "content": "k"}])) != digest

"""What `kernelsearch evaluate` takes: languages by suffix, profiles by machine, cases by flags, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernelsearch.api.documents import DocumentError
from kernelsearch.cli.chosen import MOST_CANDIDATES, Chosen, Wanted, choose
from kernelsearch.cli.machine import Machine

ARCHS = frozenset({"x86-64", "x86-64-v2", "x86-64-v3"})
CPU = Machine("a CPU", ARCHS, {}, lambda _: True)
H200 = Machine("a CPU", ARCHS, {"sm_90": "NVIDIA H200"}, lambda _: True)
GH200 = Machine("a CPU", ARCHS, {"sm_90": "NVIDIA GH200 480GB"}, lambda _: True)
MANIFEST = """
apiVersion: kernelsearch.dev/v1alpha1
kind: KernelSearch
metadata: {name: demo}
spec:
  problem:
    source: {inline: [{path: sums.py, content: "class Model: ..."}]}
    cases:
    - {name: small, dims: {ROWS: 8, COLUMNS: 16}, dtype: bfloat16}
    - {name: large, dims: {ROWS: 64, COLUMNS: 16}}
    tolerance: {rtol: "1e-3"}
  targets:
  - {name: big, profile: x86-64-v4, language: cpp}
  - {name: cpu, profile: mine, language: cpp}
  - {name: gpu, profile: nvidia-h100, language: triton}
  llm: {models: [{name: main, model: large, endpoint: "https://llm.example.com/v1", maxOutputTokens: 4096}]}
  budget: {candidates: 8}
---
apiVersion: kernelsearch.dev/v1alpha1
kind: AcceleratorProfile
metadata: {name: mine}
spec:
  vendor: cpu
  arch: x86-64-v2
  scheduling: {}
  toolchains: [{language: cpp, image: harness-cpu, fileSuffix: .cc}]
"""


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "problem.py").write_text("class Model: ...\n")
        (path / "search.yaml").write_text(MANIFEST)

    def choose(self, problem: str, *names: str, machine: Machine = CPU, **wanted: object) -> Chosen:
        for name in names:
            (self.path / name).parent.mkdir(exist_ok=True)
            (self.path / name).write_text(f"// {name}\n")
        return choose(self.path / problem, [self.path / name for name in names], Wanted(**wanted), machine)  # type: ignore[arg-type]

    def refusal(self, problem: str, *names: str, machine: Machine = CPU, **wanted: object) -> str:
        with pytest.raises(DocumentError) as caught:
            self.choose(problem, *names, machine=machine, **wanted)
        return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize(
    ("machine", "name", "target"),
    [
        (CPU, "k.cpp", ("x86-64-v3", "cpp")),
        (CPU, "k.py", ("x86-64-v3", "pytorch")),
        (H200, "k.cpp", ("x86-64-v3", "cpp")),
        (H200, "k.cu", ("nvidia-h200", "cuda")),
        (H200, "k.py", ("nvidia-h200", "pytorch")),
    ],
)
def test_the_suffix_means_a_language_and_the_machine_has_a_profile_for_it(
    folder: Folder, machine: Machine, name: str, target: tuple[str, str]
) -> None:
    chosen = folder.choose("problem.py", name, machine=machine)
    assert (chosen.profile.metadata.name, chosen.language) == target
    assert chosen.problem.files[0].content == "class Model: ...\n"


def test_another_language_of_the_same_suffix_is_taken_when_it_is_named_and_told_of_when_not(folder: Folder) -> None:
    assert folder.choose("problem.py", "k.py", machine=H200).other_languages == ("triton", "cutedsl")
    named = folder.choose("problem.py", "k.py", machine=H200, language="triton")
    assert (named.profile.metadata.name, named.language, named.other_languages) == ("nvidia-h200", "triton", ())


def test_a_named_language_makes_the_suffix_free(folder: Folder) -> None:
    assert folder.choose("problem.py", "k.cc", "k.txt", language="cpp").language == "cpp"


def test_profiles_that_fit_equally_well_are_listed_and_one_of_them_can_be_named(folder: Folder) -> None:
    refusal = folder.refusal("problem.py", "k.cu", machine=GH200)
    assert "nvidia-h100, nvidia-h200 fit this machine equally well: choose one with --profile" in refusal
    chosen = folder.choose("problem.py", "k.cu", machine=GH200, profile="nvidia-h100")
    assert chosen.profile.metadata.name == "nvidia-h100"


def test_without_a_candidate_the_first_language_of_the_profile_is_taken(folder: Folder) -> None:
    chosen = folder.choose("problem.py")
    assert (chosen.profile.metadata.name, chosen.language) == ("x86-64-v3", "cpp")
    assert chosen.files == {}


def test_a_suffix_that_is_no_language_is_answered_with_those_that_run_here(folder: Folder) -> None:
    refusal = folder.refusal("problem.py", "k.rs")
    assert refusal == "no language for .rs; there is cpp (.cpp) for x86-64-v3, pytorch (.py) for x86-64-v3"
    assert "a file without a suffix; there is cpp (.cpp)" in folder.refusal("problem.py", "kernel")
    assert "no language for rust; there is cpp" in folder.refusal("problem.py", "k.cpp", language="rust")
    assert "no language for .cpp; there is triton (.py)" in folder.refusal("problem.py", "k.cpp", profile="nvidia-h100")


def test_what_this_machine_lacks_is_named_for_every_profile(folder: Folder) -> None:
    refusal = folder.refusal("problem.py", "k.cu")
    assert "this machine cannot judge it" in refusal
    for name in ("nvidia-a100", "nvidia-b200", "nvidia-h100", "nvidia-h200"):
        assert f"cuda (.cu) for {name}: this machine has no nvidia" in refusal


def test_a_profile_that_is_named_is_compiled_for_where_its_device_is_missing(folder: Folder) -> None:
    chosen = folder.choose("problem.py", "k.hip", profile="amd-mi300x")
    assert (chosen.profile.metadata.name, chosen.language) == ("amd-mi300x", "hip")
    assert "no GPU" in folder.refusal("problem.py", "k.hip"), "never by itself"
    assert "it has NVIDIA H200" in folder.refusal("problem.py", "k.hip", machine=H200, profile="amd-mi300x")
    no_compiler = Machine("a CPU", ARCHS, {}, lambda _: False)
    assert "no GPU" in folder.refusal("problem.py", "k.hip", machine=no_compiler, profile="amd-mi300x")


def test_a_profile_that_nobody_has_is_answered_with_those_there_are(folder: Folder) -> None:
    assert "there is no profile tpu; there is amd-mi300x" in folder.refusal("problem.py", "k.cpp", profile="tpu")


def test_candidates_of_two_languages_are_not_one_batch(folder: Folder) -> None:
    assert "end in .cpp and .py, and one batch has one language" in folder.refusal("problem.py", "k.cpp", "k.py")


def test_a_manifest_gives_cases_tolerance_profile_and_the_target_that_runs_here(folder: Folder) -> None:
    chosen = folder.choose("search.yaml", "k.cc")
    assert (chosen.profile.metadata.name, chosen.language) == ("mine", "cpp")
    assert [case.name for case in chosen.problem.cases] == ["small", "large"]
    assert chosen.problem.tolerance.rtol == 1e-3
    assert chosen.problem.entry == "sums.py"


def test_a_manifests_targets_hold_unless_a_profile_is_named(folder: Folder) -> None:
    assert folder.choose("search.yaml", "k.py", machine=H200).language == "triton"
    assert "no language for .cpp; there is cpp (.cc) for mine" in folder.refusal("search.yaml", "k.cpp", profile="mine")
    assert folder.choose("search.yaml", "k.cpp", profile="x86-64-v3").profile.metadata.name == "x86-64-v3"


def test_cases_of_the_command_line_replace_those_of_the_problem(folder: Folder) -> None:
    cases = folder.choose("search.yaml", "k.cc", cases=("large", "small=ROWS=9", "own=ROWS=3,COLUMNS=5")).problem.cases
    assert [(case.name, case.dims, case.dtype) for case in cases] == [
        ("large", {"ROWS": 64, "COLUMNS": 16}, None),
        ("small", {"ROWS": 9, "COLUMNS": 16}, "bfloat16"),
        ("own", {"ROWS": 3, "COLUMNS": 5}, None),
    ]


@pytest.mark.parametrize(
    ("case", "answer"),
    [
        ("huge", "its cases are small, large; or give dims: huge=ROWS=64"),
        ("huge=ROWS", "write it like small=ROWS=64,COLUMNS=128"),
        ("huge=ROWS=1,ROWS=2", "each name once"),
        ("Huge=ROWS=1", 'cases[0].name: is "Huge"'),
    ],
)
def test_what_is_no_case_is_refused_with_an_example(folder: Folder, case: str, answer: str) -> None:
    assert answer in folder.refusal("search.yaml", "k.cc", cases=(case,))


def test_every_file_that_cannot_be_read_is_named_at_once(folder: Folder) -> None:
    binary, missing = folder.path / "binary.cpp", folder.path / "missing.cpp"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(DocumentError) as caught:
        choose(folder.path / "problem.py", [binary, missing, folder.path], Wanted(), CPU)
    assert f"{binary} is not a UTF-8 text file" in str(caught.value)
    assert f"{missing} cannot be read: No such file or directory" in str(caught.value)
    assert f"{folder.path} cannot be read: Is a directory" in str(caught.value)


def test_a_kernel_in_the_problems_place_is_told_from_a_broken_manifest(folder: Folder) -> None:
    (folder.path / "k.cu").touch()
    assert "the problem comes first" in folder.refusal("k.cu", "problem.py")


def test_more_candidates_than_a_batch_holds_are_refused(folder: Folder) -> None:
    names = [f"k{number}.cpp" for number in range(MOST_CANDIDATES + 1)]
    assert f"one batch holds {MOST_CANDIDATES}" in folder.refusal("problem.py", *names)


def test_files_of_one_name_stay_apart_and_any_name_becomes_an_id(folder: Folder) -> None:
    chosen = folder.choose("problem.py", "a/k.cpp", "b/k.cpp", "-ein Kern.cpp")
    assert list(chosen.files) == ["k.cpp", "k.cpp-2", "ein-Kern.cpp"]
    assert [chosen.sources[id] for id in chosen.files] == ["// a/k.cpp\n", "// b/k.cpp\n", "// -ein Kern.cpp\n"]


def test_a_profile_of_a_file_is_one_that_can_be_read_and_the_only_one(folder: Folder) -> None:
    missing, empty = str(folder.path / "missing.yaml"), str(folder.path / "empty.yaml")
    Path(empty).write_text("{apiVersion: v1, kind: Secret, metadata: {name: key}}")
    said = folder.refusal("problem.py", "k.cpp", profile=missing)
    assert said == f"--profile {missing} cannot be read: No such file or directory"
    said = folder.refusal("problem.py", "k.cpp", profile=empty)
    assert said == f"--profile {empty}: it must hold one AcceleratorProfile; it holds 0"

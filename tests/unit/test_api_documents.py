"""What a person's file may hold, and what they are told when it is wrong."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from kernelsearch.api.documents import DocumentError, load_documents
from kernelsearch.api.validation import unknown_field

SEARCH = """
apiVersion: kernelsearch.dev/v1alpha1
kind: KernelSearch
metadata: {name: NAME}
spec:
  problem: {source: {configMap: {name: files}}}
  targets: [{name: cpu, profile: x86-64-v3, language: cpp}]
  llm: {models: [{name: main, model: m, endpoint: "http://127.0.0.1:8000/v1"}]}
  budget: {candidates: 10}
"""
CONFIG_MAP = """
apiVersion: v1
kind: ConfigMap
metadata: {name: files}
data: {reference.py: "class Model: ..."}
"""


def search(name: str = "one") -> str:
    return SEARCH.replace("NAME", name)


def problems(text: str | Path) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        load_documents(text)
    return caught.value.problems


def test_a_file_may_hold_a_search_its_files_and_a_profile() -> None:
    profile = """
    apiVersion: kernelsearch.dev/v1alpha1
    kind: AcceleratorProfile
    metadata: {name: mine}
    spec: {vendor: cpu, arch: x86-64-v2, scheduling: {}, toolchains: [{language: cpp, image: judge}]}
    """
    documents = load_documents("---".join([search(), CONFIG_MAP, dedent(profile)]))
    assert documents.search.metadata.name == "one"
    assert documents.problem_files() == {"reference.py": "class Model: ..."}
    assert documents.profiles["mine"].spec.toolchain("cpp").compile_timeout_seconds == 120


def test_defaults_are_filled_in_at_every_depth() -> None:
    spec = load_documents(search()).search.spec
    assert spec.stop.pending_timeout == "1h"
    assert spec.output.publish == "OnComplete"
    assert spec.problem.tolerance.seeds == 5
    assert spec.verification.repeats == 3
    assert spec.targets[0].batch_size == 8


def test_other_kinds_are_left_alone_and_named() -> None:
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: llm-key}\n"
    documents = load_documents("---\n".join([secret, search()]))
    assert documents.others == ("Secret llm-key",)


def test_every_error_names_file_document_field_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(search() + "---" + search("two").replace("candidates: 10", "candidate: 10"))
    (problem,) = problems(path)
    assert problem == (
        f"{path}: document 2 (line 11), KernelSearch two:"
        ' spec.budget.candidate: unknown field; did you mean "candidates"?'
    )


def test_all_errors_of_a_file_are_reported_at_once() -> None:
    broken = search().replace("batchSize", "").replace("cpp}", "cpp, batchSize: 0}").replace("{candidates: 10}", "{}")
    found = problems(broken + "---" + search("two").replace("name: main,", ""))
    assert [problem.split(": ")[1] for problem in found] == [
        "spec.targets[0].batchSize",
        "spec.budget",
        "spec.llm.models[0].name",
    ]


def test_two_objects_of_one_name_are_refused() -> None:
    (problem,) = problems(search() + "---" + search())
    assert "another document has the same kind and name; rename one of them" in problem


def test_another_version_of_the_api_is_refused_by_name() -> None:
    (problem,) = problems(search().replace("v1alpha1", "v2"))
    assert "apiVersion is kernelsearch.dev/v2, this version reads kernelsearch.dev/v1alpha1" in problem


@pytest.mark.parametrize("text", ["just text", "[1, 2]", "kind: KernelSearch"])
def test_what_is_no_kubernetes_object_is_refused(text: str) -> None:
    assert problems(text) == ["document 1 (line 1): not a Kubernetes object; it needs apiVersion and kind"]


def test_a_key_that_stands_twice_is_refused_with_its_line() -> None:
    assert problems("a: 1\nb:\n  c: 1\n  c: 2\n") == ['line 4: "c" stands twice; remove one of them']


def test_a_key_that_kubectl_would_turn_into_false_is_refused() -> None:
    text = search().replace("configMap: {name: files}}", "configMap: {name: files}}, cases: [{name: a, dims: {N: 4}}]")
    assert problems(text) == ['line 6: the key N is read as false; write "N"']


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1e-2", "must be a string, is 0.01; put it into quotes"),
        ("5", "must be a string, is 5; put it into quotes"),
        ("y", "must be a string, is true; put it into quotes"),
        ("2026-01-01", 'is "2026-01-01", which does not match'),
        ("1:30", 'is "1:30", which does not match'),
    ],
)
def test_scalars_are_read_as_kubectl_reads_them(value: str, message: str) -> None:
    first, *_ = problems(search().replace("{candidates: 10}", f"{{cost: {value}}}"))
    assert f"spec.budget.cost: {message}" in first


def test_broken_yaml_names_the_line() -> None:
    (problem,) = problems("a: [1, 2\nb: 3\n")
    assert problem.startswith("line 2: ")


def test_a_search_whose_files_are_missing_says_which_document_to_add() -> None:
    with pytest.raises(DocumentError, match="no ConfigMap files in the file; add it as another document"):
        load_documents(search()).problem_files()


def test_a_file_without_a_search_says_so() -> None:
    with pytest.raises(DocumentError, match="no KernelSearch in the file"):
        _ = load_documents(CONFIG_MAP).search


def test_two_searches_cannot_be_run_at_once() -> None:
    with pytest.raises(DocumentError, match=r"2 KernelSearches in the file \(one, two\); give each its own file"):
        _ = load_documents(search() + "---" + search("two")).search


def test_binary_data_of_a_config_map_is_decoded() -> None:
    text = CONFIG_MAP.replace('data: {reference.py: "class Model: ..."}', "binaryData: {reference.py: cGFzcw==}")
    assert load_documents(search() + "---" + text).problem_files() == {"reference.py": "pass"}


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("batch_size", "batchSize"),
        ("BatchSize", "batchSize"),
        ("batchsize", "batchSize"),
        ("paralelism", "parallelism"),
    ],
)
def test_the_closest_known_field_is_named(name: str, suggestion: str) -> None:
    assert unknown_field(name, ["name", "batchSize", "parallelism"]) == f'unknown field; did you mean "{suggestion}"?'


def test_a_field_like_no_other_lists_those_there_are() -> None:
    assert unknown_field("zzz", ["name", "batchSize"]) == "unknown field; remove it, or use one of: batchSize, name"


def test_anything_but_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_bytes(b"a: \xff\xfe")
    (problem,) = problems(path)
    assert problem == f"{path}: not a UTF-8 text file"

"""Every manifest in examples/ works as it stands: valid, self-contained, on a packaged profile, with its problem."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml
from kernelsearch.api.documents import Documents, load_documents
from kernelsearch.api.profiles import packaged_profiles
from kernelsearch.api.translate import entry_file, to_protocol_problem, to_toolchain
from kernelsearch.search.tunables import find_tunables

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SEARCHES = [
    *("demo-cpu.yaml", "demo-gpu.yaml", "gelu-rowsum.yaml", "matmul-epilogue.yaml", "rmsnorm.yaml", "tune-only.yaml")
]


def read(name: str) -> Documents:
    return load_documents(EXAMPLES / name)


def test_no_manifest_is_left_untested() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.yaml")) == sorted(
        [*SEARCHES, "llm-key.yaml", "serving-deployment.yaml"]
    )


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_brings_its_problem_as_it_lies_in_problems(name: str) -> None:
    documents = read(name)
    files = documents.problem_files()
    path = entry_file(documents.search.spec.problem, files)
    assert files == {path: (EXAMPLES / "problems" / path).read_text()}, f"copy problems/{path} into {name}"


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_is_named_after_its_file_and_leaves_nothing_to_the_reader(name: str) -> None:
    documents = read(name)
    assert f"{documents.search.metadata.name}.yaml" == name
    assert documents.others == ()
    for target in documents.search.spec.targets:
        to_toolchain(packaged_profiles()[target.profile], target.language)


@pytest.mark.parametrize("name", SEARCHES)
def test_cases_set_constants_that_the_problem_has(name: str) -> None:
    documents = read(name)
    problem = to_protocol_problem(documents.search.spec.problem, documents.problem_files())
    tree = ast.parse(problem.files[0].content)
    constants = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
                 if isinstance(target, ast.Name)}  # fmt: skip
    assert len(problem.cases) >= 2
    assert len({tuple(case.dims.items()) for case in problem.cases}) == len(problem.cases)
    for case in problem.cases:
        assert set(case.dims) <= constants


def test_three_problems_of_different_kind_are_shown() -> None:
    shown = {entry_file(read(name).search.spec.problem, read(name).problem_files()) for name in SEARCHES}
    assert shown == {path.name for path in (EXAMPLES / "problems").glob("*.py")}


def test_tuning_needs_no_model_and_has_something_to_tune() -> None:
    spec = read("tune-only.yaml").search.spec
    assert spec.llm is None
    (seed,) = spec.problem.seeds
    names = {tunable.name: len(tunable.values) for tunable in find_tunables(seed.content)}
    assert names == {"BLOCK": 5, "ROWS_PER_TASK": 3}


def test_the_serving_deployment_mounts_what_the_demo_publishes_and_is_restricted() -> None:
    pod = yaml.safe_load((EXAMPLES / "serving-deployment.yaml").read_text())["spec"]["template"]["spec"]
    mounted = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
    assert mounted == [f"{read('demo-cpu.yaml').search.metadata.name}-kernel"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in pod["initContainers"] + pod["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_key_is_one_that_the_other_examples_may_use() -> None:
    secret = yaml.safe_load((EXAMPLES / "llm-key.yaml").read_text())
    assert secret["metadata"]["labels"] == {"kernelsearch.dev/llm-credential": "true"}
    origins = secret["metadata"]["annotations"]["kernelsearch.dev/allowed-origins"].split(",")
    for name in SEARCHES:
        llm = read(name).search.spec.llm
        for model in llm.models if llm else ():
            if model.secret_key_ref:
                assert model.secret_key_ref.name == secret["metadata"]["name"]
                assert model.secret_key_ref.key in secret["stringData"]
                assert any(model.endpoint.startswith(f"{origin}/") for origin in origins)

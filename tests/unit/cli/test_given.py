"""What a file and flags become: a manifest made for a bare problem, overrides, skipped targets, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernelsearch.api.documents import DocumentError
from kernelsearch.api.translate import TranslateError
from kernelsearch.cli.flags import Overrides
from kernelsearch.cli.given import API_KEY, resolve
from kernelsearch.cli.machine import Machine

MACHINE = Machine("a CPU", frozenset({"x86-64", "x86-64-v2", "x86-64-v3"}), {}, lambda _: True)
ENDPOINT = "http://127.0.0.1:1/v1"
MANIFEST = """
apiVersion: kernelsearch.dev/v1alpha1
kind: KernelSearch
metadata: {name: demo}
spec:
  problem: {source: {inline: [{path: reference.py, content: "class Model: ..."}]}}
  targets:
  - {name: cpu, profile: x86-64-v3, language: cpp}
  - {name: big, profile: x86-64-v4, language: cpp}
  llm: {models: [{name: main, model: large, endpoint: "https://llm.example.com/v1", maxOutputTokens: 4096}]}
  budget: {candidates: 8}
"""


def write(folder: Path, text: str, name: str = "search.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_targets_that_this_machine_lacks_are_skipped_with_the_reason(tmp_path: Path) -> None:
    given = resolve(write(tmp_path, MANIFEST), Overrides(), MACHINE)
    assert [target.name for target in given.spec.targets] == ["cpu"]
    assert "x86-64-v4" in given.skipped["big"]


def test_no_target_left_is_an_error_that_names_every_reason(tmp_path: Path) -> None:
    old = Machine("an old CPU", frozenset({"x86-64"}), {}, lambda _: True)
    with pytest.raises(DocumentError) as caught:
        resolve(write(tmp_path, MANIFEST), Overrides(), old)
    assert "none of the targets of demo" in str(caught.value)
    assert "target cpu:" in str(caught.value)
    assert "target big:" in str(caught.value)


def test_a_profile_that_nobody_has_is_answered_with_the_packaged_ones(tmp_path: Path) -> None:
    manifest = MANIFEST.replace("x86-64-v4", "acme-npu2")
    given = resolve(write(tmp_path, manifest), Overrides(), MACHINE)
    assert "nvidia-h100" in given.skipped["big"]


def test_endpoint_and_model_of_the_command_line_win(tmp_path: Path) -> None:
    given = resolve(write(tmp_path, MANIFEST), Overrides(ENDPOINT, "small", 5), MACHINE)
    assert given.spec.llm is not None
    model = given.spec.llm.models[0]
    assert (model.endpoint, model.model, model.max_output_tokens) == (ENDPOINT, "small", 4096)
    assert given.spec.budget.candidates == 5


def test_overrides_pass_the_same_rules_as_the_file(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="endpoint"):
        resolve(write(tmp_path, MANIFEST), Overrides("ftp://example.com"), MACHINE)


def test_the_problem_stays_the_same_whatever_the_flags_say(tmp_path: Path) -> None:
    path = write(tmp_path, MANIFEST)
    plain, changed = (resolve(path, flags, MACHINE).inputs("uid") for flags in (Overrides(), Overrides(ENDPOINT, "m")))
    assert plain.problem_digest == changed.problem_digest


def test_a_bare_problem_becomes_a_search_in_cpp_on_this_cpu(tmp_path: Path) -> None:
    path = write(tmp_path, "class Model: ...\n", "My Problem_1.py")
    given = resolve(path, Overrides(ENDPOINT, "m", 12), MACHINE)
    assert given.name == "my-problem-1"
    assert given.files == {"reference.py": "class Model: ...\n"}
    assert [(t.profile, t.language) for t in given.spec.targets] == [("x86-64-v3", "cpp")]
    assert given.spec.budget.candidates == 12


def test_a_bare_problem_without_a_model_says_which_flags_are_missing(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="--llm-endpoint and --llm-model"):
        resolve(write(tmp_path, "class Model: ...", "p.py"), Overrides(), MACHINE)


def test_a_problem_whose_entry_is_not_among_its_files_is_refused(tmp_path: Path) -> None:
    files = """apiVersion: v1
kind: ConfigMap
metadata: {name: problem}
data: {a.py: "", b.py: ""}
---
"""
    manifest = MANIFEST.replace(
        'inline: [{path: reference.py, content: "class Model: ..."}]', "configMap: {name: problem}"
    )
    with pytest.raises(TranslateError, match=r"set spec\.problem\.file"):
        resolve(write(tmp_path, files + manifest), Overrides(), MACHINE)


def test_the_key_comes_from_the_environment_and_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY, "canary")
    inputs = resolve(write(tmp_path, MANIFEST), Overrides(), MACHINE).inputs("uid")
    key = inputs.endpoints["main"].api_key
    assert key is not None
    assert key.get_secret_value() == "canary"
    assert "canary" not in repr(inputs)


GUIDED = (
    MANIFEST.replace("profile: x86-64-v3, language: cpp", "profile: mine, language: cpp")
    + """
---
apiVersion: kernelsearch.dev/v1alpha1
kind: AcceleratorProfile
metadata: {name: mine}
spec:
  vendor: cpu
  arch: x86-64-v2
  scheduling: {}
  toolchains: [{language: cpp, image: judge}, {language: pytorch, image: judge}]
  knowledge:
  - {title: guide, languages: [cpp], configMapRef: {namespace: kernelsearch, name: guides, key: guide.md}}
  - {title: for others, languages: [pytorch], configMapRef: {namespace: kernelsearch, name: guides, key: other.md}}
"""
)
GUIDES = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: guides}
data: {guide.md: Mind the gap.}
"""


def test_knowledge_is_read_from_the_config_maps_of_the_file(tmp_path: Path) -> None:
    for guides in (GUIDES, GUIDES.replace("{name: guides}", "{name: guides, namespace: kernelsearch}")):
        given = resolve(write(tmp_path, GUIDED + guides), Overrides(), MACHINE)
        knowledge = given.inputs("uid").profiles["mine"].spec.knowledge
        assert [(entry.title, entry.text) for entry in knowledge] == [("guide", "Mind the gap."), ("for others", None)]


@pytest.mark.parametrize(
    "guides",
    [
        "",
        GUIDES.replace("guides", "guide"),
        GUIDES.replace("guide.md", "guide.txt"),
        GUIDES.replace("{name: guides}", "{name: guides, namespace: team-a}"),
    ],
    ids=["no ConfigMap", "another name", "another key", "another namespace"],
)
def test_knowledge_that_is_not_in_the_file_is_told_what_to_add(tmp_path: Path, guides: str) -> None:
    with pytest.raises(DocumentError) as caught:
        resolve(write(tmp_path, GUIDED + guides), Overrides(), MACHINE)
    assert str(caught.value) == (
        "profile mine, knowledge 'guide': no ConfigMap guides of namespace kernelsearch with the key guide.md in the"
        " file; add it as another document"
    )

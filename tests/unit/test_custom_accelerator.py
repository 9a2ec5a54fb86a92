"""The operator's side of examples/custom-accelerator: free names, whose meaning reaches judge and model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kernelharness.protocol import Purpose
from kernelsearch.api.documents import load_documents
from kernelsearch.api.translate import problem_digest, to_protocol_problem
from kernelsearch.cli.chosen import Wanted, choose
from kernelsearch.cli.machine import Machine
from kernelsearch.engine import SearchInputs
from kernelsearch.engine.batches import to_batch
from kernelsearch.evaluate.base import BatchRequest
from kernelsearch.evaluate.manifests import Placement, anchor, job
from kernelsearch.search.actions import CallModel
from kernelsearch.search.journal import Operator
from kernelsearch.search.prompts import build_prompt
from kernelsearch.search.tunables import find_tunables

from .search.test_state import begun
from .search.world import target

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "custom-accelerator"
PROFILE_FILE = EXAMPLE / "profile.yaml"
PROFILE = load_documents(PROFILE_FILE).profiles["acme-npu1"]
SEARCH = load_documents(EXAMPLE / "search.yaml").search
FILES = load_documents(EXAMPLE / "search.yaml").problem_files()
"""Read as the API server does: by schema and rules, which know neither vendor nor language."""
HERE = Machine("a CPU", frozenset({"x86-64"}), {}, lambda _: True, frozenset({"acme"}))


def test_the_search_brings_the_problem_and_the_kernel_that_lie_beside_it() -> None:
    assert {EXAMPLE / path: content for path, content in FILES.items()} == {
        EXAMPLE / "diagonal.py": (EXAMPLE / "diagonal.py").read_text()
    }
    (seed,) = SEARCH.spec.problem.seeds
    assert seed.content == (EXAMPLE / "diagonal.acme").read_text()
    assert [tunable.name for tunable in find_tunables(seed.content)] == ["LANES"]


def test_a_batch_carries_how_the_profile_compiles() -> None:
    spec = PROFILE.spec
    chain = spec.toolchains[0].model_copy(update={"env": {"ACME_OPTIONS": "fast"}})
    profile = PROFILE.model_copy(update={"spec": spec.model_copy(update={"toolchains": (chain,)})})
    problem = to_protocol_problem(SEARCH.spec.problem, FILES)
    batch = to_batch("b", Purpose.SEARCH, problem, profile, "acme-c", {"c1": "kernel"})
    toolchain = batch.toolchain
    assert (toolchain.vendor, toolchain.language, toolchain.arch) == ("acme", "acme-c", "acme-npu1")
    assert toolchain.command == ["acmecc", "-I{include}", "{source}", "-o", "{output}"]
    assert (toolchain.file_suffix, toolchain.env) == (".acme", {"ACME_OPTIONS": "fast"})
    assert batch.candidates[0].files[0].path == "kernel.acme"


def test_its_pods_are_the_vendors_image_with_no_more_rights_than_others() -> None:
    batch = to_batch("b", Purpose.PROBE, to_protocol_problem(SEARCH.spec.problem, FILES), PROFILE, "acme-c", {})
    placement = Placement("uid", "team/acme-diagonal", "evaluations", PROFILE.spec, "acme-c")
    owner = anchor(placement)
    owner["metadata"]["uid"] = "1"
    pod = job(placement, BatchRequest(search_uid="uid", target="npu", batch=batch), owner)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry.example.com/acme/harness"
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsNonRoot"] is True


def test_the_model_is_told_of_the_language_what_the_profile_says_of_it() -> None:
    state = begun(targets=(target().model_copy(update={"profile": "acme-npu1", "language": "acme-c"}),))
    inputs = SearchInputs(
        uid="u",
        name="acme-diagonal",
        generation=1,
        spec=SEARCH.spec,
        files=FILES,
        problem_digest=problem_digest(FILES, SEARCH.spec.problem),
        profiles={"acme-npu1": PROFILE},
        endpoints={},
    )
    action = CallModel(9, "cpu", Operator.DRAFT, None, None, "m")
    _, user = build_prompt(state, action, inputs.prompt_context(state, "cpu", "extern int forward(float* out);", {}))
    assert "Replace this reference, a PyTorch module, by a kernel in acme-c:" in user.content
    assert 'Write one acme-c source file that includes "problem.h"' in user.content
    assert "## acme-c in one page" in user.content
    assert "launch(context.stream, 8) scale(out, x, ROWS * COLUMNS);" in user.content
    assert "kernels run once for each lane of their launch" in user.content
    assert "ModelNew" not in user.content


# -- on a person's machine ------------------------------------------------------------------------------------------


def test_a_vendor_with_a_plugin_can_be_judged_here() -> None:
    assert HERE.why_not(PROFILE.spec, "acme-c") == ""


def test_a_vendor_without_one_is_told_so() -> None:
    why = replace(HERE, plugins=frozenset()).why_not(PROFILE.spec, "acme-c")
    assert why == "this machine has no acme acme-npu1; it has no GPU, and no device plugin for acme is installed"


def test_a_compiler_of_the_profile_is_looked_for() -> None:
    assert replace(HERE, has_program=lambda _: False).why_not(PROFILE.spec, "acme-c") == (
        "the compiler acmecc is not installed"
    )


def test_evaluate_takes_a_profile_from_a_file() -> None:
    wanted = Wanted(profile=str(PROFILE_FILE))
    chosen = choose(EXAMPLE / "diagonal.py", [EXAMPLE / "diagonal.acme"], wanted, HERE)
    assert (chosen.profile.metadata.name, chosen.language) == ("acme-npu1", "acme-c")
    assert list(chosen.files) == ["diagonal.acme"]

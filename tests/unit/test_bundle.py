"""What is published works by itself: in a folder, in a mounted ConfigMap, without a compiler, or says why not."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from kernelharness.languages.base import get_language
from kernelharness.protocol import (
    Case,
    CaseFact,
    CaseResult,
    File,
    Problem,
    Result,
    Stage,
    TensorFact,
    Toolchain,
    Verdict,
)
from kernelsearch.publish.bundle import Bundle, BundleError, VerifiedKernel, build_bundle, read_manifest
from kernelsearch.publish.configmap import DIGEST_ANNOTATION, config_map
from kernelsearch.publish.folder import read_folder, write_folder

REFERENCE = """
import torch
import torch.nn as nn

ROWS, COLUMNS = 8, 32

class Model(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(columns))
        self.eps = eps

    def forward(self, x, residual):
        total = x + residual
        return total * torch.rsqrt(total.square().mean(-1, keepdim=True) + self.eps) * self.weight, total

def get_inputs():
    return [torch.randn(ROWS, COLUMNS), torch.randn(ROWS, COLUMNS)]

def get_init_inputs():
    return [COLUMNS, 1e-6]
"""

KERNEL = """
#include "problem.h"
#include <cmath>

extern "C" int forward(float* out0, float* out1, const float* x, const float* residual, const float* weight,
                       int64_t ROWS, int64_t COLUMNS, int64_t columns, double eps, KernelContext& context) {
  if (weight[0] == 1234.0f) return context.fail("no such weight");
  #pragma omp parallel for
  for (int64_t r = 0; r < ROWS; ++r) {
    const float *a = x + r * COLUMNS, *b = residual + r * COLUMNS;
    float *normed = out0 + r * COLUMNS, *total = out1 + r * COLUMNS, sum = 0;
    for (int64_t c = 0; c < COLUMNS; ++c) {
      total[c] = a[c] + b[c];
      sum += total[c] * total[c];
    }
    const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
    for (int64_t c = 0; c < COLUMNS; ++c) normed[c] = total[c] * scale * weight[c];
  }
  return 0;
}
"""

PYTHON_KERNEL = """
import torch

class ModelNew(torch.nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(columns))
        self.eps = eps

    def forward(self, x, residual):
        total = x + residual
        return torch.nn.functional.rms_norm(total, (total.shape[-1],), self.weight, self.eps), total
"""

CASES = [Case(name="small"), Case(name="wide", dims={"ROWS": 4, "COLUMNS": 1024})]
PROBLEM = Problem(files=[File(path="norm.py", content=REFERENCE)], entry="norm.py", cases=CASES)


def fact(case: str, rows: int, columns: int, hidden: bool = False) -> CaseFact:
    def tensor(name: str, *shape: int) -> TensorFact:
        return TensorFact(name=name, shape=list(shape), dtype="float32")

    return CaseFact(
        case=case,
        hidden=hidden,
        inputs=[tensor("x", rows, columns), tensor("residual", rows, columns)],
        parameters=[tensor("weight", columns)],
        outputs=[tensor("out0", rows, columns), tensor("out1", rows, columns)],
        returns="tuple",
        scalars={"columns": str(columns), "eps": "1e-06"},
        dims={"ROWS": rows, "COLUMNS": columns},
    )


FACTS = (fact("small", 8, 32), fact("wide", 4, 1024), fact("hidden", 5, 77, hidden=True))


def verified(library: bytes, header: str = "", **changes: Any) -> VerifiedKernel:
    timed = [
        CaseResult(case=name, ns=10, low=1.9, high=2.1, speedup=2.0, baseline="compile", baseline_ns=20, samples=12)
        for name in ("small", "wide")
    ]
    result = Result(
        candidate="c1-cpu",
        verdict=Verdict.OK,
        stage=Stage.TIMING,
        cases=timed,
        speedup=2.0,
        low=1.9,
        high=2.1,
        binary_hash=hashlib.sha256(library).hexdigest(),
    )
    kernel = VerifiedKernel(
        target="cpu",
        language="cpp",
        suffix=".cpp",
        vendor="cpu",
        arch="x86-64-v3",
        device="some CPU",
        candidate="c1-cpu",
        model="some-model",
        source=KERNEL,
        library=library,
        header=header,
        facts=FACTS,
        result=result,
    )
    return replace(kernel, **changes)


def build(*kernels: VerifiedKernel) -> Bundle:
    return build_bundle(
        name="norm", uid="1234", problem=PROBLEM, problem_digest="abc", harness="0.1.0", kernels=kernels
    )


def compiled(folder: Path, facts: tuple[CaseFact, ...], source: str) -> tuple[bytes, str]:
    """(library, header)."""
    language = get_language("cpp")
    toolchain = Toolchain(language="cpp", arch="x86-64-v3")
    header = language.headers(facts)["problem.h"]
    (folder / "problem.h").write_text(header)
    (folder / "kernel.cpp").write_text(source)
    command = language.compile_command(toolchain, "kernel.cpp", "kernel.so", ".")
    subprocess.run(command, check=True, cwd=folder)
    return (folder / "kernel.so").read_bytes(), header


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> VerifiedKernel:
    return verified(*compiled(tmp_path_factory.mktemp("compiled"), FACTS, KERNEL))


@pytest.fixture(scope="session")
def bundle(native: VerifiedKernel) -> Bundle:
    return build(native)


SERVER = """
import json, os, sys, traceback
import torch
for line in sys.stdin:
    order = json.loads(line)
    if (pid := os.fork()) == 0:
        for stream in (1, 2):
            os.dup2(os.open(order[["", "out", "err"][stream]], os.O_WRONLY | os.O_CREAT), stream)
        sys.argv, code = order["argv"], 1
        sys.path.insert(0, order["folder"])
        try:
            exec(order["script"], {"__name__": "__main__"})
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Serve = Callable[..., Done]
Say = Callable[[Path, str], str]
Check = Callable[[Path], Done]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A fresh serving process for each call, forked where torch is imported already; no compiler on its PATH."""
    environment = {"PATH": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-W", "always::RuntimeWarning", "-c", SERVER]
    server = subprocess.Popen(command, env=environment, cwd="/", stdin=PIPE, stdout=PIPE, text=True)

    def run(folder: Path, script: str, *argv: str) -> Done:
        assert server.stdin is not None
        assert server.stdout is not None
        place = tmp_path_factory.mktemp("said")
        out, err = place / "out", place / "err"
        order = {"folder": str(folder), "script": script, "argv": list(argv), "out": str(out), "err": str(err)}
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        return Done(int(server.stdout.readline()), out.read_text(), err.read_text())

    yield run
    server.communicate()


@pytest.fixture
def serve(python: Serve) -> Say:
    def run(folder: Path, script: str) -> str:
        done = python(folder, f"import torch, kernel\ntorch.manual_seed(0)\n{script}")
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture
def check(python: Serve) -> Check:
    """`python kernel.py --check` in this folder."""

    def run(folder: Path) -> Done:
        script = f"import runpy; runpy.run_path({str(folder / 'kernel.py')!r}, run_name='__main__')"
        return python(folder, script, "kernel.py", "--check", "--seconds", "0.2")

    return run


# -- what is in it --------------------------------------------------------------------------------------------------


def test_bundle_is_flat_and_complete(bundle: Bundle) -> None:
    code = ["check.py", "kernel.py", "loading.py", "machine.py", "native.py", "training.py"]
    ours = ["cpu.cpp", "cpu.problem.h", "cpu.so.z", "manifest.json", "reference.py"]
    assert list(bundle.files) == sorted([*code, *ours])
    manifest = read_manifest(bundle.files)
    target = manifest["targets"][0]
    assert manifest["search"] == {"name": "norm", "uid": "1234"}
    assert (target["arch"], target["candidate"], target["model"]) == ("x86-64-v3", "c1-cpu", "some-model")
    assert [(case["case"], case["speedup"], case["low"]) for case in target["cases"]] == [
        ("small", 2.0, 1.9),
        ("wide", 2.0, 1.9),
    ]
    assert hashlib.sha256(zlib.decompress(bundle.files["cpu.so.z"])).hexdigest() == target["library"]["sha256"]


def test_sizes_of_a_hidden_case_are_not_published(bundle: Bundle) -> None:
    cases = read_manifest(bundle.files)["targets"][0]["cases"]
    assert {case["case"] for case in cases} == {"small", "wide"}
    assert "77" not in json.dumps([case["inputs"] for case in cases])


def test_equal_winners_give_an_equal_digest_and_another_winner_another_one(native: VerifiedKernel) -> None:
    assert build(native).digest == build(native).digest
    assert build(native).digest != build(replace(native, candidate="c2-cpu")).digest


def test_library_that_was_not_timed_is_refused(native: VerifiedKernel) -> None:
    with pytest.raises(BundleError, match="only the file that was timed is published"):
        build(replace(native, library=native.library + b"x"))


def test_library_too_large_for_a_message_is_refused() -> None:
    with pytest.raises(BundleError, match="bytes compressed, at most 262144 fit"):
        build(verified(os.urandom(300_000)))


def test_nothing_verified_is_nothing_to_publish() -> None:
    with pytest.raises(BundleError, match="there is nothing to publish"):
        build()


def test_changed_file_is_named(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"cpu\.cpp is missing or not the file"):
        read_manifest({**bundle.files, "cpu.cpp": b"other"})


# -- in a folder ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def folder(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "bundle"
    write_folder(bundle, path)
    return path


def test_writing_a_folder_twice_changes_nothing_and_another_bundle_replaces_it(
    bundle: Bundle, native: VerifiedKernel, tmp_path: Path
) -> None:
    path = tmp_path / "bundle"
    write_folder(bundle, path)
    before = (path / "manifest.json").stat().st_mtime_ns
    write_folder(bundle, path)
    assert (path / "manifest.json").stat().st_mtime_ns == before
    other = build(replace(native, candidate="c2-cpu"))
    write_folder(other, path)
    assert read_folder(path) == other.files
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_check_proves_equality_and_prints_the_speedup_without_a_compiler(folder: Path, check: Check) -> None:
    done = check(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("search norm (1234), torch ")
    assert lines[1].startswith("target cpu, case small: equal (max abs error ")
    speedups = r"\d\.\d\dx faster than the eager reference here, \d\.\d\dx when each result is freed at once"
    assert re.search(rf"{speedups} \(published 2\.00x over compile\)$", lines[2])
    assert lines[-1] == "every output equals the reference's"


def test_model_has_the_references_constructor_state_and_results(folder: Path, serve: Say) -> None:
    said = serve(
        folder,
        """
import copy
model, reference = kernel.ModelNew(32, 1e-6), kernel.ModelNew.__bases__[0](32, 1e-6)
assert kernel.Model is kernel.ModelNew and isinstance(model, torch.nn.Module)
model.load_state_dict(reference.state_dict())
x, residual = torch.randn(8, 32), torch.randn(8, 32)
with torch.inference_mode():
    got, want = model(x, residual), reference(x, residual)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(model(x=x, residual=residual.t().contiguous().t()), want)
    base = torch.empty(8 * 32 + 1)[1:].view(8, 32).copy_(x)
    torch.testing.assert_close(model(base, residual), want)
    torch.testing.assert_close(copy.deepcopy(model)(x, residual), want)
    model.weight.copy_(2 * model.weight)
    torch.testing.assert_close(model(x, residual)[0], 2 * want[0])
print(model.explain.__name__, type(got).__name__)
with torch.no_grad():
    print(model.explain(x, residual))
""",
    )
    assert said.splitlines() == ["explain tuple", "target cpu, case small"]


def test_reference_runs_and_says_why_where_nothing_was_verified(folder: Path, serve: Say) -> None:
    calls = {
        "model(x[:3], x[:3])": "target cpu: it was verified for 2 sets of shapes, and float32[3, 32], ",
        "kernel.Model(32, 1e-6).double()(x.double(), x.double())": "and float64[8, 32], float64[8, 32] is none of them",
        "kernel.Model(32, 1e-3)(x, x)": "target cpu: it was verified with eps = 1e-06, not 0.001",
        "kernel.Model(32, 1e-6).to('meta')(x.to('meta'), x.to('meta'))": "target cpu: it is for tensors on cpu",
    }
    lines = "".join(f"    print(len({call}))\n" for call in calls)
    said = serve(folder, f"model, x = kernel.Model(32, 1e-6), torch.randn(8, 32)\nwith torch.no_grad():\n{lines}")
    assert said.startswith("2\n2\n2\n2\n")
    assert said.count("the reference runs instead of a kernel: ") == 4
    for reason in calls.values():
        assert reason in said


def test_gradients_go_through_the_reference(folder: Path, serve: Say) -> None:
    said = serve(
        folder,
        "model = kernel.Model(32, 1e-6)\nmodel(torch.randn(8, 32), torch.randn(8, 32))[0].sum().backward()\n"
        "print(model.weight.grad.shape)",
    )
    assert "torch.Size([32])" in said
    assert "gradients are wanted; call the model under torch.inference_mode()" in said


def test_failing_kernel_is_answered_by_the_reference(folder: Path, serve: Say) -> None:
    said = serve(
        folder,
        "model = kernel.Model(32, 1e-6)\nwith torch.no_grad():\n    model.weight[0] = 1234\n"
        "    print(len(model(torch.randn(8, 32), torch.randn(8, 32))))",
    )
    assert said.startswith("2\n")
    assert "target cpu: it failed: no such weight" in said


def test_prepared_weights_follow_changes_and_changed_buffers_are_written_back(tmp_path: Path, serve: Say) -> None:
    reference = """
import torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(16))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen += 1
        return x * self.weight

def get_inputs():
    return [torch.randn(16)]
"""
    kernel = """
#define KERNEL_STATE
#include "problem.h"

extern "C" int64_t state_size(const float* weight, const float* seen) { return 64; }
extern "C" int init(const float* weight, const float* seen, void* state, KernelContext& context) {
  memcpy(state, weight, 64);
  return 0;
}
extern "C" int forward(float* out, float* seen_out, const float* x, const float* weight, const float* seen,
                       KernelContext& context) {
  for (int i = 0; i < 16; ++i) out[i] = x[i] * static_cast<const float*>(context.state)[i];
  seen_out[0] = seen[0] + 1;
  return 0;
}
"""
    x, seen = (TensorFact(name=name, shape=[size], dtype="float32") for name, size in (("x", 16), ("seen", 1)))
    weight, out = (x.model_copy(update={"name": name}) for name in ("weight", "out"))
    seen_out = seen.model_copy(update={"name": "seen_out"})
    fact = CaseFact(case="default", inputs=[x], parameters=[weight, seen], outputs=[out, seen_out], returns="tensor")
    library, header = compiled(tmp_path, (fact,), kernel)
    known = verified(library, header, facts=(fact,), source=kernel)
    timed = known.result.cases[0].model_copy(update={"case": "default"})
    result = known.result.model_copy(update={"cases": [timed]})
    stated = Problem(files=[File(path="reference.py", content=reference)])
    bundle = build_bundle(
        name="n", uid="u", problem=stated, problem_digest="d", harness="0", kernels=[replace(known, result=result)]
    )
    write_folder(bundle, tmp_path / "b")
    said = serve(
        tmp_path / "b",
        """
model, x = kernel.Model(), torch.randn(16)
with torch.inference_mode():
    assert torch.equal(model(x), x)
    model.weight.mul_(3)
    assert torch.equal(model(x), 3 * x)
    model.weight = torch.nn.Parameter(torch.full((16,), 5.0), requires_grad=False)
    assert torch.equal(model(x), 5 * x)
print(model.seen.item(), list(model.state_dict()))
""",
    )
    assert said == "3.0 ['weight', 'seen']\n"


def test_problem_of_several_files_is_served_from_flat_names(
    native: VerifiedKernel, tmp_path: Path, check: Check
) -> None:
    entry = "from parts.first import scale\n" + REFERENCE.replace("* self.weight, total", "* scale(self.weight), total")
    parts = {"parts/__init__.py": "", "parts/first.py": "from second import ONE\n\ndef scale(x):\n    return ONE * x\n"}
    given = {"norm.py": entry, **parts, "second.py": "ONE = 1\n"}
    stated = PROBLEM.model_copy(update={"files": [File(path=path, content=text) for path, text in given.items()]})
    bundle = build_bundle(name="n", uid="u", problem=stated, problem_digest="d", harness="0", kernels=[native])
    assert "reference.parts__first.py" in bundle.files
    write_folder(bundle, tmp_path / "b")
    done = check(tmp_path / "b")
    assert done.returncode == 0, done.stdout + done.stderr


def test_threads_share_a_model(folder: Path, serve: Say) -> None:
    serve(
        folder,
        """
import sys, warnings
from concurrent.futures import ThreadPoolExecutor
warnings.simplefilter("ignore")  # the reference runs for five rows
sys.setswitchinterval(1e-6)
model = kernel.Model(1024, 1e-6)
def call(seed):
    with torch.inference_mode():
        x = torch.full((4 + seed % 2, 1024), float(seed + 1))
        total = model(x, x)[1]
        return total.shape == x.shape and (total == 2 * (seed + 1)).all().item()
with ThreadPoolExecutor(4) as pool:
    assert all(pool.map(call, range(4000)))
""",
    )


# -- where it must not run ------------------------------------------------------------------------------------------


def test_other_architecture_is_refused_and_check_says_so(native: VerifiedKernel, tmp_path: Path, check: Check) -> None:
    write_folder(build(replace(native, arch="armv9-a")), tmp_path / "b")
    done = check(tmp_path / "b")
    assert done.returncode == 2
    assert (
        "target cpu: not here: it was built for armv9-a, and whether this CPU is one cannot be checked" in done.stdout
    )


def test_a_device_that_only_its_vendor_reaches_is_left_to_the_vendor(
    native: VerifiedKernel, tmp_path: Path, check: Check
) -> None:
    bundle = build(replace(native, vendor="acme", arch="acme-npu1", language="acme-c", suffix=".acme"))
    assert bundle.files["cpu.acme"].decode() == KERNEL
    write_folder(bundle, tmp_path / "b")
    done = check(tmp_path / "b")
    assert done.returncode == 2
    assert "target cpu: not here: its memory is on a device of acme" in done.stdout


def test_missing_cpu_flags_are_named(native: VerifiedKernel, tmp_path: Path, serve: Say) -> None:
    write_folder(build(native), tmp_path / "b")
    said = serve(
        tmp_path / "b",
        "kernel._machine.cpu_flags = lambda: {'sse4_1', 'avx'}\nprint(kernel.targets()[0].refusal)",
    )
    assert said.startswith("it was built for x86-64-v3, this CPU lacks abm avx2 bmi1 bmi2 cx16 f16c fma")


def test_changed_library_is_never_loaded(bundle: Bundle, tmp_path: Path, check: Check) -> None:
    write_folder(bundle, tmp_path / "b")
    (tmp_path / "b" / "cpu.so.z").write_bytes(zlib.compress(b"something else"))
    done = check(tmp_path / "b")
    assert done.returncode == 2
    assert "cpu.so.z is not what the manifest describes: its sha256 differs" in done.stdout


def test_wrong_kernel_fails_the_check(bundle: Bundle, tmp_path: Path, check: Check) -> None:
    write_folder(bundle, tmp_path / "b")
    reference = (tmp_path / "b" / "reference.py").read_text()
    (tmp_path / "b" / "reference.py").write_text(reference.replace("total = x + residual", "total = x - residual"))
    done = check(tmp_path / "b")
    assert done.returncode == 1
    assert "NOT EQUAL: do not use this bundle here" in done.stdout


# -- other forms ----------------------------------------------------------------------------------------------------


def test_python_kernel_uses_the_models_own_weights(tmp_path: Path, check: Check, serve: Say) -> None:
    kernel = verified(b"", language="pytorch", suffix=".py", source=PYTHON_KERNEL)
    bundle = build(replace(kernel, result=kernel.result.model_copy(update={"binary_hash": ""})))
    assert "cpu.py" in bundle.files
    write_folder(bundle, tmp_path / "b")
    done = check(tmp_path / "b")
    assert done.returncode == 0, done.stdout + done.stderr
    serve(
        tmp_path / "b",
        """
model = kernel.Model(32, 1e-6)
x = torch.randn(8, 32)
with torch.inference_mode():
    before = model(x, x)[0].clone()
    model.weight.copy_(3 * model.weight)
    torch.testing.assert_close(model(x, x)[0], 3 * before)
""",
    )


def test_config_map_serves_as_a_mounted_volume(bundle: Bundle, tmp_path: Path, check: Check) -> None:
    manifest = config_map(bundle, name="norm-kernel", namespace="team", labels={"kernelsearch.dev/search-uid": "1234"})
    assert manifest["metadata"]["name"] == "norm-kernel"
    assert manifest["metadata"]["annotations"] == {DIGEST_ANNOTATION: bundle.digest}
    assert set(manifest["binaryData"]) == {"cpu.so.z"}
    assert "immutable" not in manifest
    # As the kubelet does it: a dated folder, a link to it, and a link for each key.
    dated = tmp_path / "..2026_01_01"
    dated.mkdir()
    (tmp_path / "..data").symlink_to(dated.name)
    for key, text in manifest["data"].items():
        (dated / key).write_text(text)
    for key, text in manifest["binaryData"].items():
        (dated / key).write_bytes(base64.b64decode(text))
    for key in bundle.files:
        (tmp_path / key).symlink_to(f"..data/{key}")
    done = check(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_immutable_config_map_is_named_after_its_digest(bundle: Bundle) -> None:
    manifest = config_map(bundle, name="norm-kernel", namespace="team", labels={}, immutable=True)
    assert manifest["metadata"]["name"] == f"norm-kernel-{bundle.digest[:8]}"
    assert manifest["immutable"] is True


def test_bundle_too_large_for_a_config_map_says_what_to_do() -> None:
    bundle = Bundle({"manifest.json": b"x" * 900_001}, "0" * 64)
    with pytest.raises(BundleError, match=r"a ConfigMap holds 900000; publish it as an OCI image \(spec.output.oci\)"):
        config_map(bundle, name="n", namespace="d", labels={})

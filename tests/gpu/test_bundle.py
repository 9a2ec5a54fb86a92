"""A published CUDA kernel, used as any module: no default device, on the stream and the device that torch is on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from kernelharness.protocol import (
    Artifact,
    Candidate,
    File,
    Hello,
    ProblemFact,
    Purpose,
    Result,
    Verdict,
    from_artifacts,
)
from kernelsearch.publish.bundle import VerifiedKernel, build_bundle
from kernelsearch.publish.folder import write_folder

from .judging import judge, suite

pytestmark = pytest.mark.timeout(300)

USE = """
import sys, warnings
warnings.simplefilter("error")  # the reference that runs instead of a kernel
import torch
import kernel

reference_module = kernel.load_reference()
arguments = reference_module.get_init_inputs()
with torch.device("cuda"):
    torch.manual_seed(1)
    reference = reference_module.Model(*arguments)
    model = kernel.ModelNew(*arguments)
    model.load_state_dict(reference.state_dict())
    inputs = reference_module.get_inputs()
    fresh = [torch.randn_like(each) for each in inputs]
with torch.inference_mode():
    want = reference(*inputs)
    got = model(*inputs)
    assert got.device == want.device, got.device
    torch.testing.assert_close(got, want)
    want = reference(*fresh)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(100_000_000)
        for each, new in zip(inputs, fresh):
            each.copy_(new)
        got = model(*inputs)  # must wait for the copies, as all work of this stream
        torch.cuda.current_stream().synchronize()
    torch.testing.assert_close(got, want)
print("as the reference")
"""


@pytest.mark.parametrize("name", ["rmsnorm_rows", "packed_weights"])
def test_a_published_cuda_kernel_is_a_module_like_any_other(name: str, tmp_path: Path) -> None:
    path = Path(suite.__file__ or "").parent / "honest" / "gpu" / f"{name}.cu"
    candidate = Candidate(id="c", files=[File(path="kernel.cu", content=path.read_text())])
    batch = suite.batch("gpu", "rmsnorm", "cuda", [candidate], purpose=Purpose.CONFIRM)
    said = judge(batch)
    hello = next(message for message in said if isinstance(message, Hello))
    facts = next(message for message in said if isinstance(message, ProblemFact))
    result = next(message for message in said if isinstance(message, Result))
    assert result.verdict is Verdict.OK, result.diagnostics
    pieces = [message for message in said if isinstance(message, Artifact)]
    kernel = VerifiedKernel(
        target="gpu",
        language="cuda",
        suffix=".cu",
        vendor=batch.toolchain.vendor,
        arch=batch.toolchain.arch,
        device=hello.device,
        candidate="c",
        model="",
        source=path.read_text(),
        library=from_artifacts([piece for piece in pieces if piece.candidate == "c"]),
        header=from_artifacts([piece for piece in pieces if piece.name == "problem.h"]).decode(),
        facts=tuple(facts.cases),
        result=result,
    )
    bundle = build_bundle(
        name=name, uid="1", problem=batch.problem, problem_digest="", harness=hello.harness, kernels=[kernel]
    )
    folder = tmp_path / "bundle"
    write_folder(bundle, folder)
    for command in (["kernel.py", "--check", "--seconds", "0.2"], ["-c", USE]):
        done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        print(done.stdout)

"""CUDA C++ and Triton without a GPU: the header, the command, and what compilers print."""

from __future__ import annotations

from pathlib import Path

from kernelharness.languages.base import CompileError, get_language
from kernelharness.languages.header import PLUMBING
from kernelharness.protocol import CaseFact, TensorFact, Toolchain
from kernelharness.warmup import WarmFolder

FACT = CaseFact(
    case="default",
    inputs=[TensorFact(name="x", shape=[64, 128], dtype="bfloat16")],
    parameters=[TensorFact(name="weight", shape=[128], dtype="float32")],
    outputs=[TensorFact(name="out", shape=[64, 128], dtype="float16")],
)
CUDA = get_language("cuda")
VERBOSE = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z1aPf' for 'sm_90a'
ptxas info    : Function properties for _Z1aPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 8256 bytes smem
ptxas info    : Compiling entry function '_Z1bPf' for 'sm_90a'
ptxas info    : Function properties for _Z1bPf
    48 bytes stack frame, 24 bytes spill stores, 32 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers
"""


def test_header_speaks_of_a_stream_and_of_cudas_own_half() -> None:
    shown, _, plumbing = CUDA.headers([FACT])["problem.h"].partition(PLUMBING)
    assert "cudaStream_t stream" in shown
    assert "using half_t = __half;" in shown
    assert "int forward(half_t* out, const bfloat16_t* x, const float* weight, KernelContext& context);" in shown
    assert "cudaMalloc" in plumbing
    assert "aligned_alloc" not in plumbing


def test_command_names_the_profiles_architecture() -> None:
    command = CUDA.compile_command(Toolchain(language="cuda", arch="sm_90a", vendor="nvidia"), "k.cu", "k.so", "inc")
    assert command[0].endswith("nvcc")
    assert "arch=compute_90a,code=sm_90a" in command
    assert "--cudart=shared" in command
    assert "-Iinc" in command
    assert all("{" not in word for word in command)


def test_profiles_own_command_comes_first() -> None:
    toolchain = Toolchain(language="cuda", arch="sm_80", vendor="nvidia", command=["cc", "{source}", "{arch}"])
    assert CUDA.compile_command(toolchain, "k.cu", "k.so", "inc") == ["cc", "k.cu", "sm_80"]


def test_lambdas_for_the_device_are_switched_on_where_nvcc_asks_for_it() -> None:
    toolchain = Toolchain(language="cuda", arch="sm_90a", vendor="nvidia")
    asks = "kernel.cu(5): error: __host__ or __device__ annotation on lambda requires --extended-lambda nvcc flag\n"
    assert not any("lambda" in word for word in CUDA.compile_command(toolchain, "k.cu", "k.so", "inc"))
    assert CUDA.lacking_flags(toolchain, asks) == ["--extended-lambda"]
    assert CUDA.lacking_flags(toolchain, 'kernel.cu(4): error: identifier "undeclared" is undefined\n') == []
    assert CUDA.lacking_flags(toolchain.model_copy(update={"command": ["cc"]}), asks) == []


def test_errors_of_the_front_end_have_lines() -> None:
    text = (
        'kernel.cu(4): error: identifier "undeclared" is undefined\n'
        "  __global__ void normalise(float* out) { out[0] = undeclared; }\n"
        'include/problem.h(12): error #20: name followed by "::" must be a class\n'
        '2 errors detected in the compilation of "kernel.cu".\n'
    )
    assert CUDA.compile_errors(text, "kernel.cu") == [
        CompileError('identifier "undeclared" is undefined', 4),
        CompileError('name followed by "::" must be a class (in problem.h)'),
    ]


def test_errors_of_ptxas_and_of_the_linker_are_found() -> None:
    text = "ptxas error   : Entry function '_Z1aPf' uses too much shared data (0x1c000 bytes, 0xc000 max)\n"
    assert CUDA.compile_errors(text, "kernel.cu")[0].message.startswith("ptxas: Entry function '_Z1aPf' uses too much")
    undefined = "/usr/bin/ld: /tmp/k.o: in function `forward': undefined reference to `helper'\n"
    assert "'helper' is not defined" in CUDA.compile_errors(undefined, "kernel.cu")[0].message


def test_resources_are_the_largest_of_all_kernels() -> None:
    assert CUDA.resources(VERBOSE) == {"registers": 255.0, "spill_bytes": 56.0, "shared_bytes": 8256.0}


def test_triton_is_warmed_up_and_checked_as_python() -> None:
    triton = get_language("triton")
    assert triton.needs_warmup
    assert not triton.is_native
    command = triton.compile_command(Toolchain(language="triton", arch="sm_90a", vendor="nvidia"), "k.py", "k", "inc")
    assert command[-1] == "k.py"
    assert triton.warmup_environment("folder", "sm_90a")["TRITON_CACHE_DIR"] == "folder"


def test_a_warm_folder_begins_with_what_every_candidate_would_compile_anew(tmp_path: Path) -> None:
    (tmp_path / "ABC").mkdir()
    (tmp_path / "ABC" / "stub.so").write_bytes(b"stub")
    folder = WarmFolder(tmp_path)
    try:
        stub = folder.path / "ABC" / "stub.so"
        assert stub.read_bytes() == b"stub"
        stub.write_bytes(b"the candidate's own")
        assert (tmp_path / "ABC" / "stub.so").read_bytes() == b"stub"
        folder.freeze()
        folder.expect_frozen()
    finally:
        folder.remove()
    assert not folder.path.exists()

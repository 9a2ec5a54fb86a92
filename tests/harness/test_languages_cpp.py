"""The native ABI end to end: the generated header, g++, and both loaders."""

from __future__ import annotations

import ctypes
import hashlib
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from kernelharness.facts import describe, input_tensors, parameter_tensors
from kernelharness.languages.base import CompileError, UnknownLanguage, get_language
from kernelharness.languages.header import PLUMBING
from kernelharness.languages.native import NativeError, NativeKernel, TensorSpec
from kernelharness.languages.signature import UnsupportedArgument, scalar_arguments
from kernelharness.problem import load_case
from kernelharness.protocol import Case, CaseFact, File, Problem, TensorFact, Toolchain

TOOLCHAIN = Toolchain(language="cpp", arch="x86-64-v3")
CPP = get_language("cpp")

NORM = """
import torch
import torch.nn as nn

TOKENS, HIDDEN = 64, 512

class Model(nn.Module):
    def __init__(self, hidden, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(hidden))
        self.eps = eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight

def get_inputs():
    return [torch.rand(TOKENS, HIDDEN)]

def get_init_inputs():
    return [HIDDEN, 1e-6]
"""

NORM_KERNEL = """
#include "problem.h"
#include <cmath>

extern "C" int forward(float* out, const float* x, const float* weight, int64_t TOKENS, int64_t HIDDEN,
                       int64_t hidden, double eps, KernelContext& context) {
  #pragma omp parallel for
  for (int64_t t = 0; t < TOKENS; ++t) {
    float sum = 0;
    for (int64_t h = 0; h < HIDDEN; ++h) sum += x[t * HIDDEN + h] * x[t * HIDDEN + h];
    const float scale = 1.0f / std::sqrt(sum / HIDDEN + (float)eps);
    for (int64_t h = 0; h < HIDDEN; ++h) out[t * HIDDEN + h] = x[t * HIDDEN + h] * scale * weight[h];
  }
  return 0;
}
"""

NORM_SPECS = [TensorSpec("float32", (64, 512)), TensorSpec("float32", (64, 512)), TensorSpec("float32", (512,))]


def problem(source: str, *cases: Case) -> Problem:
    return Problem(files=[File(path="reference.py", content=source)], cases=list(cases))


def norm_facts() -> list[CaseFact]:
    cases = (Case(name="small"), Case(name="odd", dims={"TOKENS": 7, "HIDDEN": 33}, hidden=True))
    stated = problem(NORM, *cases)
    return [describe(load_case(stated, case)) for case in cases]


def tensor(name: str, *shape: int, dtype: str = "float32") -> TensorFact:
    return TensorFact(name=name, shape=list(shape), dtype=dtype)


def fact(inputs: list[TensorFact], outputs: list[TensorFact], **more: object) -> CaseFact:
    return CaseFact(case="default", inputs=inputs, outputs=outputs, **more)  # type: ignore[arg-type]


def build(folder: Path, facts: list[CaseFact], source: str) -> subprocess.CompletedProcess[str]:
    for name, text in CPP.headers(facts).items():
        (folder / name).write_text(text)
    file = folder / CPP.source_name(TOOLCHAIN)
    file.write_text(source)
    command = CPP.compile_command(TOOLCHAIN, str(file), str(folder / "kernel.so"), str(folder))
    return subprocess.run(command, capture_output=True, text=True, check=False)


def load(folder: Path, facts: list[CaseFact], source: str) -> NativeKernel:
    done = build(folder, facts, source)
    assert done.returncode == 0, done.stderr
    return NativeKernel(str(folder / "kernel.so"))


def errors(folder: Path, facts: list[CaseFact], source: str) -> list[CompileError]:
    done = build(folder, facts, source)
    assert done.returncode != 0
    return CPP.compile_errors(done.stderr, "kernel.cpp")


def aligned(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """A numpy array at a 64-byte aligned address, filled with a value that no kernel writes."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    view = raw[start : start + size].view(dtype).reshape(shape)
    view[...] = np.array(99).astype(dtype)
    return view


def run(kernel: NativeKernel, arrays: list[np.ndarray], scalars: list[float] | None = None, **more: int) -> None:
    specs = [TensorSpec(str(array.dtype), array.shape) for array in arrays]
    call = kernel.prepare(specs, scalars or [], **more)
    for index, array in enumerate(arrays):
        call.bind(index, array.ctypes.data)
    call()


# -- the header -----------------------------------------------------------------------------------------------------


def test_header_declares_forward_with_named_sizes_and_scalars() -> None:
    shown = CPP.headers(norm_facts())["problem.h"].split(PLUMBING)[0]
    assert (
        'extern "C" int forward(float* out, const float* x, const float* weight, int64_t TOKENS, int64_t HIDDEN,\n'
        "                       int64_t hidden, double eps, KernelContext& context);" in shown
    )
    assert "// x       float32  [TOKENS, HIDDEN]  input" in shown
    assert "// small      64     512" in shown


def test_header_shows_nothing_of_a_hidden_case() -> None:
    header = CPP.headers(norm_facts())["problem.h"]
    assert "odd " not in header.split(PLUMBING)[0].replace("odd ones", "")
    assert re.search(r"\b(7|33)\b", header.split(PLUMBING)[0]) is None


def test_sizes_that_differ_but_have_no_constant_are_named_after_tensor_and_axis() -> None:
    facts = [
        fact([tensor("x", rows, 3)], [tensor("out", rows)], dims={"OTHER": 5}).model_copy(update={"case": f"c{rows}"})
        for rows in (8, 9)
    ]
    header = CPP.headers(facts)["problem.h"]
    assert 'extern "C" int forward(float* out, const float* x, int64_t out_0, KernelContext& context);' in header
    assert "// x    float32  [out_0, 3]  input" in header


def test_names_that_cplusplus_does_not_take_are_changed() -> None:
    facts = [
        fact(
            [tensor("new", 4), tensor("context", 4)],
            [tensor("out", 4)],
            parameters=[tensor("0.weight", 4), tensor("norm.bias", 4)],
            scalars={"class": "3", "mode": "'mean'", "flag": "True", "nothing": "None"},
        )
    ]
    header = CPP.headers(facts)["problem.h"]
    assert (
        'extern "C" int forward(float* out, const float* new_, const float* context_, const float* _0_weight,\n'
        "                       const float* norm_bias, int64_t class_, bool flag, KernelContext& context);" in header
    )
    assert "// mode       constant       'mean'" in header


def test_scalar_named_like_a_size_is_passed_once(tmp_path: Path) -> None:
    facts = [
        fact([tensor("x", n)], [tensor("out", n)], dims={"dim": n}, scalars={"dim": str(n), "a": "2.0"}) for n in (4, 6)
    ]
    source = """
    #include "problem.h"
    extern "C" int forward(float* out, const float* x, int64_t dim, double a, KernelContext& context) {
      for (int64_t i = 0; i < dim; ++i) out[i] = a * x[i];
      return 0;
    }"""
    kernel = load(tmp_path, facts, source)
    out, x = aligned((6,)), aligned((6,))
    x[:] = np.arange(6)
    run(kernel, [out, x], [6, 2.0])
    assert out.tolist() == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            [fact([tensor("x", 4, dtype="complex64")], [tensor("out", 4)])],
            "tensor 'x' is complex64; native kernels take float32, ",
        ),
        (
            [fact([tensor("x", 4)], [tensor("out", 4)]), fact([tensor("x", 4, 4)], [tensor("out", 4)])],
            "tensor 'x' has different numbers of dimensions in different cases; make them two searches",
        ),
        (
            [fact([tensor("x", 4)], [tensor("out", 4)], scalars={"act": "<function relu at 0x1>"})],
            "argument 'act' is <function relu at 0x1>; a native kernel takes numbers and tensors",
        ),
    ],
)
def test_what_cannot_be_passed_is_named(facts: list[CaseFact], message: str) -> None:
    with pytest.raises(UnsupportedArgument, match=re.escape(message)):
        CPP.headers(facts)


# -- compiling ------------------------------------------------------------------------------------------------------


def test_library_needs_no_tvm_ffi_symbol_and_no_torch(tmp_path: Path) -> None:
    load(tmp_path, norm_facts(), NORM_KERNEL)
    undefined = subprocess.run(
        ["nm", "-D", "-u", str(tmp_path / "kernel.so")], capture_output=True, text=True, check=True
    ).stdout
    assert "forward" not in undefined
    assert not re.search(r"tvm|torch|c10", undefined, re.IGNORECASE)
    needed = subprocess.run(
        ["readelf", "-d", str(tmp_path / "kernel.so")], capture_output=True, text=True, check=True
    ).stdout
    libraries = set(re.findall(r"NEEDED.*\[(.*?)\]", needed))
    assert libraries <= {
        "libgomp.so.1",
        "libstdc++.so.6",
        "libm.so.6",
        "libgcc_s.so.1",
        "libc.so.6",
        "ld-linux-x86-64.so.2",
    }


def test_library_exports_only_the_abi(tmp_path: Path) -> None:
    load(tmp_path, norm_facts(), NORM_KERNEL)
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", str(tmp_path / "kernel.so")], capture_output=True, text=True, check=True
    ).stdout
    plain = {line.split()[-1] for line in listing.splitlines() if not line.split()[-1].startswith("_Z")}
    assert plain == {"__tvm_ffi_forward", "kernelsearch_abi", "kernelsearch_last_error"}


def test_equal_sources_give_equal_libraries_in_any_folder(tmp_path: Path) -> None:
    digests = set()
    for name in ("first", "a-second-folder"):
        folder = tmp_path / name
        folder.mkdir()
        load(folder, norm_facts(), NORM_KERNEL)
        digests.add(hashlib.sha256((folder / "kernel.so").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_command_names_the_profiles_architecture_and_never_native() -> None:
    command = CPP.compile_command(TOOLCHAIN, "k.cpp", "k.so", "inc")
    assert "-march=x86-64-v3" in command
    assert "-march=native" not in command


def test_profiles_own_command_is_used_with_its_places_filled() -> None:
    toolchain = TOOLCHAIN.model_copy(
        update={"command": ["clang++", "-I{include}", "-m{arch}", "{source}", "-o{output}"]}
    )
    command = CPP.compile_command(toolchain, "k.cpp", "k.so", "inc")
    assert command == ["clang++", "-Iinc", "-mx86-64-v3", "k.cpp", "-ok.so"]


def test_unknown_language_lists_the_known_ones() -> None:
    with pytest.raises(
        UnknownLanguage, match="language 'cobol' is not known; known: cpp, cuda, cutedsl, flydsl, hip, pytorch, triton"
    ):
        get_language("cobol")


def test_compile_errors_have_the_candidates_lines(tmp_path: Path) -> None:
    source = NORM_KERNEL.replace("float sum = 0;", "float sum = zero;").replace("return 0;", "return nothing;")
    assert errors(tmp_path, norm_facts(), source) == [
        CompileError("'zero' was not declared in this scope; did you mean 'bzero'?", 9, 17),
        CompileError("'nothing' was not declared in this scope", 14, 10),
    ]


def test_error_inside_a_library_header_is_put_at_the_line_that_led_there(tmp_path: Path) -> None:
    source = NORM_KERNEL.replace("#include <cmath>", "#include <cmath>\n#include <algorithm>\n#include <vector>")
    source = source.replace("return 0;", "struct S {}; std::vector<S> v; std::sort(v.begin(), v.end()); return 0;")
    found = errors(tmp_path, norm_facts(), source)
    assert found[0].line == 16
    assert "no match for 'operator<'" in found[0].message


def test_other_signature_than_declared_is_an_error_at_its_line(tmp_path: Path) -> None:
    found = errors(tmp_path, norm_facts(), NORM_KERNEL.replace("int64_t hidden, double eps", "double eps"))
    assert found[0].line == 5
    assert "conflicting declaration of C function 'int forward(" in found[0].message


def test_missing_forward_is_a_link_error_that_says_what_to_define(tmp_path: Path) -> None:
    assert errors(tmp_path, norm_facts(), '#include "problem.h"\n') == [
        CompileError("'forward' is not defined: define it exactly as problem.h declares it")
    ]


def test_unknown_library_function_is_a_link_error(tmp_path: Path) -> None:
    source = 'extern "C" void cblas_sgemm();\n' + NORM_KERNEL.replace("return 0;", "cblas_sgemm(); return 0;")
    assert errors(tmp_path, norm_facts(), source) == [
        CompileError("'cblas_sgemm' is not defined, and nothing beyond libc, libm, libstdc++ and libgomp is linked")
    ]


# -- calling --------------------------------------------------------------------------------------------------------


def test_native_call_equals_the_reference_in_every_case(tmp_path: Path) -> None:
    stated = problem(NORM, Case(name="small"), Case(name="odd", dims={"TOKENS": 7, "HIDDEN": 33}))
    loaded = [load_case(stated, case) for case in stated.cases]
    facts = [describe(each) for each in loaded]
    kernel = load(tmp_path, facts, NORM_KERNEL)
    for each, known in zip(loaded, facts, strict=True):
        model, inputs = each.make_model(1), each.make_inputs(2)
        expected = each.reference(model, inputs)[0].numpy()
        arrays = [aligned(expected.shape)]
        for value in [*input_tensors(model, inputs).values(), *parameter_tensors(model).values()]:
            arrays.append(aligned(tuple(value.shape)))
            arrays[-1][...] = value.numpy()
        run(kernel, arrays, scalar_arguments(known))
        np.testing.assert_allclose(arrays[0], expected, rtol=1e-5)


def test_tvm_ffi_loads_and_calls_the_same_library(tmp_path: Path) -> None:
    import tvm_ffi

    load(tmp_path, norm_facts(), NORM_KERNEL)
    module = tvm_ffi.load_module(str(tmp_path / "kernel.so"))
    x, weight, out = torch.rand(64, 512), torch.rand(512), torch.empty(64, 512)
    module.forward(out, x, weight, 512, 1e-6)
    expected = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight
    torch.testing.assert_close(out, expected)
    module.forward(*(tvm_ffi.from_dlpack(t) for t in (out.zero_(), x, weight)), 512, 1e-6)
    torch.testing.assert_close(out, expected)
    with pytest.raises(RuntimeError, match="x has size 511 in dimension 1, but HIDDEN is 512"):
        module.forward(out, torch.rand(64, 511), weight, 512, 1e-6)


@pytest.mark.parametrize(
    ("specs", "scalars", "message"),
    [
        (NORM_SPECS[:1], [512], "got 4 arguments, expected 3 tensors and 2 scalars"),
        ([NORM_SPECS[0], TensorSpec("float32", (64, 511)), NORM_SPECS[2]], [1, 1.0], "x has size 511 in dimension 1, "),
        ([NORM_SPECS[0], TensorSpec("float32", (64,)), NORM_SPECS[2]], [1, 1.0], "x has 1 dimensions, expected 2"),
        ([NORM_SPECS[0], TensorSpec("float16", (64, 512)), NORM_SPECS[2]], [1, 1.0], "x has another dtype than "),
    ],
)
def test_wrong_arguments_are_refused_with_their_name(
    tmp_path: Path, specs: list[TensorSpec], scalars: list[float], message: str
) -> None:
    kernel = load(tmp_path, norm_facts(), NORM_KERNEL)
    call = kernel.prepare(specs, scalars)
    with pytest.raises(NativeError, match=re.escape(message)):
        call()


def test_misaligned_tensor_is_refused(tmp_path: Path) -> None:
    kernel = load(tmp_path, norm_facts(), NORM_KERNEL)
    call = kernel.prepare(NORM_SPECS, [512, 1e-6])
    for index in range(3):
        call.bind(index, 4096 + 4)
    with pytest.raises(NativeError, match="out is not aligned to 64 bytes"):
        call()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('return context.fail("K = %d is too large", 7);', "K = 7 is too large"),
        ("return 3;", "the kernel returned 3"),
        ('throw std::runtime_error("no luck");', "C++ exception: no luck"),
        ("throw 1;", "C++ exception of an unknown type"),
    ],
)
def test_failures_carry_the_kernels_text(tmp_path: Path, body: str, message: str) -> None:
    source = f"""
    #include "problem.h"
    #include <stdexcept>
    extern "C" int forward(float* out, const float* x, KernelContext& context) {{ {body} }}"""
    kernel = load(tmp_path, [fact([tensor("x", 4)], [tensor("out", 4)])], source)
    with pytest.raises(NativeError, match=re.escape(message)):
        run(kernel, [aligned((4,)), aligned((4,))])


def test_state_is_prepared_once_and_read_in_forward(tmp_path: Path) -> None:
    source = """
    #define KERNEL_STATE
    #include "problem.h"
    extern "C" int64_t state_size(const float* w, int64_t w_0) { return 4 * w_0; }
    extern "C" int init(const float* w, int64_t w_0, void* state, KernelContext& context) {
      for (int64_t i = 0; i < w_0; ++i) static_cast<float*>(state)[i] = 2 * w[i];
      return 0;
    }
    extern "C" int forward(float* out, const float* x, const float* w, int64_t w_0, KernelContext& context) {
      if (!context.state) return context.fail("no state");
      for (int64_t i = 0; i < w_0; ++i) out[i] = x[i] * static_cast<const float*>(context.state)[i];
      return 0;
    }"""
    facts = [fact([tensor("x", n)], [tensor("out", n)], parameters=[tensor("w", n)]) for n in (4, 5)]
    kernel = load(tmp_path, facts, source.replace("w_0", "out_0"))
    assert kernel.has_state
    out, x, w = (aligned((4,)) for _ in range(3))
    x[:], w[:] = 3, [1, 2, 3, 4]
    spec = TensorSpec("float32", (4,))
    state = aligned((kernel.state_size([spec], [w.ctypes.data]),), np.uint8)
    kernel.init([spec], [w.ctypes.data], state.ctypes.data)
    run(kernel, [out, x, w], block=state.ctypes.data)
    assert out.tolist() == [6, 12, 18, 24]


def test_workspace_is_aligned_distinct_and_kept_between_calls(tmp_path: Path) -> None:
    source = """
    #include "problem.h"
    extern "C" int forward(int64_t* out, const float* x, KernelContext& context) {
      out[0] = reinterpret_cast<int64_t>(context.workspace(1000));
      out[1] = reinterpret_cast<int64_t>(context.workspace(1));
      for (int i = 0; i < 14; ++i) context.workspace(8);
      out[2] = reinterpret_cast<int64_t>(context.workspace(8));
      return 0;
    }"""
    kernel = load(tmp_path, [fact([tensor("x", 4)], [tensor("out", 3, dtype="int64")])], source)
    first, second = aligned((3,), np.int64), aligned((3,), np.int64)
    run(kernel, [first, aligned((4,))])
    run(kernel, [second, aligned((4,))])
    assert first.tolist() == second.tolist()
    assert first[0] % 64 == 0
    assert first[1] % 64 == 0
    assert abs(first[0] - first[1]) >= 1000 or first[1] > first[0] + 1000
    assert first[2] == 0


@pytest.mark.parametrize("arch", ["x86-64-v3", "x86-64"])
@pytest.mark.parametrize(("dtype", "ctype"), [("float16", "half_t"), ("bfloat16", "bfloat16_t")])
def test_narrow_floats_convert_like_torch(tmp_path: Path, dtype: str, ctype: str, arch: str) -> None:
    source = f"""
    #include "problem.h"
    extern "C" int forward({ctype}* out, float* wide, const float* x, const {ctype}* y, KernelContext& context) {{
      for (int64_t i = 0; i < 70000; ++i) out[i] = x[i];
      for (int64_t i = 0; i < 65536; ++i) wide[i] = y[i];
      return 0;
    }}"""
    outputs = [tensor("out", 70000, dtype=dtype), tensor("wide", 65536)]
    facts = [fact([tensor("x", 70000), tensor("y", 65536, dtype=dtype)], outputs)]
    for name, text in CPP.headers(facts).items():
        (tmp_path / name).write_text(text)
    (tmp_path / "kernel.cpp").write_text(source)
    toolchain = TOOLCHAIN.model_copy(update={"arch": arch})
    command = CPP.compile_command(toolchain, str(tmp_path / "kernel.cpp"), str(tmp_path / "kernel.so"), str(tmp_path))
    subprocess.run(command, check=True)
    every = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(getattr(torch, dtype))
    x = torch.cat([torch.randn(35000), torch.randn(34992) * 10.0 ** torch.randint(-9, 6, (34992,))])
    edges = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 65519.0, 65520.0, 2.0**-25, 3e-8])
    x = torch.cat([x, edges])
    out, wide, xs, ys = aligned((70000,), np.uint16), aligned((65536,)), aligned((70000,)), aligned((65536,), np.uint16)
    xs[:], ys[:] = x.numpy(), every.view(torch.uint16).numpy()
    specs = [
        TensorSpec(dtype, (70000,)),
        TensorSpec("float32", (65536,)),
        TensorSpec("float32", (70000,)),
        TensorSpec(dtype, (65536,)),
    ]
    call = NativeKernel(str(tmp_path / "kernel.so")).prepare(specs)
    for index, array in enumerate((out, wide, xs, ys)):
        call.bind(index, array.ctypes.data)
    call()
    expected = x.to(getattr(torch, dtype)).view(torch.uint16).numpy()
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(wide, every.float().numpy())


def test_loading_something_else_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("not a library")
    with pytest.raises(NativeError, match=r"invalid ELF header|file too short"):
        NativeKernel(str(tmp_path / "text.so"))
    (tmp_path / "plain.c").write_text("int answer(void) { return 42; }")
    library = str(tmp_path / "plain.so")
    subprocess.run(["gcc", "-shared", "-fPIC", str(tmp_path / "plain.c"), "-o", library], check=True)
    assert ctypes.CDLL(library).answer() == 42
    with pytest.raises(NativeError, match="the library does not export __tvm_ffi_forward"):
        NativeKernel(library)


def test_program_around_a_kernel_with_gradients_compiles_and_runs(tmp_path: Path) -> None:
    linear = TensorFact(name="weight", shape=[4, 3], dtype="float32")
    x, out = (TensorFact(name=name, shape=[5, 3], dtype="float32") for name in ("x", "out"))
    by_out = TensorFact(name="grad_out", shape=[5, 3], dtype="float32", gradient_of="output")
    by_x = TensorFact(name="grad_x", shape=[5, 3], dtype="float32", gradient_of="input")
    fact = CaseFact(case="c", inputs=[x, by_out], parameters=[linear], outputs=[out, by_x], scalars={"eps": "1e-06"})
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "problem.h").write_text(CPP.headers([fact])["problem.h"])
    body = CPP.declarations([fact]).replace("saved_size(void);", "saved_size(void) { return 64; }")
    (tmp_path / "kernel.cpp").write_text('#include "problem.h"\n' + body.replace(");", ") { return 0; }"))
    check = CPP.memory_check(TOOLCHAIN, [fact], 0)
    assert check is not None
    (tmp_path / check.file).write_text(check.text)
    made = subprocess.run(check.compile_command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    ran = subprocess.run(
        check.run_command, cwd=tmp_path, env=check.environment, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [line.split()[1] for line in ran.stdout.splitlines()] == [
        "out", "x", "weight", "grad_x", "grad_out", "saved",
    ]  # fmt: skip

"""Policy flags: from a source and a profile. No device is here, so profiles are written by hand, not taken.

`_rows` is what Triton 3.9 calls the compiled kernel of that source; the names of libraries' and CuTe's kernels have the
form that they have in other people's traces.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from kernelharness.languages.base import get_language
from kernelharness.policy import flags_of
from kernelharness.profiling import MOST_ROWS, ROW, Seen, read

GPU = Path(__file__).with_name("adversarial") / "honest" / "gpu"
TRITON = (GPU / "rmsnorm_triton.py").read_text()
"""One kernel, `_rows`."""
CUTEDSL = (GPU / "rmsnorm_cutedsl.py").read_text()

FILL = "at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>, std::array<char*, 1ul> >"
GEMM = "sm90_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize128x128x32_warpgroupsize1x1x1_kernel__5x_cublas"
CUTE_ROWS = "kernel_cutlass__rows_tensorptrf32gmemo16128i641i64div16128_tensorptrf32gmemo16128i641i64div16128_0"
MORE = """

@triton.jit
def _helper(a, b):
    return a + b

@triton.autotune(configs=[triton.Config({"B": 64})], key=["n"])
@triton.jit
def _sum(x, n, B: tl.constexpr):
    tl.reduce(tl.load(x + tl.arange(0, B)), 0, _helper)
"""
"""A kernel more, with a function that it calls."""


def profile(*rows: tuple[str, int], names: int = 0, on_device: bool = True) -> Seen:
    """What the judge reads of this table: (name, ns)."""
    packed = [ROW.pack(1, ns, 0, 0, name.encode()[:96]) for name, ns in rows]
    head = struct.pack("<5Q", names or len(rows), 0, sum(ns for _, ns in rows), 0, 0)
    seen = read(head + b"".join(packed), "wide", 1, on_device=on_device)
    assert seen is not None
    return seen


def flags(language: str, source: str, *rows: tuple[str, int], names: int = 0) -> list[str]:
    return flags_of(get_language(language), source, profile(*rows, names=names))


def test_profile_written_by_hand_of_own_kernels_has_no_flag() -> None:
    assert flags("triton", TRITON, ("_rows", 97), (FILL, 3)) == []
    assert flags("triton", TRITON, ("_rows_0d1d2d34", 100)) == [], "as Triton 2 called it"
    assert flags("cutedsl", CUTEDSL, (CUTE_ROWS, 100)) == []


def test_profile_written_by_hand_with_a_librarys_kernels_says_their_share() -> None:
    rows = (("_rows", 20), (GEMM, 70), ("Memcpy DtoD", 10))
    assert flags("triton", TRITON, *rows) == ["library_fallback:70%"]
    assert flags("cutedsl", CUTEDSL, (CUTE_ROWS, 20), (GEMM, 80)) == ["library_fallback:80%"]
    assert flags("triton", TRITON, ("_rowsum_of_somebody_else", 10), ("_rows", 90)) == ["library_fallback:10%"]


def test_profile_written_by_hand_without_the_sources_kernel_shows_a_decoy() -> None:
    assert flags("triton", TRITON, (GEMM, 100)) == ["library_fallback:100%", "decoy_kernel:_rows"]
    assert flags("cutedsl", CUTEDSL, (GEMM, 100)) == ["library_fallback:100%", "decoy_kernel:_rows"]


def test_a_helper_of_a_kernel_is_no_decoy() -> None:
    assert flags("triton", TRITON + MORE, ("_rows", 50), ("_sum", 50)) == []
    assert flags("triton", TRITON + MORE, ("_rows", 50)) == ["decoy_kernel:_sum"]


def test_nothing_is_called_a_decoy_when_the_table_was_cut() -> None:
    assert flags("triton", TRITON + MORE, ("_rows", 50), names=MOST_ROWS + 1) == []


def test_kernels_are_found_by_any_name_of_the_decorator() -> None:
    source = "from triton import jit as compiled\n@compiled(do_not_specialize=['n'])\ndef one(x, n): pass\n"
    assert flags("triton", source, ("two", 1)) == ["library_fallback:100%", "decoy_kernel:one"]
    source = "import cutlass\nclass Rows:\n    @cutlass.cute.kernel\n    def kernel(self, x): pass\n"
    assert flags("cutedsl", source, ("kernel_cutlass_kernel___main__Rows_object_at__tensorptrbf16gmem", 1)) == []
    source = "import flydsl.compiler as flyc\n@flyc.kernel\ndef rows(x): pass\n"
    assert flags("flydsl", source, ("rows_0", 1)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch\nmodel = torch.compile(model)\n",
        "import torch as t\n@t.compile\ndef f(x): return x\n",
        "from torch import compile\n",
        "import torch._dynamo\n",
        "from torch._dynamo import optimize\n",
        "from torch import nn, jit as j\n",
        "import torch\nclass A:\n    def f(self): return torch.jit.script(self)\n",
    ],
)
@pytest.mark.parametrize("language", ["pytorch", "triton"])
def test_torch_compile_inside_is_seen_without_a_profile(language: str, source: str) -> None:
    assert flags_of(get_language(language), source, None) == ["torch_compile_inside"]


def test_what_only_looks_like_it_is_not_flagged() -> None:
    source = "import torch, re\nre.compile('torch.compile')\ntorch.compiler.disable\nself.jit = 1  # torch.jit\n"
    assert flags_of(get_language("pytorch"), source, None) == []


def test_pytorch_has_nothing_but_libraries_so_no_flag_says_so() -> None:
    assert flags("pytorch", "import torch\n", (GEMM, 100)) == []


def test_a_profile_of_the_cpu_says_nothing_of_a_devices_kernels() -> None:
    seen = profile(("aten::mm", 1), on_device=False)
    assert flags_of(get_language("triton"), TRITON, seen) == []


@pytest.mark.parametrize("source", ["x = = 1", "\0", "(" * 5000, "-" * 200_000 + "1"])
def test_a_source_that_cannot_be_read_has_no_flags(source: str) -> None:
    assert flags_of(get_language("triton"), source, None) == []

import ctypes
import math
import platform
import re
import struct
import subprocess
from pathlib import Path

import pytest
from kernelharness.protocol import Baseline, CaseFact
from kernelsearch.knowledge import bottleneck_of, pick


def case(name: str, bound: str, weight: int = 1, hidden: bool = False) -> CaseFact:
    return CaseFact(case=name, weight=weight, hidden=hidden, inputs=[], outputs=[], bound=bound)


def test_the_bottleneck_is_that_of_most_of_the_weight() -> None:
    assert bottleneck_of([case("a", "memory"), case("b", "compute", 3)], []) == "compute"
    assert bottleneck_of([case("a", "memory", 2), case("b", "compute")], []) == "memory"
    assert bottleneck_of([case("a", "memory"), case("b", "compute", 3, hidden=True)], []) == "memory"
    assert bottleneck_of([], []) == "memory"
    assert bottleneck_of([case("a", "unknown")], []) == "memory"


def test_calls_of_microseconds_are_overhead_whatever_the_roofline_says() -> None:
    arms = [Baseline(case="a", arm="eager", ns=30_000), Baseline(case="a", arm="compile", ns=9_000)]
    assert bottleneck_of([case("a", "compute")], arms) == "overhead"


@pytest.mark.parametrize("language", ["cpp", "cuda", "triton", "hip"])
@pytest.mark.parametrize("bottleneck", ["memory", "compute", "overhead"])
def test_every_language_has_a_page_for_every_bottleneck(language: str, bottleneck: str) -> None:
    pages = pick(language, "sm_90a", bottleneck)  # type: ignore[arg-type]
    assert len(pages) == 2
    assert all(page.startswith("## ") for page in pages)
    assert sum(map(len, pages)) < 12_000, "a playbook is paid for in every prompt"


@pytest.mark.parametrize(("language", "says"), [("cutedsl", "cute.compile"), ("flydsl", "@flyc.kernel")])
def test_a_language_that_few_models_know_is_shown_a_whole_kernel(language: str, says: str) -> None:
    (page,) = pick(language, "any", "memory")
    assert says in page
    assert "```python" in page


def test_x86_adds_its_page() -> None:
    assert len(pick("cpp", "x86-64-v3", "memory")) == 3
    assert len(pick("cpp", "armv9", "memory")) == 2


def test_a_language_without_a_playbook_gets_none() -> None:
    assert pick("acmec", "npu2", "memory") == ()
    assert pick("../api", "x", "memory") == ()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the page is for x86-64")
def test_the_error_bounds_that_the_x86_page_promises_hold(tmp_path: Path) -> None:
    """The page's own code, compiled as candidates are, against float64 over the whole range."""
    page = pick("cpp", "x86-64-v3", "memory")[1]
    (code,) = re.findall(r"```cpp\n(.*?)```", page, re.DOTALL)
    loops = """
extern "C" void exps(const float* x, float* y, long n) { for (long i = 0; i < n; ++i) y[i] = fast_exp(x[i]); }
extern "C" void erfs(const float* x, float* y, long n) { for (long i = 0; i < n; ++i) y[i] = fast_erf(x[i]); }
"""
    source, library = tmp_path / "page.cpp", tmp_path / "page.so"
    source.write_text(code + loops)

    def build(arch: str) -> str:
        flags = ["-O3", f"-march={arch}", "-shared", "-fPIC", "-fopt-info-vec", "-o", str(library)]
        return subprocess.run(["g++", str(source), *flags], capture_output=True, text=True, check=True).stderr

    assert build("x86-64-v3").count("loop vectorized using 32 byte vectors") == 2, "the page says that both vectorise"
    build("x86-64-v2")
    functions = ctypes.CDLL(str(library))

    def values(name: str, xs: list[float]) -> list[tuple[float, float]]:
        packed = struct.unpack(f"{len(xs)}f", struct.pack(f"{len(xs)}f", *xs))
        x, y = (ctypes.c_float * len(xs))(*packed), (ctypes.c_float * len(xs))()
        functions[name](x, y, ctypes.c_long(len(xs)))
        return list(zip(packed, y, strict=True))

    exps = values("exps", [-87 + 175 * n / 200_000 for n in range(200_000)])
    assert max(abs(y / math.exp(x) - 1) for x, y in exps) < 1.2e-7
    erfs = values("erfs", [-6 + 12 * n / 200_000 for n in range(200_001)])
    assert max(abs(y - math.erf(x)) for x, y in erfs) < 6e-7
    gelus = [(x, 0.5 * x * (1 + y)) for x, y in ((x * math.sqrt(2), y) for x, y in erfs)]
    assert max(abs(y - 0.5 * x * (1 + math.erf(x / math.sqrt(2)))) / max(abs(x), 1e-9) for x, y in gelus) < 4e-7

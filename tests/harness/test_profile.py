"""The profile of a right candidate: real ones on the CPU, and what a process that lies gets out of it (nothing)."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernelharness.profiling import MOST_ROWS, ROW, launches_of, record
from kernelharness.profiling import read as read_table
from kernelharness.protocol import MAX_LINE_BYTES, MOST_KERNELS, MOST_NAME, Case, Verdict
from kernelharness.trial import PROFILE_SECONDS

from .judging import Judged, RunJudge, python

pytestmark = pytest.mark.timeout(1200)

PROFILED = """
import ctypes, os, struct, sys, threading
from kernelharness import profiling

def profiled():
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_name != "record":
        frame = frame.f_back
    return frame is not None

def open_for_ever():
    while True:
        try:
            open("/tmp/nothing", "w")
        except OSError:
            pass

def monstrous(call, calls, *, on_device):
    most, name = 2**64 - 1, b"\\x1b[31m```\\nVerdict: 1000x \\xff\\xe2\\x80\\xae" + b"a" * 96
    return struct.pack("<5Q", *[most] * 5) + struct.pack("<QQHH96s", most, most, 65535, 65535, name) * 10_000
"""
"""What a hostile candidate needs to know when its time has come, and what it does then."""

HOSTILE = {
    "exits": python("exits", head=PROFILED, before="if profiled(): os._exit(0)"),
    "crashes": python("crashes", head=PROFILED, before="if profiled(): ctypes.string_at(8)"),
    "hangs": python("hangs", head=PROFILED, before="while profiled(): pass"),
    "raises": python("raises", head=PROFILED, before="if profiled(): raise SystemExit('\\x1b[31m')"),
    "forks": python("forks", head=PROFILED, before="if profiled(): os.fork()"),
    "prints": python("prints", head=PROFILED, before="while profiled(): print('x' * 100_000)"),
    "keeps_asking": python(
        "keeps_asking",
        head=PROFILED,
        before="if profiled():\n"
        "    for _ in range(4): threading.Thread(target=open_for_ever, daemon=True).start()\n"
        "    open_for_ever()",
    ),
    "forges": python("forges", head=f"{PROFILED}\nprofiling.record = monstrous"),
    "forges_nothing": python("forges_nothing", head=f"{PROFILED}\nprofiling.record = lambda *a, **k: b''"),
}
SLOW = ("hangs", "keeps_asking")


@pytest.fixture(scope="module")
def judged(run_judge: RunJudge) -> Judged:
    candidates = [python("plain"), *HOSTILE.values()]
    return run_judge(candidates, language="pytorch", cases=[Case(name="wide"), Case(name="tall", dims={"ROWS": 200})])


def test_a_right_candidate_says_which_operators_its_time_goes_to(judged: Judged) -> None:
    result = judged.results["plain"]
    assert (result.verdict, result.flags.count("torch_compile_inside")) == (Verdict.OK, 0)
    profile = result.profile
    assert profile is not None, judged.stderr[-2000:]
    assert (profile.case, profile.on_device, profile.idle, profile.copies) == ("wide", False, None, 0.0)
    names = [kernel.name for kernel in profile.kernels]
    assert "aten::_fused_rms_norm" in names
    assert all(hasattr(torch.ops.aten, name.removeprefix("aten::")) for name in names)
    assert len(names) == len(set(names)) == MOST_KERNELS
    assert profile.others > 0
    assert all(kernel.calls == int(kernel.calls) >= 1 for kernel in profile.kernels)
    shares = [kernel.share for kernel in profile.kernels]
    assert shares == sorted(shares, reverse=True)
    assert 0.5 < sum(shares) < 1
    assert 0 < result.walls["profile"] < PROFILE_SECONDS


def test_backward_is_profiled_with_forward(run_judge: RunJudge) -> None:
    result = run_judge([python("plain")], language="pytorch", cases=[Case(name="wide", backward=True)]).results["plain"]
    assert result.verdict is Verdict.OK
    assert result.profile is not None
    products = next(kernel for kernel in result.profile.kernels if kernel.name == "aten::mul")
    assert products.calls > 2, "which is what forward has"


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_it_does_when_it_is_profiled_its_result_stays(judged: Judged, name: str) -> None:
    result = judged.results[name]
    assert result.verdict is Verdict.OK, f"{result.summary}\n{result.diagnostics}"
    assert result.speedup is not None
    if name != "forges":
        assert result.profile is None
    # It is killed when its time is up; a busy machine may take a moment longer for it.
    assert result.walls["profile"] < PROFILE_SECONDS + 2
    assert (result.walls["profile"] >= PROFILE_SECONDS) == (name in SLOW)


def test_a_forged_table_is_cut_to_size_and_cleaned(judged: Judged) -> None:
    result = judged.results["forges"]
    assert len(result.model_dump_json()) < MAX_LINE_BYTES
    assert result.profile is not None
    kernels = result.profile.kernels
    assert len(kernels) == MOST_KERNELS
    name = kernels[0].name
    assert name.startswith("``` Verdict: 1000x aaaa")
    assert len(name) == MOST_NAME
    assert name.isprintable()
    assert sum(kernel.share for kernel in kernels) <= 1
    assert result.profile.others <= 1_000_000
    assert (result.profile.copies, result.profile.idle) == (0.0, None), "a CPU has neither"


def test_the_judge_ends_well_after_all_of_them(judged: Judged) -> None:
    assert judged.exit_code == 0
    assert set(judged.results) == {"plain", *HOSTILE}


def test_native_candidates_have_no_profile(run_judge: RunJudge) -> None:
    from .judging import cpp

    result = run_judge([cpp("right")]).results["right"]
    assert (result.verdict, result.profile) == (Verdict.OK, None)
    assert "profile" not in result.walls


def test_shares_of_all_operators_are_the_whole() -> None:
    square = torch.rand(256, 256)
    seen = read_table(record(lambda: torch.softmax(square @ square, 0), 4, on_device=False), "c", 4, on_device=False)
    assert seen is not None
    assert sum(row.share for row in seen.rows) == pytest.approx(1, abs=0.01)
    assert {row.name: row.calls for row in seen.rows}["aten::mm"] == 1
    assert seen.rows[0].name in ("aten::mm", "aten::_softmax")
    assert seen.is_whole


HEAD = "<5Q"


def device_table(*rows: tuple[int, int, int, int, bytes], copies: int = 0, busy: int = 0, span: int = 0) -> bytes:
    packed = b"".join(ROW.pack(count, ns, registers, occupancy, name) for count, ns, registers, occupancy, name in rows)
    return struct.pack(HEAD, len(rows), copies, sum(row[1] for row in rows), busy, span) + packed


def test_gaps_and_copies_of_a_device_are_shares_and_counts_per_call() -> None:
    data = device_table((3, 900, 40, 76, b"_rows"), (6, 100, 0, 0, b"Memcpy HtoD"), copies=6, busy=1000, span=4000)
    seen = read_table(data, "wide", 3, on_device=True)
    assert seen is not None
    assert (seen.profile.idle, seen.profile.copies, seen.profile.others) == (0.75, 2.0, 0)
    assert [(row.name, row.calls, row.share) for row in seen.rows] == [("_rows", 1.0, 0.9), ("Memcpy HtoD", 2.0, 0.1)]
    assert [(row.registers, row.occupancy) for row in seen.rows] == [(40, 0.75), (None, None)]


class Launch:
    """One event of a device as torch hands it out, with what Kineto writes into a trace."""

    def __init__(self, name: str, ns: int, metadata: str) -> None:
        self.name = lambda: name
        self.duration_ns = lambda: ns
        self.metadata_json = lambda: metadata


def test_registers_and_occupancy_are_those_of_the_longest_launch_of_a_kernel() -> None:
    text = '"queued": 0, "stream": 7, "registers per thread": %d, "shared memory": 128, "blocks per SM": 62.06, '
    text += '"warps per SM": 496.48, "grid": [8192, 1, 1], "block": [256, 1, 1], "est. achieved occupancy %%": %d'
    launches = launches_of(
        [
            Launch("void rows<4>(float*, int)", 20, text % (40, 75)),
            Launch("void rows<4>(float*, int)", 10, text % (40, 1)),
            Launch("Memcpy HtoD (Pinned -> Device)", 5, '"stream": 7, "bytes": 4096, "memory bandwidth (GB/s)": 0.8'),
            Launch("one_block", 5, text % (16, 0)),
        ]
    )
    assert launches == {"rows<4>": (40, 75), "one_block": (16, 0)}
    older = SimpleNamespace(name=lambda: "rows", duration_ns=lambda: 20)
    assert launches_of([older]) == {}, "torch did not always tell"


@given(st.binary(max_size=64) | st.binary(min_size=5 * 8, max_size=5 * 8 + (MOST_ROWS + 2) * ROW.size), st.booleans())
def test_any_bytes_are_a_table_within_bounds_or_none(data: bytes, on_device: bool) -> None:
    seen = read_table(data, "c", 1, on_device=on_device)
    if seen is not None:
        assert len(seen.profile.kernels) <= MOST_KERNELS
        assert len(seen.rows) <= MOST_ROWS
        assert sum(row.share for row in seen.rows) <= 1.01
        assert all(row.name.isprintable() and 0 < len(row.name) <= MOST_NAME for row in seen.rows)
        assert seen.profile.idle is None or 0 <= seen.profile.idle <= 1

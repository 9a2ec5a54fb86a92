"""Every problem of the zoo is accepted, filtered or refused, as its file says, and for that reason.

Each file of problems/ begins with comments: `expect: OK`, or another verdict and `reason:`, words of what the judge
says. The judge's own probe is asked, without candidates; what it accepts must also have a header that a kernel can be
compiled against. Neighbours: probe_server.py, adversarial/suite.py (uses some of these problems).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from kernelharness.protocol import (
    EXIT_DONE,
    Artifact,
    Batch,
    File,
    Problem,
    Purpose,
    Toolchain,
    Verdict,
    from_artifacts,
    parse_log,
)

from .judging import PROBLEMS, Judged

pytestmark = pytest.mark.timeout(900)
"""One process probes them all; on a busy machine that takes minutes."""

NAMES = sorted(path.stem for path in PROBLEMS.glob("*.py"))
SAID = {
    name: dict(re.findall(r"^# (expect|reason): (.*)$", (PROBLEMS / f"{name}.py").read_text(), re.MULTILINE))
    for name in NAMES
}
ACCEPTED = [name for name in NAMES if SAID[name]["expect"] == "OK"]
_FORWARD = re.compile(r'^extern "C" int forward\([^;]*\);$', re.MULTILINE)


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Judged]:
    folder = tmp_path_factory.mktemp("zoo")
    for name in NAMES:
        source = (PROBLEMS / f"{name}.py").read_text()
        batch = Batch(
            id=name,
            purpose=Purpose.PROBE,
            problem=Problem(files=[File(path="reference.py", content=source)], cases=[]),
            toolchain=Toolchain(language="cpp", arch="x86-64-v3"),
            candidates=[],
        )
        (folder / f"{name}.json").write_text(batch.to_json())
    server = Path(__file__).with_name("probe_server.py")
    subprocess.run([sys.executable, server, folder], check=True)
    return {name: _read(folder / name) for name in NAMES}


def _read(stem: Path) -> Judged:
    out, error, code = (stem.with_suffix(suffix).read_text() for suffix in (".out", ".err", ".code"))
    return Judged(parse_log(out) if code == str(EXIT_DONE) else [], int(code), error)


@pytest.mark.parametrize("name", NAMES)
def test_problem_is_what_its_file_says(probed: dict[str, Judged], name: str) -> None:
    judged = probed[name]
    assert judged.exit_code == EXIT_DONE, judged.stderr
    fact = judged.problem
    assert fact.verdict is Verdict(SAID[name]["expect"]), fact.reason
    assert SAID[name].get("reason", "") in fact.reason
    assert bool(fact.reason) is (fact.verdict is not Verdict.OK)
    timed = [baseline for baseline in judged.baselines if baseline.arm == "eager" and baseline.ns]
    assert len(timed) == (1 if fact.verdict is Verdict.OK else 0)


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_kernel_compiles_against_its_header(probed: dict[str, Judged], name: str, tmp_path: Path) -> None:
    header = from_artifacts([m for m in probed[name].messages if isinstance(m, Artifact)]).decode()
    (declaration,) = _FORWARD.findall(header)
    (tmp_path / "problem.h").write_text(header)
    (tmp_path / "kernel.cpp").write_text(f'#include "problem.h"\n{declaration[:-1]} {{ return 0; }}\n')
    command = ["g++", "-std=c++17", "-march=x86-64-v3", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
    done = subprocess.run(
        [*command, "-fsyntax-only", "kernel.cpp"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_zoo_has_every_kind_of_problem() -> None:
    verdicts = [SAID[name]["expect"] for name in NAMES]
    assert len(ACCEPTED) >= 20
    assert verdicts.count("DEGENERATE_PROBLEM") >= 5
    assert verdicts.count("UNSUPPORTED_PROBLEM") >= 5
    assert all("reason" in said for said in SAID.values() if said["expect"] != "OK")

"""examples/custom-accelerator as a vendor would use it: its SDK and plugin installed, and not a line of ours for it.

A whole judge runs the example's kernel, and kernels that do what this device's must not. The plugin is found as an
installed package is, by the entry point of its metadata.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernelharness.devices.accelerator import NoDevice, find_accelerator
from kernelharness.languages.base import CompileError, UnknownLanguage, language_of
from kernelharness.protocol import (
    EXIT_BAD_INPUT,
    EXIT_DEVICE_FAULT,
    Case,
    File,
    Problem,
    Purpose,
    Toolchain,
    Verdict,
)
from kernelsearch.api.documents import load_documents
from kernelsearch.cli.exits import Exit
from kernelsearch.engine.batches import to_batch

from .judging import JudgeBatch, Judged

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "custom-accelerator"
PROFILE = load_documents(EXAMPLE / "profile.yaml").profiles["acme-npu1"]
RIGHT = (EXAMPLE / "diagonal.acme").read_text()
PROBLEM = Problem(
    files=[File(path="reference.py", content=(EXAMPLE / "diagonal.py").read_text())],
    cases=[Case(name="default", dims={"ROWS": 320, "COLUMNS": 512})],
)


def changed(*replacements: tuple[str, str]) -> str:
    text = RIGHT
    for old, new in replacements:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


KERNELS = {
    "right": RIGHT,
    "wrong": changed(("factor * x", "1.5f * factor * x")),
    "broken": changed(("return 0;", "return zero;")),
    "dereferences on the host": changed(("  launch(", "  out[0] = x[0];\n  launch(")),
    "hands host memory to the device": changed(
        ("  launch(", "  static float mine[4096];\n  launch("), ("scale_rows(out, d,", "scale_rows(out, mine,")
    ),
    "leaves work behind": changed(
        (
            'extern "C"',
            'kernel spin(global float* out) { for (volatile int64_t i = 0; i < 50000000; i = i + 1) {} }\n\nextern "C"',
        ),
        ("  return 0;", "  static acme_queue* mine = acme_queue_create();\n  launch(mine, 1) spin(out);\n  return 0;"),
    ),
    "opens a socket": changed(
        ('#include "problem.h"', '#include "problem.h"\n#include <sys/socket.h>'),
        ("  launch(", "  socket(1, 1, 0);\n  launch("),
    ),
    "works in a workspace": changed(
        (
            "  launch(",
            "  float* copy = static_cast<float*>(context.workspace(ROWS * 4));\n"
            '  if (acme_copy(copy, d, ROWS * 4)) return context.fail("no copy");\n  launch(',
        ),
        ("(out, d, x", "(out, copy, x"),
    ),
    "prepares weights": "#define KERNEL_STATE\n"
    + changed(("bias, ROWS", "static_cast<const float*>(context.state), ROWS"))
    + """
extern "C" int64_t state_size(const float* bias, int64_t COLUMNS) { return COLUMNS * 4; }
extern "C" int init(const float* bias, int64_t COLUMNS, void* state, KernelContext&) {
  return acme_copy(state, bias, COLUMNS * 4);
}
""",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """SDK and plugin in a folder of their own, which every process of these tests imports from."""
    site = tmp_path_factory.mktemp("site")
    subprocess.run([EXAMPLE / "sdk" / "install", site], check=True)
    shutil.copytree(EXAMPLE / "plugin" / "acme_kernelharness", site / "acme_kernelharness")
    project = tomllib.loads((EXAMPLE / "plugin" / "pyproject.toml").read_text())["project"]
    metadata = site / f"acme_kernelharness-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in each.items()) for group, each in groups]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PATH", str(site / "bin"), prepend=os.pathsep)
        environment.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
        environment.setenv("ACME_DEVICE", str(site / "registers"))
        yield site


@pytest.fixture(scope="module")
def judged(installed: Path, judge_batch: JudgeBatch) -> Judged:
    sources = {re.sub(r"\W", "-", name): text for name, text in KERNELS.items()}
    return judge_batch(to_batch("acme", Purpose.SEARCH, PROBLEM, PROFILE, "acme-c", sources))


def of(judged: Judged, name: str) -> tuple[Verdict, str]:
    result = judged.results[re.sub(r"\W", "-", name)]
    return result.verdict, result.diagnostics


@pytest.mark.parametrize("name", ["right", "works in a workspace", "prepares weights"])
def test_a_right_kernel_has_a_speedup_that_says_how_it_was_measured(judged: Judged, name: str) -> None:
    assert of(judged, name)[0] is Verdict.OK
    result = judged.results[re.sub(r"\W", "-", name)]
    assert result.speedup is not None
    assert result.low is not None
    assert 0 < result.low <= result.speedup
    assert {"host_copy", "cpu_reference"} <= set(result.flags)
    assert result.resources["peak_bytes"] > 2 * 320 * 512 * 4


def test_the_device_is_named_with_where_the_references_run(judged: Judged) -> None:
    assert judged.hello.device.startswith("Acme NPU-1, in host-copy mode; references on ")
    assert judged.hello.driver.startswith("acme 1.0, Linux ")


def test_the_candidate_gives_up_as_much_as_on_a_cpu(judged: Judged) -> None:
    layers = judged.hello.isolation
    assert layers["seccomp"] == "on"
    assert layers["landlock"].startswith("on")
    assert layers["capabilities"] == "dropped"


def test_a_wrong_kernel_is_compared_like_any_other(judged: Judged) -> None:
    verdict, told = of(judged, "wrong")
    assert verdict is Verdict.WRONG_VALUES
    assert "output 'out' for input set 1 of 5" in told


def test_an_error_of_the_vendors_compiler_is_put_at_the_candidates_line(judged: Judged) -> None:
    verdict, told = of(judged, "broken")
    line = KERNELS["broken"].splitlines().index("  return zero;") + 1
    assert verdict is Verdict.COMPILE_ERROR
    assert f"error 1 of 1, line {line}: " in told
    assert f">{line:4} |   return zero;" in told


def test_host_code_cannot_touch_the_devices_memory(judged: Judged) -> None:
    verdict, told = of(judged, "dereferences on the host")
    assert verdict is Verdict.MEMORY_FAULT
    assert "signal 11 (SIGSEGV)" in told


def test_what_the_device_says_of_a_bad_access_is_told_in_its_own_words(judged: Judged) -> None:
    verdict, told = of(judged, "hands host memory to the device")
    assert verdict is Verdict.MEMORY_FAULT
    assert "\n| the device has no memory at 0x" in told


def test_work_left_in_a_queue_of_its_own_is_seen_by_the_judge(judged: Judged) -> None:
    verdict, told = of(judged, "leaves work behind")
    assert verdict is Verdict.BACKGROUND_WORK
    assert "the device was still at work after a call had returned" in told


def test_a_plugin_gives_a_candidate_no_other_rights(judged: Judged) -> None:
    verdict, told = of(judged, "opens a socket")
    assert verdict is Verdict.TAMPERING
    assert "it tried the system call socket" in told


def test_kernelsearch_evaluate_takes_the_profile_as_a_file(installed: Path, tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("kernelsearch"), "evaluate", EXAMPLE / "diagonal.py"]
    command += [EXAMPLE / "diagonal.acme", "--profile", EXAMPLE / "profile.yaml", "--case", "small=ROWS=256", "--json"]
    (tmp_path / "tmp").mkdir()
    places = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run(command, env=os.environ | places, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (Exit.DONE, "")
    document = json.loads(done.stdout)
    assert (document["profile"], document["language"]) == ("acme-npu1", "acme-c")
    assert document["candidates"][0]["result"]["verdict"] == "OK"
    assert "host_copy" in document["candidates"][0]["result"]["flags"]


def test_a_device_that_is_not_there_is_the_nodes_fault(
    installed: Path, judge_batch: JudgeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_DEVICE", str(installed / "nowhere" / "registers"))
    said = judge_batch(to_batch("acme", Purpose.SEARCH, PROBLEM, PROFILE, "acme-c", {"right": RIGHT}))
    assert said.exit_code == EXIT_DEVICE_FAULT
    assert "kernelharness: the device cannot be used: no device at " in said.stderr


def test_without_the_plugin_the_batch_is_refused_with_what_to_install(judge_batch: JudgeBatch) -> None:
    nobody = PROFILE.model_copy(update={"spec": PROFILE.spec.model_copy(update={"vendor": "nobody"})})
    said = judge_batch(to_batch("acme", Purpose.SEARCH, PROBLEM, nobody, "acme-c", {"right": RIGHT}))
    assert said.exit_code == EXIT_BAD_INPUT
    assert "no device plugin for vendor 'nobody': build the image with a package" in said.stderr


def test_a_language_of_torch_is_refused_on_a_device_that_torch_does_not_know(
    installed: Path, judge_batch: JudgeBatch
) -> None:
    batch = to_batch("acme", Purpose.SEARCH, PROBLEM, PROFILE, "acme-c", {})
    triton = batch.model_copy(update={"toolchain": Toolchain(language="triton", arch="acme-npu1", vendor="acme")})
    said = judge_batch(triton)
    assert said.exit_code == EXIT_BAD_INPUT
    assert "language 'triton' runs in torch, which has no devices of vendor 'acme'" in said.stderr


# -- the language, without a device ---------------------------------------------------------------------------------


CUSTOM = language_of(Toolchain(language="acme-c", arch="npu1", command=["acmecc", "{source}"], file_suffix=".acme"))


def test_a_command_and_a_suffix_are_a_language() -> None:
    toolchain = Toolchain(language="acme-c", arch="npu1", command=["cc", "-m{arch}", "{source}", "{output}"])
    assert (CUSTOM.name, CUSTOM.is_native, CUSTOM.source_name(toolchain)) == ("acme-c", True, "kernel.acme")
    assert CUSTOM.compile_command(toolchain, "k.acme", "k.so", "include") == ["cc", "-mnpu1", "k.acme", "k.so"]


@pytest.mark.parametrize(("given", "missing"), [({}, "command"), ({"command": ["cc"]}, "fileSuffix")])
def test_a_name_alone_is_no_language(given: dict[str, list[str]], missing: str) -> None:
    with pytest.raises(UnknownLanguage, match=f"must say how it is compiled: {missing} is missing"):
        language_of(Toolchain(language="acme-c", arch="npu1", **given))


def test_a_known_language_keeps_its_own_ways_whatever_its_command() -> None:
    assert type(language_of(Toolchain(language="cpp", arch="x86-64", command=["clang++"]))).__name__ == "Cpp"


def test_errors_are_read_as_most_compilers_write_them() -> None:
    text = (
        "kernel.acme:7:3: error: no such name\nkernel.acme:9: fatal error: gone\n/i/problem.h:4:1: error: odd\nnote: x"
    )
    assert CUSTOM.compile_errors(text, "kernel.acme") == [
        CompileError("no such name", 7, 3),
        CompileError("gone", 9),
        CompileError("odd (in problem.h)"),
    ]


def test_a_vendor_without_plugin_is_named_with_those_there_are() -> None:
    with pytest.raises(NoDevice, match=r"in the group kernelharness\.devices; installed: "):
        find_accelerator("nobody")

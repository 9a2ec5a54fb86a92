"""The GPU candidates of the adversarial suite through KernelBench's own evaluator, for a side-by-side table.

    python benchmarks/kernelbench_column.py CHECKOUT --json FILE [--only NAME ...] [--timeout SECONDS]

CHECKOUT is one of github.com/ScalingIntelligence/KernelBench (src/kernelbench is enough). Each candidate has a process
of its own and the GPU to itself; the next processes import torch meanwhile. Native candidates are compiled beforehand
by this project's own command, and a `ModelNew` around the library is what KernelBench is given: the very binary that
this project's judge loads. Neighbours: kernelbench_worker.py (that process), gpu_suite.py (the table).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "harness" / "adversarial"))

import suite
from kernelharness.facts import describe
from kernelharness.hidden import derive_hidden_case
from kernelharness.languages import native
from kernelharness.languages.base import get_language
from kernelharness.languages.signature import scalar_arguments
from kernelharness.problem import load_case
from kernelharness.protocol import Case, CaseFact, File, Problem, Toolchain

HERE = Path(__file__).resolve().parent
GAIN = 1.2
"""A cheat whose values are right has fooled its judge when it seems so many times as fast as its honest twin."""
WAITING = 3
"""Processes that import torch while another is measured."""
_HIDDEN_SEED = 1

WRAPPER = '''"""A compiled kernel as KernelBench wants it: called by the reference's class on torch's current stream."""
import importlib.util
import torch

NAMES = {{}}
exec({reference!r}, NAMES)
SPEC = importlib.util.spec_from_file_location("native", {loader!r})
native = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(native)


def spec(tensor):
    return native.TensorSpec(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


class ModelNew(NAMES["Model"]):
    kernel = native.NativeKernel({library!r}, {device_type})
    call = None

    def prepare(self, outputs, inputs):
        self.weights = [*self.parameters(), *self.buffers()]
        stream = torch.cuda.current_stream().cuda_stream if inputs[0].is_cuda else 0
        block, addresses = 0, [weight.data_ptr() for weight in self.weights]
        if self.kernel.has_state:
            specs = [spec(weight) for weight in self.weights]
            size = self.kernel.state_size(specs, addresses)
            self.state = torch.empty(size + 64, dtype=torch.uint8, device=inputs[0].device)
            block = self.state.data_ptr() + -self.state.data_ptr() % 64
            self.kernel.init(specs, addresses, block, stream)
        tensors = [*outputs, *inputs, *self.weights]
        call = self.kernel.prepare([spec(tensor) for tensor in tensors], {scalars!r}, stream, block)
        for index, address in enumerate(addresses, len(outputs) + len(inputs)):
            call.bind(index, address)
        return call

    def forward(self, *inputs):
        outputs = [
            torch.empty(shape, dtype=getattr(torch, dtype), device=inputs[0].device) for dtype, shape in {outputs!r}
        ]
        if self.call is None:
            self.call = self.prepare(outputs, inputs)
        for index, tensor in enumerate((*outputs, *inputs)):
            self.call.bind(index, tensor.data_ptr())
        self.call()
        return outputs[0] if len(outputs) == 1 else tuple(outputs)
'''


@dataclass(frozen=True)
class Task:
    entry: suite.Entry
    candidate: str
    backend: str
    error: str = ""
    """Why there is nothing to run: it did not compile."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[], help="names, or parts of names, of candidates")
    parser.add_argument("--timeout", type=float, default=60, help="seconds that one candidate may take")
    options = parser.parse_args()
    chosen = [e for e in suite.entries("gpu") if not options.only or any(part in e.name for part in options.only)]
    begin, device = time.monotonic(), _device()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        tasks = compile_all(chosen, work, "gpu")
        print(f"compiled after {time.monotonic() - begin:.0f} s", flush=True)
        pool = Pool(options.checkout, work, WAITING)
        rows = []
        for task in tasks:
            row = outcome(task, pool, options.timeout)
            rows.append(row)
            print(f"{row['id']:48} {row['column']}", flush=True)
            options.json.write_text(json.dumps(_report(rows, device), indent=1))
        pool.close()
    print(f"{len(rows)} candidates in {time.monotonic() - begin:.0f} s")
    return 0


def _report(rows: list[dict[str, Any]], device: str) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"date": now, "device": device, "candidates": mark_fooled(rows)}


def _device() -> str:
    """Asked of the driver: torch would take memory of the device that is measured."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def mark_fooled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say of each row whether the evaluator was wrong: it accepted a cheat, or a gain that is none, or refused work."""
    speed = {row["id"]: row["speedup"] for row in rows}
    for row in rows:
        accepted = row["speedup"] is not None
        if row["honest"]:
            row["fooled"] = not accepted
        elif accepted and row["no_gain_over"]:
            honest = speed.get(row["no_gain_over"])
            row["fooled"] = honest is not None and row["speedup"] > GAIN * honest
        else:
            row["fooled"] = accepted
    return rows


def reference(problem: str) -> str:
    """The problem's text, with the function that KernelBench insists on."""
    source = suite.problem_source("gpu", problem)
    return source if "def get_init_inputs" in source else f"{source}\n\ndef get_init_inputs():\n    return []\n"


# -- native candidates -------------------------------------------------------------------------------------------------


def compile_all(entries: list[suite.Entry], work: Path, device: str) -> list[Task]:
    """What KernelBench is given of each candidate, in order; native ones compiled side by side."""
    for problem in {entry.problem for entry in entries if entry.suffix != ".py"}:
        facts(device, problem)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(lambda entry: _task(entry, work, device), entries))


@cache
def facts(device: str, problem: str) -> list[CaseFact]:
    """Of the problem's own case and of the hidden one, which the header is made for too."""
    given = Problem(files=[File(path="reference.py", content=suite.problem_source(device, problem))])
    cases = [Case(name="default"), derive_hidden_case(given, _HIDDEN_SEED)]
    return [describe(load_case(given, case)) for case in cases if case is not None]


def _task(entry: suite.Entry, work: Path, device: str) -> Task:
    if entry.suffix == ".py":
        return Task(entry, entry.source, "triton" if entry.language == "triton" else "cuda")
    language = get_language(entry.language)
    known = facts(device, entry.problem)
    folder = work / f"{entry.problem}-{entry.id}"
    folder.mkdir()
    source, library = folder / f"kernel{entry.suffix}", folder / "kernel.so"
    for name, text in {**language.headers(known), source.name: entry.source}.items():
        (folder / name).write_text(text)
    arch, vendor = suite.TARGETS[device]
    toolchain = Toolchain(language=entry.language, arch=arch, vendor=vendor)
    command = language.compile_command(toolchain, str(source), str(library), str(folder))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return Task(entry, "", "", f"{done.stdout}{done.stderr}"[-400:])
    wrapped = WRAPPER.format(
        reference=suite.problem_source(device, entry.problem),
        loader=native.__file__,
        library=str(library),
        device_type=native.CUDA if device == "gpu" else native.CPU,
        scalars=scalar_arguments(known[0]),
        outputs=[(fact.dtype, tuple(fact.shape)) for fact in known[0].results],
    )
    return Task(entry, wrapped, "cuda")


# -- one process for each ----------------------------------------------------------------------------------------------


class Pool:
    """Processes that have imported KernelBench and wait for a candidate, each with a copy of it that may be spoilt."""

    def __init__(self, checkout: Path, work: Path, size: int) -> None:
        self._checkout = checkout
        self._work = work
        self._made = 0
        self._waiting: deque[Worker] = deque()
        self._size = size

    def take(self) -> Worker:
        while len(self._waiting) <= self._size:
            folder = self._work / f"process-{self._made}"
            shutil.copytree(self._checkout / "src" / "kernelbench", folder / "src" / "kernelbench")
            self._waiting.append(Worker(folder))
            self._made += 1
        return self._waiting.popleft()

    def close(self) -> None:
        for worker in self._waiting:
            worker.end()


class Worker:
    """One process, under a shell of its own: what a candidate does to its parent, it does to that."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.result = folder / "result.json"
        self.errors = folder / "errors.txt"
        script = [sys.executable, str(HERE / "kernelbench_worker.py"), str(folder)]
        self._before = self._contents()
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", '"$@"; exit $?', "sh", *script],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=folder,
                start_new_session=True,
                text=True,
            )

    def run(self, task: Task, timeout: float) -> tuple[dict[str, Any] | None, str]:
        """(KernelBench's result, or none; what became of the process where that is not "it ended")."""
        assert self.process.stdin
        order = {
            "reference": reference(task.entry.problem),
            "candidate": task.candidate,
            "backend": task.backend,
            "result": str(self.result),
        }
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        harm = self._wait(timeout)
        self.end()
        if not harm and self._contents() != self._before:
            harm = "the evaluator's own files were changed"
        found = json.loads(self.result.read_text()) if self.result.exists() else None
        return found, harm

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _wait(self, timeout: float) -> str:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            pid, status = os.waitpid(self.process.pid, os.WNOHANG | os.WUNTRACED)
            if pid and os.WIFSTOPPED(status):
                return "its parent process was stopped"
            if pid:
                self.process.returncode = os.waitstatus_to_exitcode(status)
                return "" if self.result.exists() else f"the process ended with {self.process.returncode} and no result"
            time.sleep(0.01)
        return f"no result after {timeout:.0f} s"

    def _contents(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted((self.folder / "src").rglob("*.py"))}


def outcome(task: Task, pool: Pool, timeout: float) -> dict[str, Any]:
    """One row: what KernelBench says of this candidate."""
    entry = task.entry
    row: dict[str, Any] = {
        "id": f"{entry.problem}/{entry.id}",
        "numbers": sorted(entry.numbers),
        "honest": entry.is_honest,
        "no_gain_over": f"{entry.problem}/{entry.language}-{entry.no_gain_over}" if entry.no_gain_over else "",
        "speedup": None,
    }
    if task.error:
        return row | {"column": "rejected: it does not compile", "detail": task.error}
    worker = pool.take()
    begin = time.monotonic()
    found, harm = worker.run(task, timeout)
    row["seconds"] = round(time.monotonic() - begin, 1)
    if harm:
        return row | {"column": f"crashed: {harm}", "result": found, "detail": worker.errors.read_text()[-400:]}
    row["result"] = found
    if not found:
        return row | {"column": "rejected: no result"}
    told = found["metadata"]
    if not found["compiled"]:
        return row | {"column": f"rejected: {_short(told.get('compilation_error', 'does not compile'))}"}
    if not found["correct"]:
        reasons = ("runtime_error", "correctness_issue", "correctness_trials")
        return row | {"column": f"rejected: {_short(next((told[name] for name in reasons if name in told), 'wrong'))}"}
    if found["runtime_ms"] <= 0 or found["reference_ms"] <= 0:
        return row | {"column": f"rejected: not timed, {_short(told.get('error_during_performance', ''))}"}
    row["speedup"] = found["reference_ms"] / found["runtime_ms"]
    return row | {"column": f"accepted {row['speedup']:.2f}x"}


def _short(text: str) -> str:
    return " ".join(text.split())[:70]


if __name__ == "__main__":
    sys.exit(main())

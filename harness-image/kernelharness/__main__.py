"""The command line of the judge: `python -m kernelharness judge --batch FILE [--termination-message FILE]`.

Protocol lines go to standard output and nowhere else; everything else that this process or its children print goes to
standard error. Forks both zygotes in the right order: the light one before torch is imported, both before any secret.
Exit codes are protocol.py's.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from kernelharness import code_folder, isolation, machine, native_arm, runner, zygote
from kernelharness.compiler import execute as compile_in_sandbox
from kernelharness.devices import expect_device, missing_device, open_device
from kernelharness.devices.accelerator import AcceleratorError
from kernelharness.languages.base import Language, language_of
from kernelharness.log import Log
from kernelharness.protocol import EXIT_BAD_INPUT, EXIT_DEVICE_FAULT, Batch

CACHE_VARIABLE = "KERNELHARNESS_CACHE"
"""A folder for the reference's compiled code that survives this process; no candidate can write there."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="kernelharness", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    judge = commands.add_parser("judge", help="judge one batch of candidates")
    judge.add_argument("--batch", required=True, help="the batch document, a folder of its parts, or -")
    judge.add_argument("--termination-message", type=Path, help="where to leave count and hash of the log")
    judge.add_argument(
        "--cache", type=Path, default=os.environ.get(CACHE_VARIABLE), help="folder for the reference's compiled code"
    )
    judge.add_argument(
        "--torch-compile",
        choices=("auto", "never"),
        default="auto",
        help="auto: time this baseline too, unless the batch says what it costs",
    )
    options = parser.parse_args(arguments)
    try:
        batch = Batch.model_validate_json(_read_batch(options.batch))
        language = language_of(batch.toolchain)
        expect_device(batch.toolchain.vendor, language)
    except (ValueError, OSError) as error:
        print(f"kernelharness: the batch document is wrong: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    log = Log(_claim_stdout(), options.termination_message)
    scratch = Path(tempfile.mkdtemp(prefix="kernelharness-"))
    try:
        return _judge(batch, language, log, options, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _read_batch(where: str) -> str:
    """Standard input, a file, or a folder whose `part-*` files are joined in the order of their names."""
    if where == "-":
        return sys.stdin.read()
    path = Path(where)
    return "".join(part.read_text() for part in sorted(path.glob("part-*"))) if path.is_dir() else path.read_text()


def _judge(batch: Batch, language: Language, log: Log, options: argparse.Namespace, scratch: Path) -> int:
    threads = str(machine.usable_cpus())
    os.environ.update(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads, MKL_DYNAMIC="FALSE")
    os.environ["GOMP_SPINCOUNT"] = str(machine.OMP_SPINS)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    tempfile.tempdir = str(scratch)
    zygote.retain_memory()
    layers = isolation.become_subreaper()
    light = zygote.Zygote(_enter)
    import torch

    language.prepare_zygote(batch.toolchain.arch)

    import kernelharness.torch_arms  # noqa: F401
    from kernelharness.compiling import CompilingJudge
    from kernelharness.judge import Judge
    from kernelharness.setting import Setting, Zygotes

    heavy = zygote.Zygote(_enter)
    layers |= isolation.protect_judge()
    missing = missing_device(batch.toolchain.vendor)
    try:
        device = open_device("cpu" if missing else batch.toolchain.vendor)
    except AcceleratorError as error:
        print(f"kernelharness: the device cannot be used: {error}", file=sys.stderr)
        return EXIT_DEVICE_FAULT
    files = hashlib.sha256(str([(file.path, file.content) for file in batch.problem.files]).encode()).hexdigest()
    code = code_folder.claim(options.cache or scratch, f"{device.name}\0{torch.__version__}\0{sys.version}\0{files}")
    compiles = options.torch_compile != "never"
    kind = CompilingJudge if missing else Judge
    setting = Setting(batch, language, device, Zygotes(light, heavy), log, compiles, scratch, code)
    return kind(setting, layers).run()


def _enter(config: dict[str, Any], fds: list[int]) -> None:
    """What a zygote runs in a fresh process."""
    if config.get("role") == "compiler":
        compile_in_sandbox(config, fds)
    else:
        runner.run(config, fds)


def _claim_stdout() -> int:
    """The log's descriptor; from now on descriptor 1 is standard error, so that nothing else can write lines."""
    fd = os.dup(1)
    os.set_inheritable(fd, False)
    os.dup2(2, 1)
    return fd


__all__ = ["main", "native_arm"]

if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # everything is written; tearing torch down would only take time

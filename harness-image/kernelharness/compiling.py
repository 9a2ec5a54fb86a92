"""T where the device is missing: candidates are compiled for real, and not run.

The reference is described on the CPU, which gives facts and problem.h; there are no secrets, baselines or times. What
compiles is COMPILED, never OK: nobody is to blame, and nobody is faster. Languages that compile when they are called
are called once with a stand-in for the device (languages/stand_in.py), which launches nothing.
Neighbours: devices/__init__.py (what is missing), judge.py (everything else), docs/decisions/0011.
"""

from __future__ import annotations

import os
from typing import ClassVar

from kernelharness import diagnose
from kernelharness.compiler import Compiled
from kernelharness.devices import missing_device
from kernelharness.judge import Judge, measured
from kernelharness.protocol import Candidate, Result, Stage, Verdict
from kernelharness.results import rejected
from kernelharness.secret import Secret
from kernelharness.verdicts import Rejection
from kernelharness.warmup import WarmFolder

_CANDIDATES_OWN = (
    Verdict.COMPILE_ERROR,
    Verdict.LOAD_ERROR,
    Verdict.TIMEOUT,
    Verdict.TAMPERING,
    Verdict.RESOURCE_ABUSE,
)
"""What a candidate can be blamed for without a device; any other failure of a call may be the stand-in's, ..."""
_PLAIN_MISTAKES = ("NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError")
"""... but for what no device has a part in."""


class CompilingJudge(Judge):
    """One batch for a device that is not here. `run` is called once."""

    stands_in: ClassVar[bool] = True

    @property
    def missing(self) -> str:
        return missing_device(self.batch.toolchain.vendor)

    @property
    def device_name(self) -> str:
        return f"none: {self.missing}"

    def _prepare(self) -> None:
        secret = Secret(os.getrandom(32))
        headers = self.setting.describe(secret)
        self.setting.start_reference(secret)
        self.setting.tell_problem(headers, self.missing)

    def _try(self, candidate: Candidate, compiled: Compiled, walls: dict[str, float]) -> Result:
        folder: WarmFolder | None = None
        try:
            if self.language.needs_warmup:
                with measured(walls, "warmup"):
                    warmup = self._begin_warmup(candidate, compiled)
                    folder = warmup.folder
                    self._warm(warmup)
            return self._compiled(candidate, compiled, folder)
        except Rejection as rejection:
            if rejection.verdict not in _CANDIDATES_OWN and not rejection.text.startswith(_PLAIN_MISTAKES):
                text = f"cannot be compiled without a device, because its call failed: {rejection.text}"
                told = f"{Verdict.HARNESS_ERROR.value}: {text}\n{diagnose.quote(rejection.diagnosis)}"
                rejection = Rejection(Verdict.HARNESS_ERROR, text, diagnose.clean(told))
            return rejected(candidate, rejection, Stage.COMPILE)
        finally:
            if folder is not None:
                folder.remove()

    def _compiled(self, candidate: Candidate, compiled: Compiled, folder: WarmFolder | None) -> Result:
        text = f"compiled, not run: {self.missing}"
        resources = self.language.resources(compiled.text)
        if folder is not None:
            kernels = self.language.kernels_in(folder.path)
            resources = self.language.resources_of(kernels)
            text += f"; kernels that its calls compiled for {self.batch.toolchain.arch}: {len(kernels)}"
        return Result(
            candidate=candidate.id,
            verdict=Verdict.COMPILED,
            stage=Stage.COMPILE,
            summary=text,
            diagnostics=diagnose.of_verdict(Verdict.COMPILED, detail=text),
            binary_hash=compiled.digest if folder is None else folder.digest_with(compiled.digest),
            resources=resources,
        )

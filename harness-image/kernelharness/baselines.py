"""What is known of torch.compile's baseline from earlier batches of the same problem on the same machine.

Compiling costs 12 to 21 s and loading inductor 5 s, so compiled code is kept with the problem, and a search batch
leaves C out where it is known to be clearly slower than eager: a confirmation always measures it. The folder is the
judge's own; no candidate can write there. Neighbours: judge.py, torch_arms.py (CompiledArm reads and writes the code).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from kernelharness.protocol import Problem

CLEARLY_SLOWER = 1.2
"""torch.compile's time over eager's from which it cannot be the faster baseline."""


class BaselineStore:
    """The kept facts of one problem on one kind of machine."""

    def __init__(self, folder: Path | None, problem: Problem, machine: str) -> None:
        """`machine`: everything that times and compiled code depend on, as text. No folder: nothing is kept."""
        digest = hashlib.sha256(f"{problem.model_dump_json()}\0{machine}".encode()).hexdigest()[:24]
        self._ratios = folder / f"{digest}.json" if folder else None
        self.code = folder / f"{digest}.inductor" if folder else None
        """Where compiled code is kept."""
        if folder:
            folder.mkdir(parents=True, exist_ok=True)

    def ratios(self) -> dict[str, float]:
        """Case -> torch.compile's time over eager's. Empty when nothing, or nothing readable, was kept."""
        if self._ratios is None:
            return {}
        try:
            document = json.loads(self._ratios.read_text())
        except (OSError, ValueError):
            return {}
        return {str(case): float(ratio) for case, ratio in document.items()}

    def keep(self, ratios: dict[str, float]) -> None:
        """Replace what was kept; a reader sees the old or the new, never a part."""
        if self._ratios is not None:
            part = self._ratios.with_suffix(f".{os.getpid()}")
            part.write_text(json.dumps(ratios))
            part.replace(self._ratios)

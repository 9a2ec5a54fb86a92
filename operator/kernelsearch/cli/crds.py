"""`kernelsearch crds`: the generated files, for a repository or for `kubectl apply`."""

from __future__ import annotations

from pathlib import Path

from kernelsearch.api.crds import main
from kernelsearch.cli.exits import Exit


def write_crds(root: Path, *, check: bool) -> Exit:
    """Bring the generated files under `root` up to date, or compare only."""
    return Exit(main([*(["--check"] if check else []), str(root)]) and Exit.USAGE)

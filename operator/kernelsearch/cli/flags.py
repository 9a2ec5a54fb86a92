"""What flags may override. Apart from everything else, so that `--help` loads nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Overrides:
    """Flags of the command line; None leaves what the file says."""

    llm_endpoint: str | None = None
    llm_model: str | None = None
    candidates: int | None = None

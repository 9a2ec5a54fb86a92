"""What tests on a GPU share: the adversarial suite as a module, a judge for one batch, and the command line.

Whatever is run here is run as `python -m`, so the packages need to be on the path only, not installed.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from kernelharness.languages.base import get_language
from kernelharness.protocol import Batch, Candidate, Case, File, Message, ProblemFact, Result, Verdict, parse_log

ROOT = Path(__file__).parents[2]


def _load_suite() -> ModuleType:
    spec = importlib.util.spec_from_file_location("suite", ROOT / "tests" / "harness" / "adversarial" / "suite.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["suite"] = module
    spec.loader.exec_module(module)
    return module


suite = _load_suite()


def judge(batch: Batch) -> list[Message]:
    """All that a real judge says of it; skips where the language's compiler is missing."""
    if lacks := get_language(batch.toolchain.language).missing(batch.toolchain):
        pytest.skip(lacks)
    command = [sys.executable, "-m", "kernelharness", "judge", "--batch", "-", "--torch-compile", "never"]
    done = subprocess.run(command, input=batch.to_json(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return parse_log(done.stdout)


def judge_sources(problem: str, language: str, sources: dict[str, str], case: Case) -> dict[str, Result]:
    """Candidate name -> what the judge says of that source, in this one case of a problem of this folder."""
    suffix = get_language(language).suffix
    candidates = [
        Candidate(id=name, files=[File(path=f"kernel{suffix}", content=text)]) for name, text in sources.items()
    ]
    messages = judge(suite.batch("gpu", problem, language, candidates, cases=[case]))
    [fact] = [message for message in messages if isinstance(message, ProblemFact)]
    assert fact.verdict is Verdict.OK, fact.reason
    return {message.candidate: message for message in messages if isinstance(message, Result)}


def kernelsearch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, run in `folder` and with its cache there."""
    return subprocess.run(
        [sys.executable, "-m", "kernelsearch", *arguments],
        cwd=folder,
        env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )

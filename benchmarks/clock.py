"""The judge's log with the time of every line, as whoever reads it sees them. Shared by the benchmarks of speed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kernelharness.protocol import Baseline, Batch, Message, Result, parse_line

Line = tuple[float, Message]
"""(seconds since the judge was started, what it said)."""


def judge(given: Batch, cache: Path | str, log: Path | None = None) -> list[Line]:
    """Raise RuntimeError, with the end of what it said on standard error, when the judge fails.

    `cache`: the folder where code that torch.compile made is kept. `log`: where its lines go too.
    """
    lines: list[Line] = []
    text: list[str] = []
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "errors").open("w+") as errors:
        path = Path(folder) / "batch.json"
        path.write_text(given.to_json())
        command = [sys.executable, "-m", "kernelharness", "judge", "--batch", str(path), "--cache", str(cache)]
        begin = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder) as process:
            assert process.stdout
            for line in process.stdout:
                lines.append((time.monotonic() - begin, parse_line(line)))
                text.append(line)
        if log is not None:
            log.write_text("".join(text))
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"{given.id}: exit code {process.returncode}: {errors.read()[-2000:]}")
    return lines


def seconds_of(lines: list[Line]) -> tuple[float, float]:
    """(before the first candidate, of a candidate on average): from the line before it, which is the last baseline or
    another's result, to its own result line.
    """
    warm = max(at for at, message in lines if isinstance(message, Baseline))
    results = [at for at, message in lines if isinstance(message, Result)]
    return warm, (max(results) - warm) / len(results)

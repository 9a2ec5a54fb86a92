"""What a person sees: one line per step with its time, and failures that say what to do next."""

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


class Failure(Exception):
    """Something a person must act on; its text is shown without a traceback."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Prints `text`, and its duration when it is over."""
    started = time.monotonic()
    print(f"  {text} ... ", end="", file=sys.stderr, flush=True)
    try:
        yield
    except BaseException:
        say("failed")
        raise
    say(f"{time.monotonic() - started:.1f} s")


def run(
    *command: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, stdin: str | None = None
) -> str:
    """Runs a command and returns its standard output; raises Failure with its last lines if it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **(env or {})},
        cwd=cwd,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failure(f"{describe(command)} failed ({done.returncode}):\n{indent(done.stderr or done.stdout)}")
    return done.stdout


def run_logged(log: Path, *command: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
    """Runs a long command with its output in `log`; raises Failure with the last lines of it if it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        code = subprocess.run(
            [str(word) for word in command],
            env={**os.environ, **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if code:
        raise Failure(f"{describe(command)} failed ({code}); the end of {log}:\n{tail(log)}")


def describe(command: Sequence[str | Path]) -> str:
    text = shlex.join(str(word) for word in command)
    return text if len(text) < 120 else text[:117] + "..."


def indent(text: str, lines: int = 15) -> str:
    return "\n".join("    " + line for line in text.strip().splitlines()[-lines:])


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, indented, or why there are none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16384))
            return indent(file.read().decode(errors="replace"), lines) or "    (empty)"
    except OSError as error:
        return f"    ({error.strerror})"

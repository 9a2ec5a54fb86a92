"""The evaluator of this machine: one judge at a time, as a process that survives its parent.

A batch is a folder: `batch.json` (what was asked), `judge.json` (whose process), `log.jsonl` (what the judge said),
`stderr.txt`. The judge writes to files, not to pipes, so when this process dies the judge finishes alone; the next
process finds the folder, waits for the judge if it still runs, and reads a finished log instead of running it again.

Times are only worth something when nothing else is being timed: a lock on the machine, inherited by the judge itself,
keeps the judges of all searches apart even when their parents are gone. `jobs.py` is the same for a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from kernelharness.protocol import EXIT_BAD_INPUT, EXIT_DEVICE_FAULT, EXIT_DONE, LogError, Result, parse_line, parse_log

from kernelsearch.evaluate.base import BatchOutcome, BatchRequest, OnProgress, Progress, Said
from kernelsearch.evaluate.deadline import deadline_seconds
from kernelsearch.evaluate.process import ProcessId, kill_tree, wait_for_exit
from kernelsearch.evaluate.transcript import read_outcome

_POLL_SECONDS = 0.25
"""How often the log is looked at: rare enough not to be seen in what the judge times."""
_STDERR_TAIL = 2000

_PASSED_ENVIRONMENT = {
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "PYTHONPATH"),
    *("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES"),
}
"""All that a judge gets of our environment: keys and tokens stay here, because candidates inherit from the judge."""


@dataclass(frozen=True)
class _Judge:
    process: ProcessId
    started_at: float
    """time.time() of its start: a deadline outlives the parent that set it."""
    child: subprocess.Popen[bytes] | None
    """None when another process started it: then its exit code is not ours to know."""


class LocalEvaluator:
    """Runs the batches of one search below `root`, which belongs to that search alone.

    `cache`: a folder for what the judge may keep between batches; None keeps nothing.
    """

    def __init__(
        self,
        root: Path,
        *,
        cache: Path | None = None,
        lock_path: Path | None = None,
        judge_command: tuple[str, ...] = (sys.executable, "-P", "-m", "kernelharness", "judge"),
    ) -> None:
        self._root = root
        self._cache = cache
        self._lock_path = lock_path or Path(tempfile.gettempdir()) / f"kernelsearch-judge-{os.getuid()}.lock"
        self._judge_command = judge_command
        self._turn = asyncio.Lock()
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    async def evaluate(self, request: BatchRequest, on_progress: OnProgress) -> BatchOutcome:
        folder = self._folder(request)
        async with self._turn:
            if not _asks(folder, request):
                await self._remove(folder)
            judge = self._find(folder)
            if judge is None and not _is_finished(folder):
                await self._remove(folder)
                judge = await self._start(folder, request, on_progress)
            if judge is None:
                return _read(folder, request)
            on_progress(Progress(request.target, "Running", _position(0, request)))
            in_time = await _follow(judge, folder, request, on_progress)
            if not in_time:
                await kill_tree(judge.process)
            exit_code = judge.child.wait() if judge.child else None
            self._children.pop(folder.name, None)
            return _read(folder, request, exit_code=exit_code, in_time=in_time)

    async def forget(self, request: BatchRequest) -> None:
        await self._remove(self._folder(request))

    async def cancel(self, search_uid: str) -> None:
        """Whatever lies below the root is this search's: all of it ends and goes."""
        if self._root.is_dir():
            for folder in sorted(self._root.iterdir()):
                await self._remove(folder)

    def _folder(self, request: BatchRequest) -> Path:
        name = request.batch.id
        if not name or "/" in name or name.startswith("."):
            raise ValueError(f"{name!r} cannot name a batch folder")
        return self._root / name

    def _find(self, folder: Path) -> _Judge | None:
        """The judge that still works in this folder, if there is one."""
        try:
            document = json.loads((folder / "judge.json").read_text())
        except FileNotFoundError:
            return None
        process = ProcessId(**document["process"])
        if not process.is_alive:
            return None
        return _Judge(process, document["started_at"], self._children.get(folder.name))

    async def _start(self, folder: Path, request: BatchRequest, on_progress: OnProgress) -> _Judge:
        with _open_lock(self._lock_path) as lock:
            await _wait_for_machine(lock, request.target, on_progress)
            (folder / "tmp").mkdir(parents=True)
            (folder / "batch.json").write_text(request.batch.to_json())
            with (folder / "log.jsonl").open("wb") as log, (folder / "stderr.txt").open("wb") as errors:
                child = subprocess.Popen(
                    [*self._judge_command, "--batch", str(folder / "batch.json"), *self._cache_option()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=errors,
                    cwd=folder,
                    env=_judge_environment(folder / "tmp"),
                    start_new_session=True,  # Ctrl-C in the terminal is ours to handle, not the judge's
                    pass_fds=(lock,),  # a lock lives as long as any process holds it: the judge does
                )
        # Dying before the next line leaves a judge that nobody knows; it still holds the machine's lock, so the batch
        # that replaces it waits until it is gone.
        self._children[folder.name] = child
        judge = _Judge(ProcessId.of(child.pid), time.time(), child)
        _write_whole(
            folder / "judge.json", json.dumps({"process": asdict(judge.process), "started_at": judge.started_at})
        )
        return judge

    def _cache_option(self) -> list[str]:
        """Where the judge keeps compiled baselines from one batch of this search to the next."""
        if self._cache is None:
            return []
        self._cache.mkdir(parents=True, exist_ok=True)
        return ["--cache", str(self._cache)]

    async def _remove(self, folder: Path) -> None:
        if (judge := self._find(folder)) is not None:
            await kill_tree(judge.process)
        if (child := self._children.pop(folder.name, None)) is not None:
            child.wait()
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _asks(folder: Path, request: BatchRequest) -> bool:
    """True when the folder holds this very batch: same id, same content."""
    try:
        return (folder / "batch.json").read_text() == request.batch.to_json()
    except FileNotFoundError:
        return False


def _is_finished(folder: Path) -> bool:
    try:
        parse_log(_read_text(folder / "log.jsonl"))
    except LogError:
        return False
    return True


async def _follow(judge: _Judge, folder: Path, request: BatchRequest, on_progress: OnProgress) -> bool:
    """Report what the judge says as it appears until the judge ends. False when its deadline came first."""
    deadline = judge.started_at + deadline_seconds(request.batch)
    lines = _tail(folder / "log.jsonl")
    seen = 0
    exited = asyncio.ensure_future(wait_for_exit(judge.process))
    try:
        while True:
            ended, _ = await asyncio.wait({exited}, timeout=_POLL_SECONDS)
            for said in next(lines):
                seen += isinstance(said, Result)
                on_progress(Progress(request.target, "Running", _position(seen, request), said))
            if ended:
                return True
            if time.time() > deadline:
                return False
    finally:
        exited.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await exited


def _tail(path: Path) -> Iterator[list[Said]]:
    """Endless: each step gives what is to be told of the lines that became whole since the last one."""
    rest = b""
    with path.open("rb") as log:
        while True:
            *lines, rest = (rest + log.read()).split(b"\n")
            told: list[Said] = []
            for line in lines:
                # Advisory: what cannot be read now makes the whole log invalid in the end.
                with contextlib.suppress(LogError):
                    if isinstance(message := parse_line(line.decode(errors="replace")), Said):
                        told.append(message)
            yield told


def _position(seen: int, request: BatchRequest) -> str:
    total = len(request.batch.candidates)
    if total == 0:
        return "measuring the reference"
    return f"{seen} of {total} judged" if seen < total else "finishing"


def _read(folder: Path, request: BatchRequest, *, exit_code: int | None = None, in_time: bool = True) -> BatchOutcome:
    infrastructure, message = _why_it_ended(exit_code, in_time, request)
    if infrastructure and (said := _read_text(folder / "stderr.txt")[-_STDERR_TAIL:].strip()):
        message = f"{message}: {said}"
    return read_outcome(
        _read_text(folder / "log.jsonl"),
        {candidate.id for candidate in request.batch.candidates},
        node=os.uname().nodename,
        infrastructure=infrastructure,
        message=message,
    )


def _why_it_ended(exit_code: int | None, in_time: bool, request: BatchRequest) -> tuple[str, str]:
    """Reason and message; both empty when the log alone decides."""
    if not in_time:
        return "DeadlineExceeded", f"the judge did not end within {deadline_seconds(request.batch)} s and was killed"
    if exit_code is None or exit_code == EXIT_DONE:
        return "", ""
    if exit_code == EXIT_BAD_INPUT:
        return "InvalidBatch", "the judge does not understand the batch"
    if exit_code == EXIT_DEVICE_FAULT:
        return "DeviceFault", "the device failed while a candidate ran"
    if exit_code == -signal.SIGKILL:
        return "OutOfMemory", "the judge was killed by the system, most likely for memory"
    if exit_code < 0:
        return "JudgeFailed", f"the judge was ended by {signal.Signals(-exit_code).name}"
    return "JudgeFailed", f"the judge ended with exit code {exit_code}"


async def _wait_for_machine(lock: int, target: str, on_progress: OnProgress) -> None:
    """Take the lock; say so once when another search has it."""
    told = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not told:
                on_progress(Progress(target, "Queued", "another search is being timed on this machine"))
                told = True
        await asyncio.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def _open_lock(path: Path) -> Iterator[int]:
    """A descriptor of the lock file. Closing ours does not unlock it while a judge holds its own.

    Read-only, because a candidate may inherit it from the judge.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _judge_environment(temporary: Path) -> dict[str, str]:
    """Ours by an allow-list; temporary files go into the batch's folder, so that they go with it."""
    return {name: value for name, value in os.environ.items() if name in _PASSED_ENVIRONMENT} | {
        "TMPDIR": str(temporary),
        "PYTHONUNBUFFERED": "1",
    }


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _write_whole(path: Path, text: str) -> None:
    """The file has all of the text or does not exist."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)

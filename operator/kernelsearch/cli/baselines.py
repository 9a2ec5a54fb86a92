"""Compiled baselines of this user, kept from one command to the next because compiling takes longer than all else.

The judge keeps one folder for each problem (kernelharness/code_folder.py) and holds a shared lock on the file `LOCK` in
it. Here the folders that were not used for longest are removed, each under its exclusive lock: what a judge uses stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

LIMIT_BYTES = 2 * 2**30
LOCK = "in-use.lock"


def cache_folder() -> Path:
    """By the XDG base directory specification; safe to delete when no command runs."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if given.startswith("/") else Path.home() / ".cache") / "kernelsearch" / "baselines"


def make_room(cache: Path, limit_bytes: int = LIMIT_BYTES) -> None:
    """Keep what was used last, up to `limit_bytes` on disk, and whatever is in use. Several may do this at once."""
    for half_removed in cache.glob("removed-*"):
        shutil.rmtree(half_removed, ignore_errors=True)
    total = 0
    for folder in sorted(cache.glob("inductor-*"), key=_last_used, reverse=True):
        total += _bytes_on_disk(folder)
        if total > limit_bytes:
            with contextlib.suppress(OSError):  # in use, gone already, or not ours to remove
                _remove(folder)


def _remove(folder: Path) -> None:
    """Raise OSError when somebody uses it."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), (folder / LOCK).stat()):  # else it is another folder by now
            away = folder.with_name(f"removed-{folder.name}-{os.getpid()}")
            folder.rename(away)
            shutil.rmtree(away, ignore_errors=True)
    finally:
        os.close(descriptor)


def _last_used(folder: Path) -> float:
    for path in (folder / LOCK, folder):
        with contextlib.suppress(OSError):
            return path.stat().st_mtime
    return 0.0


def _bytes_on_disk(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += 512 * path.lstat().st_blocks
    return total

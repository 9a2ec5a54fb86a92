"""Where the reference's compiled code is kept: one folder for each problem on each machine, locked while it is in use.

Whoever makes room above it removes a folder only under its exclusive lock (kernelsearch's cli/baselines.py), so never
one that a judge uses; the time of the lock file is when that was last. No candidate can write there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from pathlib import Path

LOCK = "in-use.lock"


def claim(parent: Path, identity: str) -> Path:
    """The folder below `parent` for this identity, made if it is missing, locked until this process ends.

    `identity`: everything that compiled code depends on and its own names do not tell, and the problem.
    """
    folder = parent / f"inductor-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    while not _lock(folder):
        pass
    return folder


def _lock(folder: Path) -> bool:
    """False when somebody removed the folder meanwhile."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (FileExistsError, FileNotFoundError):
        if folder.is_file() or folder.is_symlink():  # no folder, and nobody is about to make one of it
            raise
        return False
    with contextlib.suppress(OSError):  # a file system without locks: then nobody gets the other lock either
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    os.utime(descriptor)
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(descriptor), (folder / LOCK).stat()):
            return True
    os.close(descriptor)
    return False

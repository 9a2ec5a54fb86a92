"""Locks between commands. They belong to the process: however it ends, they are free."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from devcluster.progress import step


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds the lock file `path`; waits for, and says that it waits for, whoever holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with step("waiting for another dev/cluster command"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield

"""What a disk and a SIGKILL may do to the SQLite store, done for real: killed writers, full and read-only volumes."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kernelsearch.store.sqlite import SqliteStore

HERE = Path(__file__).parent
BATCH = 7
"""Events per append of the writer below."""


async def test_a_writer_killed_in_the_middle_leaves_whole_batches_and_loses_none_it_reported(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    rng = random.Random(20)
    reported = 0
    for _ in range(12):
        writer = await asyncio.create_subprocess_exec(
            sys.executable, str(HERE / "writer.py"), str(path), str(BATCH), stdout=asyncio.subprocess.PIPE
        )
        assert writer.stdout is not None
        for _ in range(rng.randrange(1, 30)):
            reported = int(await writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        # What it said after the kill was decided counts too: it is in the pipe.
        for line in (await writer.stdout.read()).splitlines():
            reported = int(line) if line.isdigit() else reported
        assert await writer.wait() == -signal.SIGKILL

        store = await SqliteStore.open(path)
        events = await store.read("killed")
        await store.close()
        assert len(events) % BATCH == 0, "half a batch was written"
        assert len(events) in (reported, reported + BATCH), "an append that returned was lost, or one was counted twice"
        assert [event.at_ns for event in events] == list(range(len(events)))


def in_private_mounts(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a mount namespace of its own: what it mounts ends with it."""
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *as_root, "--mount", "bash", "-euc", script, "bash", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


needs_mounts = pytest.mark.skipif(
    in_private_mounts("mount -t tmpfs none /mnt").returncode != 0, reason="this user may not mount"
)


@needs_mounts
def test_a_full_volume_is_named_keeps_nothing_of_the_write_and_recovers(tmp_path: Path) -> None:
    done = in_private_mounts(
        'mount -t tmpfs -o size=512k none "$1"; exec "$2" "$3" "$1"',
        str(tmp_path),
        sys.executable,
        str(HERE / "fill_volume.py"),
    )
    assert done.returncode == 0, done.stderr
    message, before, after, later = done.stdout.splitlines()
    assert "the volume is full: make room or enlarge it" in message
    assert before == after, "a part of the failed write was kept"
    assert int(later) == int(after) + 1, "after making room the store goes on"


@needs_mounts
def test_a_read_only_volume_is_named(tmp_path: Path) -> None:
    script = (
        "import asyncio, pathlib, sys\n"
        "from kernelsearch.store.sqlite import SqliteStore\n"
        "asyncio.run(SqliteStore.open(pathlib.Path(sys.argv[1]) / 'journal.db'))\n"
    )
    done = in_private_mounts(
        'mount -t tmpfs none "$1"; mount -o remount,ro "$1"; exec "$2" -c "$3" "$1"',
        str(tmp_path),
        sys.executable,
        script,
    )
    assert done.returncode == 1
    assert "StoreError: cannot write in" in done.stderr
    assert "make the folder or volume writable" in done.stderr

"""Compiled baselines do not grow for ever, and none goes that a judge uses."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kernelsearch.cli.baselines import LOCK, cache_folder, make_room

MEBI = 2**20
JUDGE = """
import sys
from pathlib import Path
from kernelharness.code_folder import claim
print(claim(Path(sys.argv[1]), sys.argv[2]), flush=True)
sys.stdin.read()
"""


class Judge:
    """A process that holds the folder of one problem as a judge does, until `leave`."""

    def __init__(self, cache: Path, problem: str) -> None:
        command = [sys.executable, "-c", JUDGE, str(cache), problem]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.folder = Path(self.process.stdout.readline().strip())

    def leave(self) -> Path:
        self.process.communicate()
        return self.folder


@pytest.fixture
def judged(tmp_path: Path) -> list[Path]:
    """Three problems' folders of a MiB each; the first was used longest ago."""
    folders = [Judge(tmp_path, f"problem {number}").leave() for number in range(3)]
    for age, folder in enumerate(reversed(folders)):
        (folder / "ab").mkdir()
        (folder / "ab" / "code.so").write_bytes(os.urandom(MEBI))
        used_at = (folder / LOCK).stat().st_mtime - 3600 * age
        os.utime(folder / LOCK, (used_at, used_at))
    return folders


def test_what_was_used_last_stays_up_to_the_limit(tmp_path: Path, judged: list[Path]) -> None:
    make_room(tmp_path, limit_bytes=4 * MEBI)
    assert all((folder / "ab/code.so").exists() for folder in judged)
    make_room(tmp_path, limit_bytes=int(2.5 * MEBI))
    assert sorted(tmp_path.iterdir()) == sorted(judged[1:])
    make_room(tmp_path, limit_bytes=0)
    assert list(tmp_path.iterdir()) == []


def test_using_a_folder_makes_it_the_last_to_go(tmp_path: Path, judged: list[Path]) -> None:
    assert Judge(tmp_path, "problem 0").leave() == judged[0]
    make_room(tmp_path, limit_bytes=int(1.5 * MEBI))
    assert list(tmp_path.iterdir()) == [judged[0]]


def test_a_folder_in_use_stays_however_full_it_is(tmp_path: Path, judged: list[Path]) -> None:
    judge = Judge(tmp_path, "problem 0")
    assert judge.folder == judged[0]
    make_room(tmp_path, limit_bytes=0)
    assert list(tmp_path.iterdir()) == [judged[0]]
    assert (judged[0] / "ab/code.so").stat().st_size == MEBI
    judge.process.kill()  # the lock goes with the process, whatever ends it
    judge.process.communicate()
    make_room(tmp_path, limit_bytes=0)
    assert list(tmp_path.iterdir()) == []


def test_folders_of_versions_without_a_lock_and_halves_of_a_removal_go_too(tmp_path: Path) -> None:
    for name in ("inductor-0123456789abcdef", "removed-inductor-0123456789abcdef-1"):
        (tmp_path / name / "ab").mkdir(parents=True)
        (tmp_path / name / "ab/code.so").write_bytes(bytes(4096))
    (tmp_path / "notes.txt").write_text("a person's own")
    make_room(tmp_path, limit_bytes=0)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_judges_that_begin_while_room_is_made_keep_what_they_got(tmp_path: Path) -> None:
    """Removal and claim race for the same path: a judge always ends with a folder that is there."""
    script = """
import os, sys
from pathlib import Path
from kernelharness.code_folder import LOCK, claim
for number in range(300):
    folder = claim(Path(sys.argv[1]), "one problem")
    code = folder / f"code-{os.getpid()}"
    code.write_text("compiled")
    assert code.read_text() == "compiled"
    os.closerange(3, 100)  # as if the judge had ended
"""
    with ThreadPoolExecutor() as pool:
        command = [sys.executable, "-c", script, str(tmp_path)]
        judges = [pool.submit(subprocess.run, command, capture_output=True, text=True) for _ in range(2)]
        removed = 0
        while not all(judge.done() for judge in judges):
            make_room(tmp_path, limit_bytes=0)
            removed += 1
    assert [judge.result().stderr for judge in judges] == ["", ""]
    assert removed > 10


def test_the_folder_is_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "kernelsearch/baselines"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache/kernelsearch/baselines"

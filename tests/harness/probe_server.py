"""Judges many batches one after the other, each in a fork of a process that has imported torch already.

    python probe_server.py FOLDER    for every NAME.json: NAME.out, NAME.err, NAME.code

A judge of its own costs seconds of imports for every batch, and a problem alone needs little more. Each fork is the
real command line. Neighbour: test_problem_zoo.py.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from kernelharness import machine

os.environ["GOMP_SPINCOUNT"] = str(machine.OMP_SPINS)  # read when torch is imported: a judge's own comes too late
import torch
from kernelharness.__main__ import main
from torch.utils.flop_counter import FlopCounterMode


def judge(batch: Path) -> int:
    """The exit code of a judge of this batch."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for fd, suffix in ((1, ".out"), (2, ".err")):
                os.dup2(os.open(batch.with_suffix(suffix), os.O_CREAT | os.O_WRONLY, 0o600), fd)
            code = main(["judge", "--batch", str(batch), "--torch-compile", "never"])
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    with FlopCounterMode(display=False):
        torch.relu(torch.ones(1))  # what counting imports on first use
    for path in sorted(Path(sys.argv[1]).glob("*.json")):
        path.with_suffix(".code").write_text(str(judge(path)))

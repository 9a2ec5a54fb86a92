"""Exit codes of `kernelsearch`, and the one error that ends a command with a message instead of a traceback.

0    done: a verified kernel was published (`run`), everything is in order (`check`), every kernel is right (`evaluate`)
1    a fault of the program: the traceback says where
2    the command line or the file is wrong; nothing was run
3    the search ended, and nothing verified is faster than the reference: nothing was published
4    the search or the check failed: the problem cannot be judged, no model answers, every candidate fails
5    this machine or its state folder cannot be used, or it could not come to a verdict
6    a kernel was rejected (`evaluate`)
7    every kernel compiles, and none was run: this machine lacks the device (`evaluate`)
130  interrupted; `run` goes on where it stopped
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    DONE = 0
    USAGE = 2
    NO_IMPROVEMENT = 3
    FAILED = 4
    UNUSABLE = 5
    REJECTED = 6
    NOT_RUN = 7
    INTERRUPTED = 130


class CommandError(Exception):
    """Ends the command: the message goes to stderr, `code` to the shell."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code

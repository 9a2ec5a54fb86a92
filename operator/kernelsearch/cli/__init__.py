"""The command `kernelsearch`: the same search as in a cluster, on this machine, and what goes with it."""

from kernelsearch.cli.app import main

__all__ = ["main"]

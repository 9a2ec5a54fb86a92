"""Verdicts that can be trusted: what judges candidate kernels in a benchmark pod or on this machine."""

__version__ = "0.1.0"

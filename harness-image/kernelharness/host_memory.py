"""A runner's memory on a CPU: memfds that T handed over, mapped on first use, and malloc for its own.

Neighbours: runner.py (the interface), cuda_memory.py (the same for a CUDA device), native_arm.py (takes blocks).
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any

from kernelharness.channel import Board, Failure
from kernelharness.isolation import NO_DEVICE
from kernelharness.languages.native import CPU
from kernelharness.layout import ALIGNMENT

_libc = ctypes.CDLL(None)
_allocate = _libc.aligned_alloc
_allocate.restype = ctypes.c_void_p
_allocate.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
_free = _libc.free
_free.argtypes = (ctypes.c_void_p,)
_memcpy = _libc.memcpy
_memcpy.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Block:
    """One allocation, freed with the object."""

    __slots__ = ("address",)

    def __init__(self, nbytes: int) -> None:
        self.address = _allocate(ALIGNMENT, nbytes)
        if not self.address:
            raise MemoryError(f"cannot allocate {nbytes} bytes for an output")

    def __del__(self) -> None:
        _free(self.address)


class HostPool:
    """The retaining allocator that all arms share (zygote.retain_memory)."""

    def take(self, nbytes: int) -> Block:
        return Block(nbytes)

    def copy(self, target: Block, source: Block, nbytes: int) -> None:
        _memcpy(target.address, source.address, nbytes)


class HostMemory:
    """Implements runner.Memory."""

    device_type = CPU
    rights = NO_DEVICE
    stream = 0
    gate = None

    def __init__(self, fds: dict[str, int], writable: frozenset[str], private: dict[str, int]) -> None:
        """`private`: of these so many bytes may be written, seen by this process alone; only to explain a fault."""
        self._fds = fds
        self._writable = writable | private.keys()
        self._private = private
        self._maps: dict[str, mmap.mmap] = {}
        self.pool: Any = HostPool()

    def map(self, name: str) -> mmap.mmap:
        if name not in self._maps:
            protection = mmap.PROT_READ | (mmap.PROT_WRITE if name in self._writable else 0)
            sharing = mmap.MAP_PRIVATE if name in self._private else mmap.MAP_SHARED
            size = self._private.get(name) or os.fstat(self._fds[name]).st_size
            self._maps[name] = mmap.mmap(self._fds[name], size, sharing, protection)
        return self._maps[name]

    def place(self, name: str, offset: int, nbytes: int, *, refilled: bool) -> int:
        """Where T wrote them."""
        return _address(self.map(name)) + offset

    def fd(self, name: str) -> int:
        return self._fds[name]

    def attach(self) -> None:
        """Nothing to do: memories are mapped on first use."""

    def fetch(self) -> None:
        """Nothing to do: calls read what T writes."""

    def show(self, board: Board, packed: bytes) -> None:
        """Nothing to do: T reads this process's memory."""

    def touch(self) -> None:
        """Nothing to do: calls have an effect when they return."""

    def finish(self) -> None:
        """Nothing to wait for."""

    def failure_of(self, error: Exception) -> Failure:
        return Failure.OOM if "allocate memory" in str(error) else Failure.ERROR


def _address(mapped: mmap.mmap) -> int:
    """Of a read-only mapping, which ctypes refuses to take the address of."""
    view = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(mapped), ctypes.byref(view), 0)
    address = int(view.buf)
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))
    return address


class _PyBuffer(ctypes.Structure):
    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )

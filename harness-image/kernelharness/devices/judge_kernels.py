"""The judge's own device code: compiled once by NVRTC for the device that is there, launched without torch.

T cannot ask torch for what these do: occupying the device and flushing the L2, poisoning many ranges in one launch,
comparing memory at raw addresses. Neighbours: judge_kernels.cu (the code), cudart.py (launches), cuda.py (caller).
"""

from __future__ import annotations

import ctypes
from importlib.resources import files
from typing import Any

from kernelharness.devices.cudart import CudaError, Cudart, find_library

_THREADS = 256
_BLOCKS = 2112
"""Of kernels that stride over a buffer: a multiple of the SM counts of current devices, 16 for each of 132."""


class JudgeKernels:
    """Launches on stream 0, asynchronous."""

    def __init__(self, cudart: Cudart, capability: tuple[int, int]) -> None:
        """Compile for `capability`. Raise CudaError with NVRTC's log when that fails."""
        self._cudart = cudart
        source = files(__package__).joinpath("judge_kernels.cu").read_text()
        self._module = cudart.load_module(_compile(source, f"sm_{capability[0]}{capability[1]}"))
        self._functions: dict[str, int] = {}

    def canary(self, buffer: int, nbytes: int) -> None:
        self._stride("canary", nbytes // 16, _pointer(buffer), _u64(nbytes // 16))

    def scramble(self, address: int, nbytes: int, key: int) -> None:
        """Fill with what follows from `key` alone; `nbytes` is a multiple of 8."""
        self._stride("scramble", nbytes // 8, _pointer(address), _u64(nbytes // 8), _u64(key))

    def differences(self, left: int, right: int, nbytes: int, found: int) -> None:
        """Add the number of 32-bit words that differ to the u64 at `found`."""
        pair = (_pointer(left), _pointer(right))
        self._stride("differences", nbytes // 4, *pair, _u64(nbytes // 4), _pointer(found))

    def fill_ranges(self, starts: int, sizes: int, count: int, byte: int) -> None:
        """Set every byte of `count` ranges, whose addresses and sizes are u64 arrays on the device."""
        arguments = (_pointer(starts), _pointer(sizes), ctypes.c_uint32(byte))
        self._launch("fill_ranges", (max(1, _BLOCKS // count), count), *arguments)

    def refill(self, dtype: str, target: int, source: int, count: int, shift: int, key: int, *, signs: bool) -> None:
        """target = factors(key) * rotated(source, shift), elementwise; factors are 0.25 to 1 in size."""
        places = (_pointer(target), _pointer(source), _u64(count))
        self._stride(f"refill_{dtype}", count, *places, _u64(shift), _u64(key), ctypes.c_uint32(signs))

    def compare(self, dtype: str, got: int, want: int, count: int, atol: float, rtol: float, found: int) -> None:
        """To the two u64 at `found`: add how many elements are wrong; raise to the largest finite error, a double."""
        places = (_pointer(got), _pointer(want), _u64(count))
        limits = (ctypes.c_double(atol), ctypes.c_double(rtol))
        self._stride(f"compare_{dtype}", count, *places, *limits, _pointer(found))

    def errors(self, dtype: str, got: int, want: int, count: int, found: int) -> None:
        """To the four words at `found`: raise to the largest error, a double, or to NaN where some error is no number;
        add the sum and the sum of squares (doubles) of what is finite in `want`, and its number.
        """
        self._stride(f"errors_{dtype}", count, _pointer(got), _pointer(want), _u64(count), _pointer(found))

    def _stride(self, name: str, count: int, *arguments: ctypes._SimpleCData[Any]) -> None:
        self._launch(name, (max(1, min(_BLOCKS, -(-count // _THREADS))), 1), *arguments)

    def _launch(self, name: str, grid: tuple[int, int], *arguments: ctypes._SimpleCData[Any]) -> None:
        if name not in self._functions:
            self._functions[name] = self._cudart.function(self._module, name)
        self._cudart.launch(self._functions[name], grid, _THREADS, arguments)


def _pointer(address: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(address)


def _u64(value: int) -> ctypes.c_uint64:
    return ctypes.c_uint64(value)


def _compile(source: str, arch: str) -> bytes:
    """CUDA C++ to a cubin."""
    nvrtc = ctypes.CDLL(find_library(r"libnvrtc\.so\.1[0-9.]*"))
    program = ctypes.c_void_p()
    _check(
        nvrtc, nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"judge.cu", 0, None, None), "create"
    )
    options = [f"--gpu-architecture={arch}".encode(), b"--std=c++17"]
    array = (ctypes.c_char_p * len(options))(*options)
    code = nvrtc.nvrtcCompileProgram(program, len(options), array)
    if code:
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        raise CudaError(code, f"NVRTC cannot compile the judge's kernels: {log.value.decode(errors='replace')}")
    size = ctypes.c_size_t()
    _check(nvrtc, nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)), "size")
    image = ctypes.create_string_buffer(size.value)
    _check(nvrtc, nvrtc.nvrtcGetCUBIN(program, image), "image")
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return image.raw


def _check(nvrtc: ctypes.CDLL, code: int, what: str) -> None:
    if code:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise CudaError(code, f"NVRTC ({what}): {nvrtc.nvrtcGetErrorString(code).decode()}")

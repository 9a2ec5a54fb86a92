"""A thin wrapper of the CUDA runtime and the few driver calls it lacks: memory, IPC, events, kernels. No torch.

Runners of native candidates know CUDA through this alone; the judge uses it for what must not go through torch's
allocator. Every failing call raises `CudaError` with the call's name and CUDA's own words. Work goes to stream 0
unless a stream is named. Neighbours: cuda.py (judge), ../cuda_memory.py (runners), judge_kernels.py (device code).
"""

from __future__ import annotations

import ctypes
import functools
import glob
import re
import sysconfig
from collections.abc import Callable, Sequence
from typing import Any

IPC_HANDLE_BYTES = 64
_IPC_LAZY_PEER_ACCESS = 1
_STREAM_NON_BLOCKING = 1
_HOST_TO_DEVICE, _DEVICE_TO_HOST, _DEVICE_TO_DEVICE = 1, 2, 3
_POINTER_BUFFER_ID = 7
_MAPPED = 2
_AT_LEAST = 0
_OUT_OF_MEMORY = 2


class CudaError(RuntimeError):
    """A CUDA call failed. `code` is CUDA's number, 0 when the library itself is missing."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code

    @property
    def is_out_of_memory(self) -> bool:
        return self.code == _OUT_OF_MEMORY


class Cudart:
    """CUDA in this process. Nothing happens on the device before `init`."""

    def __init__(self) -> None:
        """Load libcudart and libcuda. Raise CudaError when one of them is not there."""
        self._runtime = _load_runtime()
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise CudaError(0, f"libcuda.so.1, the NVIDIA driver, is not there: {error}") from error
        self._runtime.cudaGetErrorString.restype = ctypes.c_char_p

    def init(self) -> None:
        """Create the primary context of the first visible device."""
        self._call("cudaFree", None)

    # -- memory -------------------------------------------------------------------------------------------------------

    def malloc(self, nbytes: int) -> int:
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(nbytes))
        return int(address.value or 0)

    def memory_info(self) -> tuple[int, int]:
        """(free, total) bytes of the device."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return int(free.value), int(total.value)

    def host_malloc(self, nbytes: int) -> int:
        """Page-locked host memory, which copies reach without a detour."""
        address = ctypes.c_void_p()
        self._call("cudaMallocHost", ctypes.byref(address), ctypes.c_size_t(nbytes))
        return int(address.value or 0)

    def host_register(self, address: int, nbytes: int) -> int:
        """Let the device use whole pages of this process's memory; their address there."""
        self._call("cudaHostRegister", ctypes.c_void_p(address), ctypes.c_size_t(nbytes), ctypes.c_uint(_MAPPED))
        there = ctypes.c_void_p()
        self._call("cudaHostGetDevicePointer", ctypes.byref(there), ctypes.c_void_p(address), ctypes.c_uint(0))
        return int(there.value or 0)

    def copy(self, target: int, source: int, nbytes: int, stream: int = 0) -> None:
        """Device to device, asynchronous."""
        self._copy(target, source, nbytes, _DEVICE_TO_DEVICE, stream)

    def upload(self, target: int, source: int, nbytes: int) -> None:
        """From page-locked host memory, asynchronous."""
        self._copy(target, source, nbytes, _HOST_TO_DEVICE, 0)

    def rows_download(
        self, target: int, source: int, pitch: int, width: int, count: int, stream: int
    ) -> Callable[[], None]:
        """What copies `count` rows of `width` bytes, `pitch` bytes apart, to page-locked host memory without gaps.

        Asynchronous. Everything but the call itself is done already, for where microseconds count.
        """
        places = (ctypes.c_void_p(target), ctypes.c_size_t(width), ctypes.c_void_p(source), ctypes.c_size_t(pitch))
        sizes = (ctypes.c_size_t(width), ctypes.c_size_t(count), ctypes.c_int(_DEVICE_TO_HOST))
        function = self._runtime.cudaMemcpy2DAsync
        arguments = (*places, *sizes, ctypes.c_void_p(stream))

        def download() -> None:
            self._check("cudaMemcpy2DAsync", function(*arguments))

        return download

    def _copy(self, target: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        places = (ctypes.c_void_p(target), ctypes.c_void_p(source), ctypes.c_size_t(nbytes))
        self._call("cudaMemcpyAsync", *places, ctypes.c_int(kind), ctypes.c_void_p(stream))

    def memset(self, target: int, value: int, nbytes: int, stream: int = 0) -> None:
        """Asynchronous."""
        place = (ctypes.c_void_p(target), ctypes.c_int(value), ctypes.c_size_t(nbytes))
        self._call("cudaMemsetAsync", *place, ctypes.c_void_p(stream))

    def address_range(self, address: int) -> tuple[int, int]:
        """(base, bytes) of the allocation that this address lies in."""
        base, size = ctypes.c_uint64(), ctypes.c_size_t()
        self._drive("cuMemGetAddressRange_v2", ctypes.byref(base), ctypes.byref(size), ctypes.c_uint64(address))
        return int(base.value), int(size.value)

    def buffer_id(self, address: int) -> int:
        """A number that no other allocation of this process has or had."""
        value = ctypes.c_uint64()
        place = ctypes.c_uint64(address)
        self._drive("cuPointerGetAttribute", ctypes.byref(value), ctypes.c_int(_POINTER_BUFFER_ID), place)
        return int(value.value)

    # -- between processes --------------------------------------------------------------------------------------------

    def ipc_handle(self, address: int) -> bytes:
        """What another process opens this allocation by."""
        handle = _IpcHandle()
        self._call("cudaIpcGetMemHandle", ctypes.byref(handle), ctypes.c_void_p(address))
        return ctypes.string_at(ctypes.byref(handle), IPC_HANDLE_BYTES)

    def ipc_open(self, handle: bytes) -> int:
        """Map another process's allocation; its address here."""
        address = ctypes.c_void_p()
        wanted = _IpcHandle.from_buffer_copy(handle)
        self._call("cudaIpcOpenMemHandle", ctypes.byref(address), wanted, ctypes.c_uint(_IPC_LAZY_PEER_ACCESS))
        return int(address.value or 0)

    def ipc_close(self, address: int) -> None:
        self._call("cudaIpcCloseMemHandle", ctypes.c_void_p(address))

    # -- order and time -----------------------------------------------------------------------------------------------

    def stream(self) -> int:
        """A new stream that does not wait for stream 0."""
        stream = ctypes.c_void_p()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(stream), ctypes.c_uint(_STREAM_NON_BLOCKING))
        return int(stream.value or 0)

    def event(self) -> int:
        event = ctypes.c_void_p()
        self._call("cudaEventCreate", ctypes.byref(event))
        return int(event.value or 0)

    def record(self, event: int) -> None:
        self._call("cudaEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(0))

    def wait(self, event: int) -> None:
        self._call("cudaEventSynchronize", ctypes.c_void_p(event))

    def elapsed_ns(self, first: int, second: int) -> float:
        """Device time between two recorded events that were waited for."""
        milliseconds = ctypes.c_float()
        pair = (ctypes.c_void_p(first), ctypes.c_void_p(second))
        self._call("cudaEventElapsedTime", ctypes.byref(milliseconds), *pair)
        return float(milliseconds.value) * 1e6

    def wait_for_stream(self, stream: int) -> None:
        """Raise CudaError for whatever went wrong in it."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def stream_wait(self, stream: int, address: int, value: int) -> None:
        """What follows in the stream waits until the u32 at `address` is `value` or more."""
        place = (ctypes.c_void_p(stream), ctypes.c_uint64(address), ctypes.c_uint32(value))
        self._drive("cuStreamWaitValue32_v2", *place, ctypes.c_uint(_AT_LEAST))

    def stream_write(self, stream: int, address: int, value: int) -> None:
        """Write a u32 when everything before it in the stream is over, and can be seen."""
        place = (ctypes.c_void_p(stream), ctypes.c_uint64(address), ctypes.c_uint32(value))
        self._drive("cuStreamWriteValue32_v2", *place, ctypes.c_uint(0))

    def synchronize(self) -> None:
        """Wait for all work of this process. Raise CudaError for whatever went wrong in it."""
        self._call("cudaDeviceSynchronize")

    def raise_last_error(self) -> None:
        """Raise CudaError when a launch was refused and nobody asked."""
        self._check("a kernel launch", self._runtime.cudaGetLastError())

    def reset_persisting_cache(self) -> None:
        """Lines that somebody pinned in the L2 are ordinary ones again."""
        self._call("cudaCtxResetPersistingL2Cache")

    # -- kernels ------------------------------------------------------------------------------------------------------

    def load_module(self, image: bytes) -> int:
        """Load a cubin into the current context."""
        module = ctypes.c_void_p()
        self._drive("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(image))
        return int(module.value or 0)

    def function(self, module: int, name: str) -> int:
        function = ctypes.c_void_p()
        self._drive("cuModuleGetFunction", ctypes.byref(function), ctypes.c_void_p(module), name.encode())
        return int(function.value or 0)

    def launch(
        self, function: int, grid: tuple[int, int], threads: int, arguments: Sequence[ctypes._SimpleCData[Any]]
    ) -> None:
        """Launch on stream 0. `arguments` have the kernel's own types."""
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
        shape = (*(ctypes.c_uint(size) for size in (*grid, 1, threads, 1, 1)), ctypes.c_uint(0))
        self._drive("cuLaunchKernel", ctypes.c_void_p(function), *shape, ctypes.c_void_p(0), pointers, None)

    def _call(self, name: str, *arguments: object) -> None:
        self._check(name, getattr(self._runtime, name)(*arguments))

    def _drive(self, name: str, *arguments: object) -> None:
        if code := getattr(self._driver, name)(*arguments):
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
            raise CudaError(code, f"{name}: {(text.value or b'unknown error').decode()} ({code})")

    def _check(self, name: str, code: int) -> None:
        if code:
            self._runtime.cudaGetLastError()  # forgotten, if it can be, so that the next call is judged alone
            raise CudaError(code, f"{name}: {self._runtime.cudaGetErrorString(code).decode()} ({code})")


class _IpcHandle(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_char * IPC_HANDLE_BYTES),)


@functools.cache
def find_library(pattern: str) -> str:
    """The path of a CUDA library: one that is loaded, torch's own, or the toolkit's. Raise CudaError when none is."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        loaded = re.search(rf"\s(/\S*/{pattern})$", maps.read(), re.MULTILINE)
    if loaded:
        return loaded[1]
    roots = {sysconfig.get_paths()[kind] for kind in ("purelib", "platlib")}
    folders = [f"{root}/nvidia/*/lib" for root in sorted(roots)] + ["/usr/local/cuda*/lib64"]
    found = [path for folder in folders for path in sorted(glob.glob(f"{folder}/*.so*"))]
    for path in found:
        if re.fullmatch(pattern, path.rsplit("/", 1)[-1]):
            return path
    raise CudaError(0, f"no library {pattern} in {', '.join(folders)}: install the CUDA runtime")


def _load_runtime() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(find_library(r"libcudart\.so\.1[0-9.]*"))
    except OSError as error:
        raise CudaError(0, f"libcudart cannot be loaded: {error}") from error

"""A runner's side of a CUDA device: T's memories opened by handle, a pool for outputs, own memory shown to T.

Stands where runner.py's `Memory` stands on a CPU. `attach` runs while the runner is still trusted code, because CUDA's
initialisation makes system calls that a candidate may not. Mapped memories are writable here (CUDA knows no other
kind): T compares them afterwards. No torch. Neighbours: devices/cudart.py, devices/cuda_outputs.py (T's side).
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from typing import Any

from kernelharness import landlock
from kernelharness.channel import REGION_PREFIX, REPORT_BYTES, TURN_ALLOWED, TURN_ENDED, Board, Failure
from kernelharness.devices.cudart import CudaError, Cudart
from kernelharness.isolation import DeviceRights
from kernelharness.languages.native import CUDA
from kernelharness.runner import ArmError

_ADDRESS = struct.Struct(f"<Q{REPORT_BYTES - 8}x")
_GRANULE = 512
_SLAB_BYTES = 64 << 20
_PAGE = 2 << 20
"""What CUDA shares between processes is whole pages of this size, so no allocation shares one with another."""
_OPENED_FOR_WRITING = ("/dev/shm", "/proc/self/task")
"""By CUDA, beside its devices: where tools ask to be loaded, and the names of its own threads."""
_OUT_OF_MEMORY = ("CUDA out of memory", "out of memory", "allocate memory")
_BAD_ACCESS = (
    "illegal memory access",
    "misaligned address",
    "unspecified launch failure",
    "invalid address space",
    "global/shared address space",
)


@dataclass(frozen=True)
class Region:
    """A range of device memory."""

    address: int
    nbytes: int


class Block:
    """A piece of the pool; given back with the object."""

    __slots__ = ("_free", "address")

    def __init__(self, address: int, free: list[int]) -> None:
        self.address = address
        self._free = free

    def __del__(self) -> None:
        self._free.append(self.address)


class DevicePool:
    """Output memory of a native candidate: as a caching allocator, it never gives anything back to the device.

    What was given back last is taken first. A run's results are let go of from the last to the first, so those of the
    next run lie where they lay, and T looks there as soon as a call has returned.
    """

    def __init__(self, cudart: Cudart, stream: int) -> None:
        self._cudart = cudart
        self._stream = stream
        self._free: dict[int, list[int]] = {}
        self._next = self._end = 0

    def take(self, nbytes: int) -> Block:
        """At least `nbytes`, 512-byte aligned. Raise MemoryError."""
        size = -(-max(nbytes, 1) // _GRANULE) * _GRANULE
        free = self._free.setdefault(size, [])
        return Block(free.pop() if free else self._carve(size), free)

    def copy(self, target: Block, source: Block, nbytes: int) -> None:
        self._cudart.copy(target.address, source.address, nbytes, self._stream)

    def _carve(self, size: int) -> int:
        if self._next + size > self._end:
            slab = -(-max(size, _SLAB_BYTES) // _PAGE) * _PAGE
            try:
                self._next = self._cudart.malloc(slab)
            except CudaError as error:
                if error.is_out_of_memory:
                    raise MemoryError(f"cannot allocate {slab} bytes of device memory for outputs") from error
                raise
            self._end = self._next + slab
        address = self._next
        self._next += size
        return address


class CudaGate:
    """Counts on the board that the device waits for and writes to, in the order of the stream that calls are given."""

    def __init__(self, cudart: Cudart, stream: int, board: Board) -> None:
        self._cudart = cudart
        self._stream = stream
        self._turns = cudart.host_register(board.address_of_turns(), mmap.PAGESIZE)

    def wait(self, calls: int) -> None:
        self._cudart.stream_wait(self._stream, self._turns + TURN_ALLOWED, calls)

    def tell_end(self, calls: int) -> None:
        self._cudart.stream_write(self._stream, self._turns + TURN_ENDED, calls)


class CudaMemory:
    """What `runner.Memory` is on a CPU: T's memories by name, and what a runner on CUDA has to do around a run."""

    device_type = CUDA

    def __init__(
        self, fds: dict[str, int], regions: dict[str, dict[str, Any]], board: Board, *, uses_torch: bool
    ) -> None:
        """`regions`: name -> handle (hex) and bytes, as T exported them."""
        self._fds = fds
        self._board = board
        self._handles = regions
        self._uses_torch = uses_torch
        self._regions: dict[str, Region] = {}
        self._base_of: dict[int, int] = {}
        self._ids: dict[int, int] = {}
        self._shown = 0
        self.stream = 0
        self.rights = DeviceRights((*landlock.nvidia_devices(), *_OPENED_FOR_WRITING), is_cuda=True)

    def attach(self) -> None:
        """Initialise CUDA, open T's memories, and let torch do once what needs more rights than a candidate has."""
        os.environ["CUDA_CACHE_DISABLE"] = "1"
        if self._uses_torch:
            _warm_torch()
        self._cudart = Cudart()
        self._cudart.init()
        for name, region in self._handles.items():
            self._regions[name] = Region(self._cudart.ipc_open(bytes.fromhex(region["handle"])), region["bytes"])
        if not self._uses_torch:
            self.stream = self._cudart.stream()
        self.pool = DevicePool(self._cudart, self.stream)
        self.gate = CudaGate(self._cudart, self.stream, self._board)
        self._scratch = self._cudart.malloc(_PAGE)
        self.touch()
        self.finish()

    def map(self, name: str) -> Region:
        return self._regions[name]

    def place(self, name: str, offset: int, nbytes: int, *, refilled: bool) -> int:
        """Where T wrote them."""
        return self._regions[name].address + offset

    def fd(self, name: str) -> int:
        return self._fds[name]

    def finish(self) -> None:
        """Wait for the stream that calls were given, as whoever uses their results would; what was left on others is
        late. Raise ArmError for what went wrong on the device, launches that were refused included.
        """
        try:
            self._cudart.wait_for_stream(self.stream)
            self._cudart.raise_last_error()
        except CudaError as error:
            raise ArmError(self.failure_of(error), str(error)) from error

    def fetch(self) -> None:
        """Nothing to do: T copies inputs to the device itself."""

    def touch(self) -> None:
        """The least work that makes the device switch to this process, as every call does."""
        self._cudart.memset(self._scratch, 0, 4, self.stream)

    def show(self, board: Board, packed: bytes) -> None:
        """Let T open the allocations that these output reports point into. Cheap when it has all of them already."""
        bases = {self._base(board, address) for (address,) in _ADDRESS.iter_unpack(packed)}
        if any(base and self._cudart.buffer_id(base) != self._ids[base] for base in bases):
            # Something was freed and its address given out again: T still holds what lay there before.
            self._base_of.clear()
            self._ids.clear()
            for (address,) in _ADDRESS.iter_unpack(packed):
                self._base(board, address)

    def failure_of(self, error: Exception) -> Failure:
        """What an error says, ours or torch's."""
        text = str(error)
        if any(words in text for words in _OUT_OF_MEMORY):
            return Failure.OOM
        return Failure.MEMORY if any(words in text for words in _BAD_ACCESS) else Failure.ERROR

    def _base(self, board: Board, address: int) -> int:
        if address in self._base_of:
            return self._base_of[address]
        try:
            base, size = self._cudart.address_range(address)
            if base not in self._ids:
                names = {region.address: name for name, region in self._regions.items()}
                known = REGION_PREFIX + names[base].encode() if base in names else b""
                handle = known or self._cudart.ipc_handle(base)
                board.write_segment(self._shown, base, size, handle)
                self._shown += 1
                self._ids[base] = self._cudart.buffer_id(base)
        except CudaError:
            base = 0  # not memory that can be shared: T says so when it looks for it
        self._base_of[address] = base
        return base


def _warm_torch() -> None:
    import torch

    torch.cuda.init()  # type: ignore[no-untyped-call]
    square = torch.ones(64, 64, device="cuda")
    torch.mm(square, square)
    torch.cuda.Event(blocking=True, enable_timing=True).record()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()

"""A runner's side of an accelerator in host-copy mode: T's memory arrives by copy, results go back the same way.

Stands where runner.py's `Memory` stands on a CPU. T's memfds are mapped as on a CPU; what a call is to read of them
lies on the device at an address of its own, filled at the begin of every run, and results are copied to host memory,
where T reads them, before the run is said to be done. All of it is timed. No torch: only native languages come here.
Neighbours: devices/accelerator.py (the vendor's part), devices/host_copy.py (T's side), host_memory.py.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from kernelharness.channel import REPORT_BYTES, Board, Failure
from kernelharness.cuda_memory import Block
from kernelharness.devices.accelerator import Accelerator, AcceleratorError, load_accelerator
from kernelharness.host_memory import Block as HostBlock
from kernelharness.host_memory import HostMemory
from kernelharness.languages.native import OTHER
from kernelharness.runner import ArmError

_ADDRESS = struct.Struct("<Q")


class AcceleratorPool:
    """Output memory on the device: what was taken once is kept, as every arm's allocator does."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._free: dict[int, list[int]] = {}
        self.sizes: dict[int, int] = {}
        """Of every block, by address."""

    def take(self, nbytes: int) -> Block:
        """Raise MemoryError when the device has no more."""
        free = self._free.setdefault(nbytes, [])
        address = free.pop() if free else self._accelerator.allocate(nbytes)
        self.sizes[address] = nbytes
        return Block(address, free)

    def copy(self, target: Block, source: Block, nbytes: int) -> None:
        with _told():
            self._accelerator.copy(target.address, source.address, nbytes)


@dataclass(frozen=True)
class _Place:
    """A part of T's memory, and the device's copy of it."""

    address: int
    source: int
    nbytes: int


class HostCopyMemory(HostMemory):
    """Implements runner.Memory."""

    device_type = OTHER

    def __init__(self, fds: dict[str, int], accelerator: str) -> None:
        """`accelerator`: 'module:Class'."""
        super().__init__(fds, frozenset(), {})
        self._accelerator = load_accelerator(accelerator)
        self.rights = self._accelerator.rights
        self._places: dict[tuple[str, int, int], _Place] = {}
        self._refilled: _Place | None = None
        self.pool = self._blocks = AcceleratorPool(self._accelerator)
        self._landings: dict[tuple[int, int], HostBlock] = {}
        """Host memory of results, by their number in a run and their size."""

    def attach(self) -> None:
        self.stream = self._accelerator.open()

    def place(self, name: str, offset: int, nbytes: int, *, refilled: bool) -> int:
        source = super().place(name, offset, nbytes, refilled=refilled)
        if refilled:
            place = self._refilled = self._window(source, nbytes)
        else:
            key = (name, offset, nbytes)
            if key not in self._places:
                self._places[key] = _Place(self._accelerator.allocate(nbytes), source, nbytes)
            place = self._places[key]
        self._fill(place)
        return place.address

    def _window(self, source: int, nbytes: int) -> _Place:
        """In the block of the last one, when it is large enough."""
        last = self._refilled
        if last is not None and self._blocks.sizes[last.address] >= nbytes:
            return _Place(last.address, source, nbytes)
        self._refilled = None
        if last is not None:
            self._accelerator.free(last.address)
        address = self._accelerator.allocate(nbytes)
        self._blocks.sizes[address] = nbytes
        return _Place(address, source, nbytes)

    def _fill(self, place: _Place) -> None:
        with _told():
            self._accelerator.write(place.address, place.source, place.nbytes)

    def fetch(self) -> None:
        if self._refilled is not None:
            self._fill(self._refilled)

    def show(self, board: Board, packed: bytes) -> None:
        """Copy the results to host memory and report them there."""
        reports = bytearray(packed)
        with _told():
            self._accelerator.synchronize()
            for index, at in enumerate(range(0, len(packed), REPORT_BYTES)):
                (address,) = _ADDRESS.unpack_from(packed, at)
                nbytes = self._blocks.sizes[address]
                if (index, nbytes) not in self._landings:
                    self._landings[index, nbytes] = HostBlock(nbytes)
                landing = self._landings[index, nbytes].address
                self._accelerator.read(landing, address, nbytes)
                _ADDRESS.pack_into(reports, at, landing)
        board.write_reports(bytes(reports))

    def finish(self) -> None:
        with _told():
            self._accelerator.synchronize()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What the device says, without our traceback around it."""
    try:
        yield
    except AcceleratorError as error:
        raise ArmError(Failure.MEMORY if error.bad_access else Failure.ERROR, str(error)) from error

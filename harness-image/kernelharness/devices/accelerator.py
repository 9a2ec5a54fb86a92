"""What the maker of an accelerator writes: one class, `Accelerator`, found by the entry point of its vendor's name.

The image's package declares it, and nothing in kernelharness changes (examples/custom-accelerator does all of it):

    [project.entry-points."kernelharness.devices"]
    acme = "acme_kernelharness:Acme"        # for profiles with `vendor: acme`

An object lives in the judge and one in each candidate's process. The judge's says what the device is, what it can move
and whether it is at work; the candidate's holds memory and moves data. Neither side shares device memory with the
other: the device works in host-copy mode (../host_copy.py, host_copy.py). No torch: native runners have none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.metadata import EntryPoint, entry_points

from kernelharness.isolation import NO_DEVICE, DeviceRights

GROUP = "kernelharness.devices"
"""The entry points' group; their names are vendors of AcceleratorProfiles."""


class AcceleratorError(RuntimeError):
    """The device, or its driver, refused or failed. The text is what the candidate's author reads."""

    def __init__(self, text: str, *, bad_access: bool = False) -> None:
        """`bad_access`: a kernel touched memory that is not there, or not its own."""
        super().__init__(text)
        self.bad_access = bad_access


class Accelerator(ABC):
    """A device whose memory only its driver reaches. Addresses are plain numbers, sizes bytes.

    Making an object does nothing but load the driver's libraries; `open` touches the device. Whatever fails raises
    AcceleratorError, and `allocate` MemoryError when the device has no more.
    """

    rights: DeviceRights = NO_DEVICE
    """What the driver needs of the system in a candidate's process: device files, and the requests of its calls.

    The process has given up its other files and its capabilities when it opens the device, and may open nothing for
    writing, make no socket and no process afterwards. Give as little as possible: a candidate has the same rights.
    """
    name: str
    """The device's own: 'Acme NPU-1'. Set by `open`."""
    driver: str = ""
    """Of the driver, with its version. Set by `open`."""

    @abstractmethod
    def open(self) -> int:
        """Take the device into use, once. What `context.stream` of problem.h holds: a queue, as the driver names it."""

    @abstractmethod
    def allocate(self, nbytes: int) -> int:
        """The address, a multiple of 64, of memory that this process alone has."""

    @abstractmethod
    def free(self, address: int) -> None: ...

    @abstractmethod
    def write(self, target: int, source: int, nbytes: int) -> None:
        """From host memory at `source` to the device, behind what the queue holds; `source` is free on return."""

    @abstractmethod
    def read(self, target: int, source: int, nbytes: int) -> None:
        """From the device to host memory, behind what the queue holds; it is there on return."""

    @abstractmethod
    def copy(self, target: int, source: int, nbytes: int) -> None:
        """On the device, behind what the queue holds."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for the queue that calls are given, not for others; raise what went wrong in it."""

    def is_idle(self) -> bool | None:
        """Whether the device has nothing to do, for whichever process. None: it does not say.

        Asked in the judge right after a candidate has synchronized: False is BACKGROUND_WORK, so say it of kernels and
        copies only, never of the driver's own housekeeping.
        """
        return None

    def flush_caches(self) -> None:  # noqa: B027  (not every device has caches, or lets them be flushed)
        """Leave nothing of earlier calls in the device's caches. Called in the judge, before every timed run."""

    def peak_bytes(self) -> int | None:
        """The most memory that was allocated at once since a process opened the device last. None: unknown."""
        return None


class NoDevice(ValueError):
    """Nothing that is installed serves this vendor's devices."""


def find_accelerator(vendor: str) -> str:
    """'module:Class' of the vendor's plugin. Raise NoDevice, saying what to install, when there is none."""
    found = {entry.name: entry.value for entry in entry_points(group=GROUP)}
    if vendor not in found:
        there = ", ".join(sorted(found)) or "none"
        raise NoDevice(
            f"no device plugin for vendor {vendor!r}: build the image with a package that has an entry point of this"
            f" name in the group {GROUP}; installed: {there}"
        )
    return found[vendor]


def load_accelerator(value: str) -> Accelerator:
    """An object of the class that an entry point names. Raise AcceleratorError when it is no such class."""
    loaded = EntryPoint("", value, GROUP).load()
    accelerator = loaded() if isinstance(loaded, type) else None
    if not isinstance(accelerator, Accelerator):
        raise AcceleratorError(
            f"the device plugin {value} is no subclass of kernelharness.devices.accelerator.Accelerator"
        )
    return accelerator

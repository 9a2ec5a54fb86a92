"""The Acme NPU-1 for kernelharness: the vendor's runtime, libacme.so, behind the judge's `Accelerator`."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path
from typing import Any

from kernelharness.devices.accelerator import Accelerator, AcceleratorError
from kernelharness.isolation import DeviceRights

REGISTERS = os.environ.get("ACME_DEVICE", f"/dev/shm/acme0-{os.getuid()}")
"""Where a card would be /dev/acme0, this one has a page of memory. It needs no ioctl: its doorbell is that page."""
_BAD_ACCESS = "the device has no memory"


class Acme(Accelerator):
    rights = DeviceRights(paths=(REGISTERS,))

    def __init__(self) -> None:
        compiler = shutil.which("acmecc")
        if compiler is None:
            raise AcceleratorError("the Acme SDK is not installed: there is no acmecc on PATH")
        # By the same name as kernels are linked with, so that they find it loaded.
        self._library = ctypes.CDLL(str(Path(compiler).resolve().parents[1] / "lib" / "libacme.so"))
        for name in ("acme_default_queue", "acme_malloc"):
            getattr(self._library, name).restype = ctypes.c_void_p
        self._library.acme_peak_bytes.restype = ctypes.c_longlong
        self._library.acme_last_error.restype = ctypes.c_char_p

    def open(self) -> int:
        _plug_in()
        self._call("acme_open", REGISTERS.encode())
        self.name = "Acme NPU-1"
        self.driver = "acme 1.0"
        queue = self._library.acme_default_queue()
        self._queue = ctypes.c_void_p(queue)
        return int(queue)

    def allocate(self, nbytes: int) -> int:
        address = self._library.acme_malloc(ctypes.c_size_t(nbytes))
        if not address:
            raise MemoryError(f"the device has no {nbytes} bytes left")
        return int(address)

    def free(self, address: int) -> None:
        self._library.acme_free(ctypes.c_void_p(address))

    def write(self, target: int, source: int, nbytes: int) -> None:
        self._move("acme_write", target, source, nbytes)

    def read(self, target: int, source: int, nbytes: int) -> None:
        self._move("acme_read", target, source, nbytes)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        self._move("acme_copy", target, source, nbytes)

    def synchronize(self) -> None:
        self._call("acme_synchronize", self._queue)

    def is_idle(self) -> bool:
        return bool(self._library.acme_is_idle())

    def peak_bytes(self) -> int:
        return int(self._library.acme_peak_bytes())

    def _move(self, name: str, target: int, source: int, nbytes: int) -> None:
        self._call(name, ctypes.c_void_p(target), ctypes.c_void_p(source), ctypes.c_size_t(nbytes))

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self._library, name)(*arguments) != 0:
            text = self._library.acme_last_error().decode(errors="replace")
            raise AcceleratorError(text, bad_access=_BAD_ACCESS in text)


def _plug_in() -> None:
    """What is done to a card by hand. The judge does it; a candidate's process may make no files, and finds it done."""
    if not os.path.exists(REGISTERS):
        try:
            with open(REGISTERS, "wb") as page:
                page.truncate(4096)
        except OSError as error:
            raise AcceleratorError(f"no device at {REGISTERS}: {error.strerror}") from error

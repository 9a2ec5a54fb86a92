"""A torch that says its tensors lie on a device which this machine does not have.

Candidates ask for it (`x.is_cuda`, `device=x.device`, `torch.cuda.current_stream()`) before they launch what is to be
compiled. Tensors are real and lie on the CPU, so shapes, dtypes and alignments, which kernels are specialised by, are
those of a run; values that only a kernel would have written are whatever memory holds. For calls of a candidate that is
compiled and not run, in a process of its own. Neighbours: triton.py, cutedsl.py, flydsl.py (what replaces launches).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Limits:
    """What compilers ask of a device."""

    warp_size: int
    units: int
    """Streaming multiprocessors, or compute units."""
    shared_bytes: int
    """That one block can have."""


_KNOWN = {
    "gfx942": Limits(64, 304, 64 << 10),
    "gfx950": Limits(64, 256, 160 << 10),
    "sm_80": Limits(32, 108, 163 << 10),
    "sm_90": Limits(32, 132, 227 << 10),
    "sm_100": Limits(32, 148, 227 << 10),
}


def limits_of(arch: str) -> Limits:
    """The data sheet's for an arch that is known here, else the least that every device of its vendor has."""
    return _KNOWN.get(arch.rstrip("af") if arch.startswith("sm_") else arch) or (
        Limits(64, 64, 64 << 10) if arch.startswith("gfx") else Limits(32, 64, 48 << 10)
    )


@contextlib.contextmanager
def pretending(arch: str) -> Iterator[None]:
    """Until it ends, torch calls the CPU `cuda:0`, which is also what it calls AMD devices."""
    limits = limits_of(arch)
    properties = SimpleNamespace(
        name=arch, multi_processor_count=limits.units, warp_size=limits.warp_size, total_memory=64 << 30
    )
    properties.shared_memory_per_block_optin = limits.shared_bytes
    numbers = arch.removeprefix("sm_").rstrip("af")
    capability = (int(numbers[:-1]), int(numbers[-1])) if arch.startswith("sm_") else (9, 4)
    stream = SimpleNamespace(cuda_stream=0, device=torch.device("cuda", 0))
    replaced = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "current_stream": lambda device=None: stream,
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: capability,
        "synchronize": lambda device=None: None,
        "device": lambda device=None: contextlib.nullcontext(),
    }
    with contextlib.ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        stack.enter_context(_Elsewhere())
        yield


_IS_CUDA: Any = torch.Tensor.is_cuda
_DEVICE: Any = torch.Tensor.device
"""Attributes, as torch's functions are told of them: by their getters."""


class _Elsewhere(TorchFunctionMode):
    """Arguments that name the device name the CPU instead; questions for the device are answered with its name."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == _IS_CUDA.__get__:
            return True
        if func == _DEVICE.__get__:
            return torch.device("cuda", 0)
        if func is torch.Tensor.get_device:
            return 0
        if func is torch.Tensor.cuda:
            return args[0]
        return func(*(_here(value) for value in args), **{name: _here(value) for name, value in (kwargs or {}).items()})


def _here(value: Any) -> Any:
    """The CPU for anything that names a CUDA device."""
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    if type(value) is str and (value == "cuda" or value.startswith("cuda:")):
        return "cpu"
    return value

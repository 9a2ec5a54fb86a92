"""U for native languages: a library called by ctypes on mapped memory; torch is never imported.

Outputs are allocated in every call, as a caller would, from the retaining allocator that all arms share. Runs in U,
after isolation. Neighbours: runner.py (the loop), languages/native.py (the calling convention), layout.py.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from typing import Any

from kernelharness.channel import Failure, Order, OutputReport, Reply, pack_report
from kernelharness.languages.native import CPU, CUDA, NativeError, NativeKernel, PreparedCall, TensorSpec
from kernelharness.languages.signature import scalar_arguments
from kernelharness.layout import ALIGNMENT, Layout, layout_of
from kernelharness.protocol import CaseFact, TensorFact
from kernelharness.runner import ArmError, Memory

_ADDRESS_BYTES = 8
_NO_MEMORY = "out of memory"
"""What problem.h makes of std::bad_alloc."""


class NativeArm:
    """The candidate's library, bound to one case at a time."""

    def __init__(self, config: dict[str, Any], memory: Memory) -> None:
        self._memory = memory
        self._pool = memory.pool
        self._facts = [CaseFact.model_validate(fact) for fact in config["facts"]]
        self._kernel: NativeKernel | None = None
        self._state: Any = None
        self._parameters: list[int] = []
        self._outputs: Layout = layout_of([])
        self._sizes: tuple[int, ...] = ()
        self._templates: list[bytes] = []

    def load(self, case: int, state_offset: int) -> None:
        try:
            if self._kernel is None:
                path = f"/proc/self/fd/{self._memory.fd('binary')}"
                self._kernel = NativeKernel(path, CUDA if self._memory.is_device else CPU)
            fact = self._facts[case]
            base = _address(self._memory.map("gallery")) + state_offset if fact.parameters else 0
            self._parameters = [base + field.offset for field in layout_of(fact.parameters).fields]
            self._prepare_state(fact)
        except NativeError as error:
            raise ArmError(Failure.LOAD, str(error)) from error
        self._outputs = layout_of(fact.outputs)
        self._sizes = tuple(-(-max(field.nbytes, 1) // ALIGNMENT) * ALIGNMENT for field in self._outputs.fields)
        self._templates = [
            pack_report(OutputReport(0, field.dtype, field.shape, _strides(field.shape)))[_ADDRESS_BYTES:]
            for field in self._outputs.fields
        ]

    def _prepare_state(self, fact: CaseFact) -> None:
        assert self._kernel is not None
        self._state = None
        if self._kernel.has_state and fact.parameters:
            specs = _specs(fact.parameters)
            size = self._kernel.state_size(specs, self._parameters)
            self._state = self._pool.take(-(-max(size, 1) // ALIGNMENT) * ALIGNMENT)
            self._kernel.init(specs, self._parameters, self._state.address, self._memory.stream)

    def prepare(self, case: int, memory: str, offsets: Sequence[int]) -> list[PreparedCall]:
        assert self._kernel is not None
        fact = self._facts[case]
        base = _address(self._memory.map(memory))
        specs = [*_specs(fact.outputs), *_specs(fact.inputs), *_specs(fact.parameters)]
        fields = layout_of(fact.inputs).fields
        scalars = scalar_arguments(fact)
        first = len(fact.outputs)
        calls: list[PreparedCall] = []
        for offset in offsets:
            call = self._kernel.prepare(specs, scalars, self._memory.stream, self._state.address if self._state else 0)
            addresses = [*(base + offset + field.offset for field in fields), *self._parameters]
            for index, address in enumerate(addresses, first):
                call.bind(index, address)
            calls.append(call)
        return calls

    def call(self, prepared: PreparedCall) -> list[Any]:
        blocks = [self._pool.take(size) for size in self._sizes]
        for index, block in enumerate(blocks):
            prepared.bind(index, block.address)
        try:
            prepared()
        except NativeError as error:  # the kernel's own words, without our traceback around them
            failure = Failure.OOM if str(error) == _NO_MEMORY else Failure.ERROR
            raise ArmError(failure, str(error)) from error
        return blocks

    def copy(self, result: list[Any]) -> list[Any]:
        copies = [self._pool.take(size) for size in self._sizes]
        for source, target, size in zip(result, copies, self._sizes, strict=True):
            self._pool.copy(target, source, size)
        return copies

    def report(self, results: list[list[Any]]) -> tuple[bytes, int]:
        parts = [
            block.address.to_bytes(_ADDRESS_BYTES, "little") + template
            for blocks in results
            for block, template in zip(blocks, self._templates, strict=True)
        ]
        return b"".join(parts), len(parts)

    def handle(self, order: Order, results: list[Any]) -> Reply:
        raise ArmError(Failure.ERROR, f"a candidate does not know {order.kind.name}")


def _specs(tensors: Sequence[TensorFact]) -> list[TensorSpec]:
    return [TensorSpec(tensor.dtype, tuple(tensor.shape)) for tensor in tensors]


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _address(mapped: Any) -> int:
    """Of a region of a device, or of a read-only mapping, which ctypes refuses to take the address of."""
    if not isinstance(mapped, mmap.mmap):
        return int(mapped.address)
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

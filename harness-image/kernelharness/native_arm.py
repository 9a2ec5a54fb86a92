"""U for native languages: a library called by ctypes on mapped memory; torch is never imported.

Outputs are allocated in every call, as a caller would, from the retaining allocator that all arms share. Runs in U,
after isolation. Neighbours: runner.py (the loop), languages/native.py (the calling convention), layout.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from kernelharness.channel import Failure, Order, OutputReport, Reply, pack_report
from kernelharness.languages.native import NativeError, NativeKernel, PreparedCall, TensorSpec
from kernelharness.languages.signature import scalar_arguments
from kernelharness.layout import ALIGNMENT, Layout, layout_of
from kernelharness.protocol import CaseFact, TensorFact
from kernelharness.runner import ArmError, Memory

_ADDRESS_BYTES = 8
_NO_MEMORY = "out of memory"
"""What problem.h makes of std::bad_alloc."""

_libc = ctypes.CDLL(None)
_allocate = _libc.aligned_alloc
_allocate.restype = ctypes.c_void_p
_allocate.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
_free = _libc.free
_free.argtypes = (ctypes.c_void_p,)
_memcpy = _libc.memcpy
_memcpy.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _Block:
    """One allocation, freed with the object."""

    __slots__ = ("address",)

    def __init__(self, nbytes: int) -> None:
        self.address = _allocate(ALIGNMENT, nbytes)
        if not self.address:
            raise MemoryError(f"cannot allocate {nbytes} bytes for an output")

    def __del__(self) -> None:
        _free(self.address)


class NativeArm:
    """The candidate's library, bound to one case at a time."""

    def __init__(self, config: dict[str, Any], memory: Memory) -> None:
        self._memory = memory
        self._facts = [CaseFact.model_validate(fact) for fact in config["facts"]]
        self._kernel: NativeKernel | None = None
        self._state: _Block | None = None
        self._parameters: list[int] = []
        self._outputs: Layout = layout_of([])
        self._sizes: tuple[int, ...] = ()
        self._templates: list[bytes] = []

    def load(self, case: int, state_offset: int) -> None:
        try:
            if self._kernel is None:
                self._kernel = NativeKernel(f"/proc/self/fd/{self._memory.fd('binary')}")
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
            self._state = _Block(-(-max(size, 1) // ALIGNMENT) * ALIGNMENT)
            self._kernel.init(specs, self._parameters, self._state.address)

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
            call = self._kernel.prepare(specs, scalars, state=self._state.address if self._state else 0)
            addresses = [*(base + offset + field.offset for field in fields), *self._parameters]
            for index, address in enumerate(addresses, first):
                call.bind(index, address)
            calls.append(call)
        return calls

    def call(self, prepared: PreparedCall) -> list[_Block]:
        blocks = [_Block(size) for size in self._sizes]
        for index, block in enumerate(blocks):
            prepared.bind(index, block.address)
        try:
            prepared()
        except NativeError as error:  # the kernel's own words, without our traceback around them
            failure = Failure.OOM if str(error) == _NO_MEMORY else Failure.ERROR
            raise ArmError(failure, str(error)) from error
        return blocks

    def copy(self, result: list[_Block]) -> list[_Block]:
        copies = [_Block(size) for size in self._sizes]
        for source, target, size in zip(result, copies, self._sizes, strict=True):
            _memcpy(target.address, source.address, size)
        return copies

    def report(self, results: list[list[_Block]]) -> tuple[bytes, int]:
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

"""U for native languages: a library called by ctypes on mapped memory; torch is never imported.

Outputs are allocated in every call, as a caller would, from the retaining allocator that all arms share; with backward,
so is what forward saves. Runs in U, after isolation. Neighbours: runner.py (the loop), languages/native.py (the calling
convention), layout.py, deferred.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kernelharness.channel import Failure, Order, OutputReport, Reply, pack_report
from kernelharness.deferred import Deferred
from kernelharness.languages.native import NativeError, NativeKernel, PreparedCall, TensorSpec
from kernelharness.languages.signature import scalar_arguments
from kernelharness.layout import ALIGNMENT, layout_of
from kernelharness.protocol import CaseFact, TensorFact
from kernelharness.runner import ArmError, Memory

_ADDRESS_BYTES = 8
_NO_MEMORY = "out of memory"
"""What problem.h makes of std::bad_alloc."""


@dataclass(frozen=True)
class Slot:
    """Calls with everything bound but what each run allocates."""

    forward: PreparedCall
    backward: PreparedCall | None = None
    results_at: int = 0
    """The first of backward's tensors that is an output of forward."""


class NativeArm:
    """The candidate's library, bound to one case at a time."""

    def __init__(self, config: dict[str, Any], memory: Memory) -> None:
        self._memory = memory
        self._pool = memory.pool
        self._facts = [CaseFact.model_validate(fact) for fact in config["facts"]]
        self._kernel: NativeKernel | None = None
        self._state: Any = None
        self._parameters: list[int] = []
        self._result_sizes: tuple[int, ...] = ()
        self._gradient_sizes: tuple[int, ...] = ()
        self._saved_bytes = 0
        self._deferred: Deferred | None = None
        """Backward passes of the run; none when each follows its forward, as in timed runs."""
        self._templates: list[bytes] = []

    def load(self, case: int, state_offset: int) -> None:
        try:
            if self._kernel is None:
                path = f"/proc/self/fd/{self._memory.fd('binary')}"
                self._kernel = NativeKernel(path, self._memory.device_type)
            fact = self._facts[case]
            layout = layout_of(fact.parameters)
            base = self._memory.place("gallery", state_offset, layout.stride, refilled=False) if layout.fields else 0
            self._parameters = [base + field.offset for field in layout.fields]
            self._prepare_state(fact)
        except NativeError as error:
            raise ArmError(Failure.LOAD, str(error)) from error
        outputs = layout_of(fact.outputs).fields
        sizes = tuple(_padded(field.nbytes) for field in outputs)
        self._result_sizes, self._gradient_sizes = sizes[: len(fact.results)], sizes[len(fact.results) :]
        self._templates = [
            pack_report(OutputReport(0, field.dtype, field.shape, _strides(field.shape)))[_ADDRESS_BYTES:]
            for field in outputs
        ]

    def _prepare_state(self, fact: CaseFact) -> None:
        assert self._kernel is not None
        self._state = None
        if fact.backward:
            tensors = _specs([*fact.results, *fact.arguments, *fact.parameters])
            self._saved_bytes = self._kernel.saved_size(tensors, scalar_arguments(fact))
            if self._saved_bytes < 0:
                raise NativeError(f"saved_size() returned {self._saved_bytes}")
        elif self._kernel.has_state and fact.parameters:
            specs = _specs(fact.parameters)
            size = self._kernel.state_size(specs, self._parameters)
            self._state = self._pool.take(_padded(size))
            self._kernel.init(specs, self._parameters, self._state.address, self._memory.stream)

    def prepare(self, case: int, memory: str, offsets: Sequence[int]) -> list[Slot]:
        assert self._kernel is not None
        fact = self._facts[case]
        self._deferred = Deferred() if fact.backward and memory == "gallery" else None
        layout = layout_of(fact.inputs)
        base = self._memory.place(memory, offsets[0], len(offsets) * layout.stride, refilled=True)
        scalars = scalar_arguments(fact)
        stream, state = self._memory.stream, self._state.address if self._state else 0
        specs = _specs([*fact.results, *fact.arguments, *fact.parameters])
        before = _specs([*fact.gradients, *fact.cotangents])
        slots: list[Slot] = []
        for offset in offsets:
            addresses = [base + offset - offsets[0] + field.offset for field in layout.fields]
            cotangents = addresses[len(fact.arguments) :]
            operands = [*addresses[: len(fact.arguments)], *self._parameters]
            forward = self._kernel.prepare(specs, scalars, stream, state)
            _bind(forward, len(fact.results), operands)
            if not fact.backward:
                slots.append(Slot(forward))
                continue
            backward = self._kernel.prepare([*before, *specs], scalars, stream, symbol="backward")
            _bind(backward, len(fact.gradients), cotangents)
            _bind(backward, len(before) + len(fact.results), operands)
            slots.append(Slot(forward, backward, len(before)))
        return slots

    def call(self, prepared: Slot) -> list[Any]:
        results = self._take(self._result_sizes)
        _bind(prepared.forward, 0, [block.address for block in results])
        if prepared.backward is None:
            _run(prepared.forward)
            return results
        saved = self._pool.take(_padded(self._saved_bytes)) if self._saved_bytes else None
        prepared.forward.bind_block(saved.address if saved else 0)
        _run(prepared.forward)
        if self._deferred is None:
            return [*results, *self._backward(prepared, results, saved)]
        # Backward must not be what finishes the outputs: they are looked at as forward left them.
        copies = self._copied(results, self._result_sizes)
        self._deferred.add(copies, lambda: self._backward(prepared, results, saved))
        return copies

    def _backward(self, prepared: Slot, results: list[Any], saved: Any) -> list[Any]:
        assert prepared.backward is not None
        gradients = self._take(self._gradient_sizes)
        _bind(prepared.backward, 0, [block.address for block in gradients])
        _bind(prepared.backward, prepared.results_at, [block.address for block in results])
        prepared.backward.bind_block(saved.address if saved else 0)
        _run(prepared.backward)
        return gradients

    def _take(self, sizes: Sequence[int]) -> list[Any]:
        return [self._pool.take(size) for size in sizes]

    def _copied(self, blocks: list[Any], sizes: Sequence[int]) -> list[Any]:
        copies = self._take(sizes)
        for source, target, size in zip(blocks, copies, sizes, strict=True):
            self._pool.copy(target, source, size)
        return copies

    def copy(self, result: list[Any]) -> list[Any]:
        return result if self._deferred else self._copied(result, (*self._result_sizes, *self._gradient_sizes))

    def report(self, results: list[list[Any]]) -> tuple[bytes, int]:
        if self._deferred:
            self._deferred.run()
        parts = [
            block.address.to_bytes(_ADDRESS_BYTES, "little") + template
            for blocks in results
            for block, template in zip(blocks, self._templates, strict=True)
        ]
        return b"".join(parts), len(parts)

    def handle(self, order: Order, results: list[Any]) -> Reply:
        raise ArmError(Failure.ERROR, f"a candidate does not know {order.kind.name}")


def _bind(call: PreparedCall, first: int, addresses: Sequence[int]) -> None:
    for index, address in enumerate(addresses, first):
        call.bind(index, address)


def _run(call: PreparedCall) -> None:
    try:
        call()
    except NativeError as error:  # the kernel's own words, without our traceback around them
        failure = Failure.OOM if str(error) == _NO_MEMORY else Failure.ERROR
        raise ArmError(failure, str(error)) from error


def _padded(nbytes: int) -> int:
    return -(-max(nbytes, 1) // ALIGNMENT) * ALIGNMENT


def _specs(tensors: Sequence[TensorFact]) -> list[TensorSpec]:
    return [TensorSpec(tensor.dtype, tuple(tensor.shape)) for tensor in tensors]


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))

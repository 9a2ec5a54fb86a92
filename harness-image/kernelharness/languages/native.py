"""Calls a native kernel by ctypes and raw addresses: no torch, no tvm_ffi, no compiler.

The calling convention is that of README.md beside this file. Published bundles carry this very file, so that what a
serving pod calls is what was timed; it therefore imports the standard library only.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

ALIGNMENT = 64
"""Every tensor's address must be a multiple of this."""

DTYPES = {
    "float32": (2, 32),
    "float64": (2, 64),
    "float16": (2, 16),
    "bfloat16": (4, 16),
    "int64": (0, 64),
    "int32": (0, 32),
    "int16": (0, 16),
    "int8": (0, 8),
    "uint8": (1, 8),
    "bool": (6, 8),
}
"""DLPack's (type code, bits) of what a kernel may take."""
_NONE, _INT, _BOOL, _FLOAT, _POINTER, _DLTENSOR = 0, 1, 2, 3, 4, 7
CPU, CUDA, OTHER = 1, 2, 12
"""DLPack's device types: where a call's tensors lie. OTHER is what it leaves to whoever has another device."""


class NativeError(RuntimeError):
    """The library cannot be loaded, or a call failed; the text is the library's own."""


class TensorSpec(NamedTuple):
    """A contiguous tensor without its memory."""

    dtype: str
    shape: tuple[int, ...]


class _Value(ctypes.Union):
    _fields_ = (("integer", ctypes.c_int64), ("real", ctypes.c_double), ("pointer", ctypes.c_void_p))


class _Any(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("padding", ctypes.c_uint32), ("value", _Value))


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class PreparedCall:
    """One call with everything in place but the addresses. Not for two threads at once."""

    def __init__(
        self,
        kernel: NativeKernel,
        symbol: str,
        tensors: Sequence[TensorSpec],
        scalars: Sequence[int | float | bool],
        trailing: Sequence[int],
    ) -> None:
        self._kernel = kernel
        self._function = kernel.function(symbol)
        array = (_DLTensor * max(1, len(tensors)))()
        self._tensors = list(array)  # taking one out of the array costs more than setting its address
        self._keep: list[object] = [array]
        self._count = len(tensors) + len(scalars) + len(trailing)
        self._arguments = (_Any * self._count)()
        self.result = _Any(_NONE)
        for index, spec in enumerate(tensors):
            if spec.dtype not in DTYPES:
                raise NativeError(f"tensor {index} is {spec.dtype}; native kernels take {', '.join(DTYPES)}")
            shape = (ctypes.c_int64 * max(1, len(spec.shape)))(*spec.shape)
            strides = (ctypes.c_int64 * max(1, len(spec.shape)))(*_strides(spec.shape))
            self._keep.append((shape, strides))
            code, bits = DTYPES[spec.dtype]
            array[index] = _DLTensor(None, kernel.device_type, 0, len(spec.shape), code, bits, 1, shape, strides, 0)
            self._arguments[index].type = _DLTENSOR
            self._arguments[index].value.pointer = ctypes.addressof(array[index])
        for index, scalar in enumerate(scalars, len(tensors)):
            argument = self._arguments[index]
            if isinstance(scalar, float):
                argument.type, argument.value.real = _FLOAT, scalar
            else:
                argument.type, argument.value.integer = _BOOL if isinstance(scalar, bool) else _INT, int(scalar)
        for index, address in enumerate(trailing, len(tensors) + len(scalars)):
            self._arguments[index].type = _POINTER
            self._arguments[index].value.pointer = address or None

    def bind(self, index: int, address: int) -> None:
        """Put tensor `index` (outputs first) at this address, which must be a multiple of ALIGNMENT."""
        self._tensors[index].data = address

    def bind_block(self, address: int) -> None:
        """Put the last argument, `block` of `NativeKernel.prepare`, at this address."""
        self._arguments[self._count - 1].value.pointer = address or None

    def bind_stream(self, stream: int) -> None:
        """Let the work go to this stream, `stream` of `NativeKernel.prepare`."""
        self._arguments[self._count - 2].value.pointer = stream or None

    def __call__(self) -> None:
        """Run the kernel. Raises NativeError with the kernel's text."""
        if self._function(None, self._arguments, self._count, ctypes.byref(self.result)) != 0:
            raise NativeError(self._kernel.last_error())


class NativeKernel:
    """A loaded library. It stays loaded for the life of the process."""

    def __init__(self, path: str, device_type: int = CPU) -> None:
        """`device_type`: CPU, CUDA, OTHER. Raises NativeError when the file is no library for here, or no kernel."""
        self.device_type = device_type
        try:
            self._library = ctypes.CDLL(path)
        except OSError as error:
            raise NativeError(str(error)) from error
        self.function("forward")
        try:
            self._last_error = self._library["kernelsearch_last_error"]
            abi = self._library["kernelsearch_abi"]()
        except AttributeError as error:
            raise NativeError("the library was not compiled against problem.h") from error
        if abi != 1:
            raise NativeError(f"the library speaks ABI {abi}, this caller speaks 1")
        self._last_error.restype = ctypes.c_char_p
        self.has_state: bool = hasattr(self._library, "__tvm_ffi_init")
        """True when the kernel prepares its parameters once (`KERNEL_STATE`)."""

    def function(self, name: str) -> ctypes._NamedFuncPointer:
        """The exported `__tvm_ffi_<name>`. Raises NativeError when there is none."""
        try:
            return self._library[f"__tvm_ffi_{name}"]
        except AttributeError as error:
            raise NativeError(f"the library does not export __tvm_ffi_{name}") from error

    def prepare(
        self,
        tensors: Sequence[TensorSpec],
        scalars: Sequence[int | float | bool] = (),
        stream: int = 0,
        block: int = 0,
        symbol: str = "forward",
    ) -> PreparedCall:
        """A call of `forward`: outputs, inputs, parameters; then scalars. `block` is the address that init filled.

        Of a problem with backward, `block` is what forward saves for backward, the other `symbol`, which takes
        gradients, cotangents, outputs, inputs, parameters; then scalars.
        """
        return PreparedCall(self, symbol, tensors, scalars, (stream, block))

    def saved_size(self, tensors: Sequence[TensorSpec], scalars: Sequence[int | float | bool] = ()) -> int:
        """Bytes that `forward` wants to save for `backward` in each call; tensors and scalars are forward's."""
        call = PreparedCall(self, "saved_size", tensors, scalars, ())
        call()
        return int(call.result.value.integer)

    def state_size(self, parameters: Sequence[TensorSpec], addresses: Sequence[int]) -> int:
        """Bytes that `init` wants; the caller allocates them, 64-byte aligned."""
        call = PreparedCall(self, "state_size", parameters, (), ())
        for index, address in enumerate(addresses):
            call.bind(index, address)
        call()
        return int(call.result.value.integer)

    def init(self, parameters: Sequence[TensorSpec], addresses: Sequence[int], state: int, stream: int = 0) -> None:
        """Let the kernel prepare its parameters in `state`. Call it again when they changed."""
        call = PreparedCall(self, "init", parameters, (), (state, stream))
        for index, address in enumerate(addresses):
            call.bind(index, address)
        call()

    def last_error(self) -> str:
        text = self._last_error()
        return (text or b"").decode(errors="replace") or "the kernel failed and gave no reason"


def _strides(shape: Sequence[int]) -> list[int]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return strides[::-1]

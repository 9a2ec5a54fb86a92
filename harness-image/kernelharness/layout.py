"""Where the tensors of one call lie inside a slot: the same arithmetic in T and in every runner.

Pure and without torch, so that a native runner can use it. Neighbours: slots.py (T fills slots), runner.py (maps them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from kernelharness.channel import ITEM_BYTES
from kernelharness.protocol import TensorFact

ALIGNMENT = 64
PAGE = 4096
_FLOATING = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Field:
    offset: int
    """Bytes from the slot's start."""
    nbytes: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Layout:
    """Contiguous tensors, each 64-byte aligned; slots follow each other every `stride` bytes."""

    fields: tuple[Field, ...]
    stride: int

    @property
    def nbytes(self) -> int:
        """Payload without padding."""
        return sum(field.nbytes for field in self.fields)


def widened(tensors: Sequence[TensorFact]) -> list[TensorFact]:
    """The same with floating dtypes as float64."""
    return [t.model_copy(update={"dtype": "float64"}) if t.dtype in _FLOATING else t for t in tensors]


def layout_of(tensors: Sequence[TensorFact]) -> Layout:
    fields: list[Field] = []
    offset = 0
    for tensor in tensors:
        nbytes = prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
        fields.append(Field(offset, nbytes, tuple(tensor.shape), tensor.dtype))
        # A gap of one line between tensors: reading past an end is not silently the next tensor's start.
        offset += -(-nbytes // ALIGNMENT) * ALIGNMENT + ALIGNMENT
    return Layout(tuple(fields), -(-max(offset, 1) // PAGE) * PAGE)

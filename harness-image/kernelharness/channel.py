"""What T and a runner say to each other: fixed-size structs over a SEQPACKET socket, facts on a shared board.

An `Order` goes to a runner, one `Reply` comes back. Nothing of variable length is ever parsed from a runner's message;
texts and output reports lie on the board, a memfd of T that the runner maps, and T reads them only while the runner
stands still, as bytes that may be anything. Neighbours: runner.py (one end), processes.py (the other).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
from dataclasses import dataclass
from enum import IntEnum

BOARD_TEXT_BYTES = 64 * 1024
STACK_SIGNAL = signal.SIGUSR1
"""Asks a Python runner that gave no answer to print where it is."""
MAX_RANK = 8
MAX_REPORTS = 4096
"""Outputs of one round at most: calls times outputs per call."""

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
"""A dtype travels as its index here; anything else a candidate returns travels as -1."""
ITEM_BYTES = {
    "float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint8": 1, "bool": 1,
}  # fmt: skip


class OrderKind(IntEnum):
    LOAD = 1
    """a = case: load the reference, compile it, or bind the candidate to this case's shapes."""
    PREPARE = 2
    """a = case, b = offset of the first slot, c = count, d = stride, flags = GALLERY: which slots RUN will read."""
    RUN = 3
    """a = count, b = first, flags = RunFlag: call forward once for each of `count` prepared slots from `first` on, for
    all that are left when count is 0, and keep the results."""
    DESCRIBE = 4
    """a = case: the signature as JSON on the board (trusted runners)."""
    GENERATE = 5
    """a = case, b = seed, c = count: so many input sets onto the desk, of one seed (trusted runners)."""
    STATE = 6
    """a = case: parameters and buffers onto the desk (trusted runners)."""
    COLLECT = 7
    """a = case: the kept results of the last RUN onto the desk (trusted runners)."""
    EXACT = 8
    """a = case, b = offset, flags = GALLERY: the reference's outputs for one slot in fp64 onto the desk (trusted)."""
    HIDDEN = 10
    """b = seed: derive the case that nobody is shown; it becomes the runner's last case (trusted runners)."""
    PROFILE = 11
    """a = case, b = offset of a slot, c = calls, flags = GALLERY: call forward so often under torch's profiler;
    a table of what ran on the board (Python candidates, when all else is over)."""
    DROP = 9
    """Free kept results."""


class RunFlag(IntEnum):
    NONE = 0
    GALLERY = 1
    """Of PREPARE, EXACT and PROFILE: slots of the gallery, not of the arena."""
    COPY_OUT = 2
    """Clone each result: the candidate returns the same memory every time."""
    EMPTY = 4
    """Do everything but call forward, touching the device instead: what a round costs by itself."""
    ONE_BY_ONE = 8
    """Inputs of a call come when the one before is over: each call waits for T on the device, or, on a CPU, is a RUN of
    its own that keeps the results of those before."""


class ReplyKind(IntEnum):
    READY = 1
    DONE = 2
    FAILED = 3
    """status = Failure; a = bytes of text on the board."""


class Failure(IntEnum):
    """Why a runner could not do what it was told. A claim of the runner, used for diagnosis."""

    ERROR = 1
    OOM = 2
    LOAD = 3
    UNSUPPORTED = 4
    NOT_A_TENSOR = 5
    NOT_COMPILED = 6
    MEMORY = 7
    """The device refused an access."""


_ORDER = struct.Struct("<IIqqqq")
_REPLY = struct.Struct("<IIq")
_REPORT = struct.Struct("<Qii8q8q")
ORDER_BYTES = _ORDER.size
MESSAGE_BYTES = _REPLY.size
REPORT_BYTES = _REPORT.size
_SEGMENT = struct.Struct("<QQ64s")
_COUNT = struct.Struct("<Q")
MAX_SEGMENTS = 1024
"""Allocations of a runner on a device that T opens, at most."""
_SEGMENTS_AT = BOARD_TEXT_BYTES + MAX_REPORTS * REPORT_BYTES
_SEGMENTS_END = _SEGMENTS_AT + _COUNT.size + MAX_SEGMENTS * _SEGMENT.size
TURNS_AT = -(-_SEGMENTS_END // mmap.PAGESIZE) * mmap.PAGESIZE
BOARD_BYTES = TURNS_AT + mmap.PAGESIZE
TURN_ALLOWED, TURN_MADE, TURN_ENDED = 0, 4, 8
"""Where counts of calls lie behind `TURNS_AT`: those that T allows to begin, those that the runner has made, and those
that have ended on the device.
"""
_TURN = struct.Struct("<I")
REGION_PREFIX = b"region:"
"""A segment whose handle begins like this is T's own memory of the name that follows."""


@dataclass(frozen=True, slots=True)
class Order:
    kind: OrderKind
    a: int = 0
    b: int = 0
    c: int = 0
    d: int = 0
    flags: int = 0

    def pack(self) -> bytes:
        return _ORDER.pack(self.kind, self.flags, self.a, self.b, self.c, self.d)

    @property
    def memory(self) -> str:
        """The memory that PREPARE, EXACT and PROFILE speak of."""
        return "gallery" if self.flags & RunFlag.GALLERY else "arena"

    @staticmethod
    def unpack(data: bytes) -> Order:
        kind, flags, a, b, c, d = _ORDER.unpack(data)
        return Order(OrderKind(kind), a, b, c, d, flags)


@dataclass(frozen=True, slots=True)
class Reply:
    kind: ReplyKind
    status: int = 0
    a: int = 0

    def pack(self) -> bytes:
        return _REPLY.pack(self.kind, self.status, self.a)

    @staticmethod
    def unpack(data: bytes) -> Reply:
        """Raise ValueError on anything that is not a well-formed reply."""
        if len(data) != MESSAGE_BYTES:
            raise ValueError(f"a message of {len(data)} bytes, not {MESSAGE_BYTES}")
        kind, status, a = _REPLY.unpack(data)
        return Reply(ReplyKind(kind), status, a)


@dataclass(frozen=True, slots=True)
class Segment:
    """An allocation on a device, as its owner describes it: where it lies there, and how T can open it."""

    base: int
    nbytes: int
    handle: bytes


@dataclass(frozen=True, slots=True)
class OutputReport:
    """Where a runner says that one output lies. Strides are in elements. Nothing here is believed unchecked."""

    address: int
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def pack_report(report: OutputReport) -> bytes:
    rank = len(report.shape)
    pad = (0,) * (MAX_RANK - rank)
    code = DTYPES.index(report.dtype) if report.dtype in DTYPES else -1
    return _REPORT.pack(report.address, code, rank, *report.shape, *pad, *report.stride, *pad)


def unpack_report(data: bytes) -> OutputReport:
    """Raise ValueError when rank or dtype cannot be."""
    address, code, rank, *sizes = _REPORT.unpack(data)
    if not 0 <= rank <= MAX_RANK or not -1 <= code < len(DTYPES):
        raise ValueError("an output report with an impossible rank or dtype")
    dtype = DTYPES[code] if code >= 0 else "?"
    return OutputReport(address, dtype, tuple(sizes[:rank]), tuple(sizes[MAX_RANK : MAX_RANK + rank]))


class Board:
    """The shared page of one runner: text first, then output reports."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, BOARD_BYTES)

    def write_bytes(self, data: bytes) -> int:
        data = data[:BOARD_TEXT_BYTES]
        self._map[: len(data)] = data
        return len(data)

    def read_bytes(self, length: int) -> bytes:
        return self._map[: max(0, min(length, BOARD_TEXT_BYTES))]

    def write_text(self, text: str) -> int:
        return self.write_bytes(text.encode(errors="replace"))

    def read_text(self, length: int) -> str:
        return self.read_bytes(length).decode(errors="replace")

    def write_reports(self, packed: bytes, first: int = 0) -> None:
        at = BOARD_TEXT_BYTES + first * REPORT_BYTES
        self._map[at : at + len(packed)] = packed

    def forget_reports(self, count: int) -> None:
        """Make the first `count` reports malformed, so that none of an earlier run can pass for one of the next."""
        self._map[BOARD_TEXT_BYTES : BOARD_TEXT_BYTES + count * REPORT_BYTES] = b"\xff" * (count * REPORT_BYTES)

    def raw_reports(self, count: int, first: int = 0) -> bytes:
        """`count` reports as they are."""
        at = BOARD_TEXT_BYTES + first * REPORT_BYTES
        return self._map[at : at + count * REPORT_BYTES]

    def read_turn(self, which: int) -> int:
        """One of the counts of a run ONE_BY_ONE; what a runner says of it is not believed."""
        return int(_TURN.unpack_from(self._map, TURNS_AT + which)[0])

    def write_turn(self, which: int, calls: int) -> None:
        _TURN.pack_into(self._map, TURNS_AT + which, calls)

    def address_of_turns(self) -> int:
        """Of a whole page in this process."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self._map, TURNS_AT))

    def write_segment(self, index: int, base: int, nbytes: int, handle: bytes) -> None:
        """Add segment `index`. Raise ValueError when there are too many."""
        if index >= MAX_SEGMENTS:
            raise ValueError(f"more than {MAX_SEGMENTS} allocations hold outputs: take them from one pool")
        at = _SEGMENTS_AT + _COUNT.size
        _SEGMENT.pack_into(self._map, at + index * _SEGMENT.size, base, nbytes, handle)
        _COUNT.pack_into(self._map, _SEGMENTS_AT, index + 1)

    def read_segments(self, first: int) -> list[Segment]:
        """Segments from number `first` on."""
        count = min(_COUNT.unpack_from(self._map, _SEGMENTS_AT)[0], MAX_SEGMENTS)
        at = _SEGMENTS_AT + _COUNT.size
        return [Segment(*_SEGMENT.unpack_from(self._map, at + i * _SEGMENT.size)) for i in range(first, count)]

    def read_reports(self, first: int, count: int) -> list[OutputReport]:
        """Raise ValueError when one is malformed or there cannot be as many."""
        if first < 0 or count < 0 or first + count > MAX_REPORTS:
            raise ValueError(f"{first + count} output reports")
        start = BOARD_TEXT_BYTES + first * REPORT_BYTES
        data = self._map[start : start + count * REPORT_BYTES]
        return [unpack_report(data[i : i + REPORT_BYTES]) for i in range(0, len(data), REPORT_BYTES)]


def make_memory(name: str, size: int) -> int:
    """A memfd of `size` bytes, kept across no exec."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    return fd

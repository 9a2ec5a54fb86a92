"""Where a right candidate's time goes: a small table that its own process writes, and what the judge reads of it.

U's half calls the candidate under torch's profiler, when its verdict is known. T's half takes the table for what it is,
bytes of a process that may write anything: fixed structs, numbers clamped, names cleaned. It advises, and is never part
of a verdict. Neighbours: torch_arms.py (U), trial.py (asks), policy.py (what follows from it), protocol.Profile.
"""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.autograd import profiler

from kernelharness import diagnose
from kernelharness.protocol import MOST_KERNELS, MOST_NAME, KernelTime, Profile

MOST_ROWS = 64
_HEAD = struct.Struct("<QQQQQ")
"""Names in all; copies between host and device; ns of all rows, of the busy device, and of the span."""
ROW = struct.Struct("<QQHH96s")
"""How often it ran, ns, registers of a thread, occupancy in percent and 1 more, name; 0 where they are not known."""
_MOST_REGISTERS = 255
_MOST_COUNTED = 1_000_000
_BETWEEN = ("Memcpy HtoD", "Memcpy DtoH")
_REGISTERS, _OCCUPANCY = "registers per thread", "est. achieved occupancy %"
_LAUNCH = re.compile(rf'"({_REGISTERS}|{re.escape(_OCCUPANCY)})": (\d{{1,4}})\b')


def record(call: Callable[[], object], calls: int, *, on_device: bool) -> bytes:
    """Call it so often, and pack what ran: kernels and copies of the device, or torch's operators on the CPU.

    Not torch.profiler, which imports torch's compiler for it: seconds, and processes that a candidate may not start.
    """
    device = "cuda" if on_device else None
    with profiler.profile(use_cpu=not on_device, use_device=device, use_kineto=True) as seen:
        for _ in range(calls):
            call()
        if on_device:
            torch.cuda.synchronize()
    rows: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    spans: list[tuple[float, float]] = []
    for event in seen.function_events or ():
        if on_device and (event.device_type != DeviceType.CUDA or event.is_user_annotation):
            continue
        begin, end = event.time_range.start, event.time_range.end
        row = rows[_plain(event.name)]
        row[0] += 1
        row[1] += end - begin if on_device else event.self_cpu_time_total
        spans.append((begin, end))
    copies = sum(int(count) for name, (count, _) in rows.items() if name.startswith(_BETWEEN))
    launches = launches_of(seen.kineto_results.events() if on_device and seen.kineto_results else ())
    return _pack({name: (int(count), us) for name, (count, us) in rows.items()}, launches, copies, spans)


def launches_of(events: Iterable[Any]) -> dict[str, tuple[int, int]]:
    """Kernel -> registers of a thread, and the percentage of a multiprocessor's warps that its launch fills at most.

    Kineto's estimate from registers, shared memory, block and grid. Of each kernel the longest launch counts; nothing
    is known where torch is too old to hand it out.
    """
    found: dict[str, tuple[int, int]] = {}
    longest: dict[str, int] = defaultdict(int)
    for event in events:
        told = dict(_LAUNCH.findall(event.metadata_json())) if hasattr(event, "metadata_json") else {}
        name, ns = _plain(event.name()), event.duration_ns()
        if len(told) == 2 and ns >= longest[name]:
            longest[name] = ns
            found[name] = (int(told[_REGISTERS]), int(told[_OCCUPANCY]))
    return found


def _plain(name: str) -> str:
    """Without what every C++ kernel has: a return type, and arguments."""
    plain = name.replace("(anonymous namespace)::", "").removeprefix("void ").partition("(")[0].strip()
    return plain or name


def _pack(
    rows: dict[str, tuple[int, float]],
    launches: dict[str, tuple[int, int]],
    copies: int,
    spans: Iterable[tuple[float, float]],
) -> bytes:
    """Times in microseconds."""
    busy, first, last = 0.0, 0.0, None
    for begin, end in sorted(spans):
        first = begin if last is None else first
        last = begin if last is None else last
        busy += max(0.0, end - max(begin, last))
        last = max(last, end)
    span = (last or 0.0) - first
    total = sum(us for _, us in rows.values())
    longest = sorted(rows.items(), key=lambda row: -row[1][1])[:MOST_ROWS]
    packed = [_HEAD.pack(len(rows), copies, *(_ns(us) for us in (total, busy, span)))]
    for name, (count, us) in longest:
        registers, occupancy = launches.get(name, (0, -1))
        packed.append(ROW.pack(count, _ns(us), registers, occupancy + 1, name.encode()[:96]))
    return b"".join(packed)


def _ns(us: float) -> int:
    return max(0, round(1e3 * us))


@dataclass(frozen=True)
class Seen:
    """A table as T reads it."""

    profile: Profile
    rows: tuple[KernelTime, ...]
    """The longest first; more than the profile shows."""
    is_whole: bool
    """There is no kernel beyond these rows."""


def read(data: bytes, case: str, calls: int, *, on_device: bool) -> Seen | None:
    """The table of so many calls in this case; None where there is none. `data` may be anything."""
    if len(data) < _HEAD.size:
        return None
    names, copies, total, busy, span = _HEAD.unpack_from(data)
    names, copies = min(names, _MOST_COUNTED), min(copies, _MOST_COUNTED)
    fields = data[_HEAD.size : _HEAD.size + MOST_ROWS * ROW.size]
    found = [row for row in ROW.iter_unpack(fields[: len(fields) // ROW.size * ROW.size]) if row[0]]
    total = max(total, sum(row[1] for row in found))
    if not total:
        return None
    rows = tuple(
        KernelTime(
            name=_name(raw),
            calls=round(min(count, _MOST_COUNTED) / calls, 2),
            share=round(ns / total, 4),
            registers=min(registers, _MOST_REGISTERS) or None,
            occupancy=min(occupancy - 1, 100) / 100 if occupancy else None,
        )
        for count, ns, registers, occupancy, raw in sorted(found, key=lambda row: -row[1])
    )
    shown = rows[:MOST_KERNELS]
    profile = Profile(
        case=case,
        on_device=on_device,
        kernels=list(shown),
        others=max(names, len(rows)) - len(shown),
        idle=round(max(0.0, 1 - busy / span), 4) if on_device and span else None,
        copies=round(copies / calls, 2) if on_device else 0.0,
    )
    return Seen(profile, rows, names <= len(rows))


def _name(raw: bytes) -> str:
    """Of a kernel, for people: one line of printable text."""
    text = diagnose.clean(raw.partition(b"\0")[0].decode(errors="ignore"))
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:MOST_NAME] or "?"

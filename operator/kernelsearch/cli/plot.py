"""The best-so-far plot as inline SVG: one dot per kernel that ran, a step line for the best. No library, no script.

Geometry only: colours are classes that the page's style sheet fills in, so that light and dark are the page's matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

_WIDTH, _HEIGHT = 760, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 34


@dataclass(frozen=True)
class Point:
    number: int
    """Place in the order in which candidates finished, from 1."""
    speedup: float
    label: str
    kind: Literal["ran", "verified", "refused"]
    """A refused one was fast once and failed in a fresh process: it has a dot and never leads."""


def best_so_far(points: Sequence[Point], finished: int) -> str:
    """The plot of one target; empty when nothing ran. `finished`: how many candidates there were, failed ones too."""
    if not points:
        return ""
    points = sorted(points, key=lambda point: point.number)
    low = min(0.5, *(point.speedup for point in points))
    high = max(1.25, *(point.speedup for point in points)) * 1.05

    def x(number: float) -> float:
        return _LEFT + (number - 0.5) / max(1, finished) * (_WIDTH - _LEFT - _RIGHT)

    def y(speedup: float) -> float:
        share = math.log(speedup / low) / math.log(high / low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="speedup of each candidate, and the best">']
    for tick in ticks(low, high):
        kind = "reference" if tick == 1 else "grid"
        parts.append(
            f'<line class="{kind}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        )
        parts.append(f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}x</text>')
    path, best = "", 0.0
    for point in points:
        if point.speedup > best and point.kind != "refused":
            path += f"{'H' if path else 'M'}{x(point.number):.1f}{'V' if path else ','}{y(point.speedup):.1f}"
            best = point.speedup
    if path:
        parts.append(f'<path class="best" d="{path}H{x(finished + 0.5):.1f}"/>')
    for point in points:
        dot = f'<circle class="{point.kind}" cx="{x(point.number):.1f}" cy="{y(point.speedup):.1f}" r="4">'
        parts.append(f"{dot}<title>{escape(point.label)}: {point.speedup:.3f}x</title></circle>")
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">candidates, in the order judged</text>'
    )
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float) -> list[float]:
    """Round values on a logarithmic axis, 1 always among them; at most nine."""
    for steps in ((1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 7.5), (1, 1.5, 2, 3, 5, 7.5), (1, 2, 5), (1, 3), (1,)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(found) <= 9:
            break
    return sorted({*found, 1.0})

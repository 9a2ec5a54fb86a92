"""A map that only grows, and of which every version stays valid: what makes folding a long journal cheap.

State is immutable, so each event makes a new one; copying a dict of thousands of candidates per event would make a fold
quadratic. Here versions share one index from key to position (a position beyond a version's length does not exist for
it) and copy only the chunk that an update touches. Iteration is in order of insertion, whatever the hash seed.

Invariant: keys are never removed. Two versions that grow apart get an index of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
_CHUNK = 64


class GrowingMap(Mapping[K, V], Generic[K, V]):
    """An immutable mapping; `put` returns the next version in O(size / 64) pointer copies."""

    __slots__ = ("_chunks", "_index", "_length")

    def __init__(self) -> None:
        self._index: dict[K, int] = {}
        self._chunks: tuple[tuple[tuple[K, V], ...], ...] = ()
        self._length = 0

    def __getitem__(self, key: K) -> V:
        position = self._index[key]
        if position >= self._length:
            raise KeyError(key)
        return self._chunks[position // _CHUNK][position % _CHUNK][1]

    def __iter__(self) -> Iterator[K]:
        return (key for chunk in self._chunks for key, _ in chunk)

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"GrowingMap({dict(self)!r})"

    def put(self, key: K, value: V) -> GrowingMap[K, V]:
        """This map with `key` at `value`; a known key keeps its place in the order."""
        after = GrowingMap[K, V]()
        position = self._index.get(key, self._length)
        if position < self._length:
            row, column = divmod(position, _CHUNK)
            chunk = self._chunks[row]
            chunk = (*chunk[:column], (key, value), *chunk[column + 1 :])
            after._chunks = (*self._chunks[:row], chunk, *self._chunks[row + 1 :])
            after._index, after._length = self._index, self._length
            return after
        shared = len(self._index) == self._length
        index = self._index if shared else {k: p for k, p in self._index.items() if p < self._length}
        index[key] = self._length
        if self._length % _CHUNK:
            after._chunks = (*self._chunks[:-1], (*self._chunks[-1], (key, value)))
        else:
            after._chunks = (*self._chunks, ((key, value),))
        after._index, after._length = index, self._length + 1
        return after

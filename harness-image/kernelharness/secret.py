"""Numbers that a candidate must not foresee. Neighbours: setting.py (T's), torch_arms.py (E makes more of one)."""

from __future__ import annotations

from hashlib import blake2b


class Secret:
    """A source of them, never in a candidate's process.

    No generator of torch's: those begin with 32 bits of their seed, which a candidate could find by trying, and their
    next numbers follow from those that it has seen.
    """

    def __init__(self, entropy: bytes) -> None:
        self._key = entropy
        self._drawn = 0

    @classmethod
    def of(cls, number: int) -> Secret:
        """The one that begins with a number that was drawn."""
        return cls(number.to_bytes(8, "little"))

    def draw(self) -> int:
        """A number below 2**62."""
        self._drawn += 1
        digest = blake2b(self._drawn.to_bytes(8, "little"), key=self._key, digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 2

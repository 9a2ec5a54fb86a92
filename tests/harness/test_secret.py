"""A secret cannot be foreseen: all of its entropy counts, and nothing comes twice."""

from __future__ import annotations

from kernelharness.secret import Secret


def test_every_byte_of_the_entropy_counts() -> None:
    keys = [bytearray(32) for _ in range(33)]
    for place in range(32):
        keys[place][place] = 1
    assert len({Secret(bytes(key)).draw() for key in keys}) == len(keys)


def test_a_secret_never_repeats_itself() -> None:
    secret = Secret(bytes(32))
    drawn = [secret.draw() for _ in range(1000)]
    assert len(set(drawn)) == 1000
    assert all(0 <= number < 1 << 62 for number in drawn)

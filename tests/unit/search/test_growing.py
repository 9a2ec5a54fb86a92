import pytest
from kernelsearch.search.growing import GrowingMap


def grown(count: int) -> GrowingMap[str, int]:
    known = GrowingMap[str, int]()
    for number in range(count):
        known = known.put(f"key {number}", number)
    return known


def test_it_is_a_mapping_in_order_of_insertion() -> None:
    known = grown(300)
    assert dict(known) == {f"key {n}": n for n in range(300)}
    assert list(known) == [f"key {n}" for n in range(300)]
    assert known["key 177"] == 177
    assert "other" not in known
    with pytest.raises(KeyError):
        known["other"]


def test_an_update_keeps_the_place_and_leaves_earlier_versions_alone() -> None:
    before = grown(130)
    after = before.put("key 64", -1)
    assert before["key 64"] == 64
    assert after["key 64"] == -1
    assert list(after) == list(before)


def test_an_earlier_version_does_not_see_later_keys() -> None:
    before = grown(64)
    after = before.put("late", 1)
    assert "late" not in before
    assert len(before) == 64
    assert after["late"] == 1


def test_versions_that_grow_apart_do_not_mix() -> None:
    common = grown(70)
    left = common.put("left", 1).put("both", 2)
    right = common.put("right", 3).put("both", 4)
    assert set(left) - set(common) == {"left", "both"}
    assert set(right) - set(common) == {"right", "both"}
    assert (left["both"], right["both"]) == (2, 4)
    assert "left" not in right


def test_equal_content_is_equal() -> None:
    assert grown(10) == grown(10)
    assert grown(10) != grown(11)

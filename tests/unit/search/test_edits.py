import pytest
from kernelsearch.search.edits import MAX_SOURCE_BYTES, Reply, ReplyError, parse_reply

BASE = """#include "problem.h"
int f() {
  int i = 0;
  return i;
}
"""


def blocks(*pairs: tuple[str, str]) -> str:
    text = "".join(f"<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n" for search, replace in pairs)
    return f"PLAN: change it\n{text}"


def test_a_whole_file_in_a_fence() -> None:
    assert parse_reply("PLAN: fuse both passes\n```cpp\nint x;\n\nint y;\n```\n", None) == Reply(
        "fuse both passes", "int x;\n\nint y;\n"
    )


def test_fences_of_other_kinds_and_inner_backticks() -> None:
    assert parse_reply("PLAN: p\n~~~\nint x;\n~~~", None).source == "int x;\n"
    assert parse_reply("PLAN: p\n````cpp\n// ```\nint x;\n````", None).source == "// ```\nint x;\n"


@pytest.mark.parametrize("line", ["**Plan:** go", "PLAN : go", "- plan: go", "## Plan: go"])
def test_the_plan_may_be_decorated(line: str) -> None:
    assert parse_reply(f"{line}\n```\nint x;\n```", None).plan == "go"


def test_thoughts_before_the_answer_are_skipped() -> None:
    text = "<think>PLAN: no\n```\nbad\n```</think>\nPLAN: yes\n```\ngood\n```"
    assert parse_reply(text, None) == Reply("yes", "good\n")


def test_search_replace_blocks_in_turn() -> None:
    text = blocks(("  int i = 0;", "  int i = 1;"), ("  return i;", "  i += 1;\n  return i;"))
    assert parse_reply(text, BASE).source == BASE.replace("i = 0;", "i = 1;").replace("return", "i += 1;\n  return")


def test_blocks_inside_a_fence_and_with_trailing_blanks() -> None:
    text = "PLAN: p\n```cpp\n<<<<<<< SEARCH\n  int i = 0;   \n=======\n  int i = 2;\n>>>>>>> REPLACE\n```\n"
    assert "int i = 2;" in parse_reply(text, BASE).source


def test_a_block_may_delete_lines() -> None:
    text = "PLAN: p\n<<<<<<< SEARCH\n  int i = 0;\n=======\n>>>>>>> REPLACE\n"
    assert parse_reply(text, BASE).source == BASE.replace("  int i = 0;\n", "")


@pytest.mark.parametrize(
    ("reply", "base", "says"),
    [
        ("```\nint x;\n```", None, "PLAN"),
        ("PLAN: p\nint x;", None, "no code fence"),
        ("PLAN: p\n```\nint x;", None, "cut off"),
        ("PLAN: p\n```\na\n```\n```\nb\n```", None, "2 code fences"),
        ("PLAN: p\n```\n```", None, "no code fence"),
        (blocks(("int f() {", "int g() {")), None, "nothing to edit"),
        (blocks(("  int j = 0;", "x")), BASE, "does not occur"),
        (blocks(("  int i", "x")), BASE, "does not occur"),
        (blocks(("", "x")), BASE, "SEARCH is empty"),
        (blocks(("a", "x")), "a\na\n", "occurs 2 times"),
        ("PLAN: p\n<<<<<<< SEARCH\nint f() {\n>>>>>>> REPLACE\n", BASE, "malformed"),
        ("PLAN: p\n<<<<<<< SEARCH\nint f() {\n=======\nx\n", BASE, "malformed"),
        ("PLAN: p\n<<<<<<< SEARCH\na\n<<<<<<< SEARCH\nb\n", BASE, "malformed"),
        (f"PLAN: p\n```\n{BASE}```", BASE, "exactly as it was"),
        (blocks(("  int i = 0;", "  int i = 0;")), BASE, "exactly as it was"),
        (f"PLAN: p\n```\n{'x' * (MAX_SOURCE_BYTES + 1)}\n```", None, "at most 65536"),
        ("", None, "PLAN"),
    ],
)
def test_an_unusable_reply_says_what_is_wrong(reply: str, base: str | None, says: str) -> None:
    with pytest.raises(ReplyError, match=says):
        parse_reply(reply, base)


@pytest.mark.parametrize(
    "piece", ["```a\n", "<<<<<<< SEARCH\n", "<think>", "plan*_ ", "PLAN:", " =======\n", "\x00\u2028"]
)
@pytest.mark.timeout(60)
def test_a_large_hostile_reply_does_not_hang_the_parser(piece: str) -> None:
    with pytest.raises(ReplyError):
        parse_reply(piece * (2_000_000 // len(piece)), BASE)

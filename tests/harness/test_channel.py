"""Messages and reports survive the trip, and whatever is not one is refused rather than believed."""

from __future__ import annotations

import ctypes
import mmap
import os

import pytest
from kernelharness.channel import (
    BOARD_BYTES,
    DTYPES,
    MAX_RANK,
    MAX_REPORTS,
    MAX_SEGMENTS,
    MESSAGE_BYTES,
    REPORT_BYTES,
    TURN_ALLOWED,
    TURN_ENDED,
    TURN_MADE,
    Board,
    Order,
    OrderKind,
    OutputReport,
    Reply,
    ReplyKind,
    make_memory,
    pack_report,
    unpack_report,
)


@pytest.fixture
def board() -> Board:
    fd = make_memory("board", BOARD_BYTES)
    try:
        return Board(fd)
    finally:
        os.close(fd)


def test_order_and_reply_come_back_as_they_were() -> None:
    order = Order(OrderKind.PREPARE, 1, 1 << 40, 3, -4, flags=5)
    assert Order.unpack(order.pack()) == order
    reply = Reply(ReplyKind.FAILED, 2, 1 << 33)
    assert Reply.unpack(reply.pack()) == reply


@pytest.mark.parametrize("data", [b"", b"x", bytes(MESSAGE_BYTES - 1), bytes(MESSAGE_BYTES), b"\xff" * MESSAGE_BYTES])
def test_what_is_no_reply_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"a message of|is not a valid ReplyKind"):
        Reply.unpack(data)


@pytest.mark.parametrize("dtype", DTYPES)
def test_report_comes_back_as_it_was(dtype: str) -> None:
    report = OutputReport((1 << 47) - 64, dtype, (2, 0, 3), (-1, 1 << 40, 1))
    assert unpack_report(pack_report(report)) == report


def test_unknown_dtype_is_told_as_unknown() -> None:
    assert unpack_report(pack_report(OutputReport(0, "complex64", (), ()))).dtype == "?"


def test_every_byte_pattern_is_a_report_or_an_error() -> None:
    draw = __import__("random").Random(5)
    for _ in range(500):
        data = draw.randbytes(REPORT_BYTES)
        try:
            report = unpack_report(data)
        except ValueError:
            continue
        assert len(report.shape) == len(report.stride) <= MAX_RANK


def test_reports_are_read_where_they_were_written(board: Board) -> None:
    reports = [OutputReport(index, "float32", (index,), (1,)) for index in range(4)]
    board.write_reports(b"".join(map(pack_report, reports)))
    assert board.read_reports(1, 3) == reports[1:]


def test_forgotten_reports_cannot_be_read(board: Board) -> None:
    board.write_reports(pack_report(OutputReport(1, "float32", (1,), (1,))))
    board.forget_reports(1)
    with pytest.raises(ValueError, match="impossible rank"):
        board.read_reports(0, 1)


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (0, -1), (0, MAX_REPORTS + 1), (MAX_REPORTS, 1)])
def test_more_reports_than_fit_are_refused(board: Board, first: int, count: int) -> None:
    with pytest.raises(ValueError, match="output reports"):
        board.read_reports(first, count)


def test_text_is_cut_at_the_board_and_never_fails_to_decode(board: Board) -> None:
    written = board.write_text("é" * BOARD_BYTES)
    assert board.read_text(written).startswith("éé")
    assert board.read_text(-5) == ""
    assert board.read_text(1) == "�"


def test_turns_lie_on_a_page_of_their_own_behind_all_else(board: Board) -> None:
    board.write_segment(MAX_SEGMENTS - 1, 1, 2, b"\xff" * 64)
    for which in (TURN_ALLOWED, TURN_MADE, TURN_ENDED):
        assert board.read_turn(which) == 0
        board.write_turn(which, which + 1)
    assert [board.read_turn(which) for which in (TURN_ALLOWED, TURN_MADE, TURN_ENDED)] == [1, 5, 9]
    assert board.address_of_turns() % mmap.PAGESIZE == 0
    assert ctypes.c_uint32.from_address(board.address_of_turns() + TURN_ENDED).value == 9
    assert len(board.read_segments(MAX_SEGMENTS - 1)) == 1


def test_reports_of_a_call_lie_behind_those_of_the_calls_before(board: Board) -> None:
    packed = [pack_report(OutputReport(address, "float32", (2,), (1,))) for address in (64, 128, 192)]
    board.write_reports(packed[0])
    board.write_reports(packed[1] + packed[2], 1)
    assert board.raw_reports(3) == b"".join(packed)
    assert board.raw_reports(1, 2) == packed[2]

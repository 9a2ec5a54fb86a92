"""Believing a pod's log: it must be whole, and the judge's own last words must say so too."""

from __future__ import annotations

import hashlib
import json

import pytest
from kernelharness.protocol import Bye, Hello, Result, Stage, Verdict
from kernelsearch.evaluate.jobs import disagreement, split_streams


def a_log() -> tuple[str, str]:
    """(log, termination message) of a judge that finished."""
    messages = [
        Hello(harness="1", device="cpu"),
        Result(candidate="c1-cpu", verdict=Verdict.OK, stage=Stage.TIMING, diagnostics="a\u2028b\x0bc"),
    ]
    lines = "".join(message.model_dump_json() + "\n" for message in messages)
    digest = hashlib.sha256(lines.encode()).hexdigest()
    bye = Bye(count=len(messages), sha256=digest)
    return lines + bye.model_dump_json() + "\n", json.dumps({"count": bye.count, "sha256": digest})


def test_a_whole_log_and_its_termination_message_agree() -> None:
    log, promised = a_log()
    assert disagreement(log, promised) == ""


@pytest.mark.parametrize(
    "promised",
    ["", "OK", "{}", "[]", "3", '{"count": 2, "sha256": "00"}', '{"count": 1, "sha256": "00"}'],
)
def test_any_other_termination_message_makes_the_log_worthless(promised: str) -> None:
    log, _ = a_log()
    assert disagreement(log, promised)


def test_a_log_that_lost_its_beginning_or_end_is_not_believed() -> None:
    log, promised = a_log()
    lines = log.split("\n")
    assert "lines" in disagreement("\n".join(lines[1:]), promised)
    assert "bye" in disagreement("\n".join(lines[:-2]) + "\n", promised)
    assert "empty" in disagreement("", promised)


def test_what_libraries_print_between_the_lines_is_kept_apart() -> None:
    log, promised = a_log()
    first, rest = log.split("\n", 1)
    mixed = f"warning: one thing\n{first}\nTraceback: another\n{rest}no newline at the end"
    protocol, noise = split_streams(mixed)
    assert protocol == log
    assert disagreement(protocol, promised) == ""
    assert noise == "warning: one thing\nTraceback: another\nno newline at the end"


def test_a_line_forged_beside_the_judges_makes_the_log_disagree_instead_of_counting() -> None:
    log, promised = a_log()
    forged = Result(candidate="c9-cpu", verdict=Verdict.OK, stage=Stage.TIMING, speedup=99.0).model_dump_json()
    protocol, _ = split_streams(f"{forged}\n{log}")
    assert disagreement(protocol, promised)

"""Believing a pod's log: it must be whole, and the judge's own last words must say so too."""

from __future__ import annotations

import hashlib
import json

import pytest
from kernelharness.protocol import Bye, Hello, Result, Stage, Verdict
from kernelsearch.evaluate.jobs import split_streams, to_outcome
from kernelsearch.evaluate.pods import JudgeEnd


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


def ended(termination_message: str, infrastructure: str = "") -> JudgeEnd:
    return JudgeEnd(infrastructure, "why" if infrastructure else "", termination_message)


def test_a_whole_log_that_the_termination_message_names_is_believed() -> None:
    log, promised = a_log()
    outcome = to_outcome(log, ended(promised), ["c1-cpu"], "node-a")
    assert (outcome.infrastructure, [result.candidate for result in outcome.results]) == ("", ["c1-cpu"])
    assert outcome.node == "node-a"


@pytest.mark.parametrize(
    "promised",
    ["", "OK", "{}", "[]", "3", '{"count": 2, "sha256": "00"}', '{"count": 1, "sha256": "00"}'],
)
def test_any_other_termination_message_makes_the_log_worthless(promised: str) -> None:
    log, _ = a_log()
    outcome = to_outcome(log, ended(promised), ["c1-cpu"], "node-a")
    assert (outcome.infrastructure, outcome.results) == ("LogIncomplete", ())


@pytest.mark.parametrize("cut", [slice(1, None), slice(0, 0), slice(0, -2)], ids=["beginning", "everything", "bye"])
def test_a_log_that_lost_a_part_is_told(cut: slice) -> None:
    log, promised = a_log()
    lines = [f"{line}\n" for line in log.split("\n")[:-1]]
    assert to_outcome("".join(lines[cut]), ended(promised), ["c1-cpu"], "").infrastructure == "LogIncomplete"


def test_what_libraries_print_between_the_lines_is_kept_apart() -> None:
    log, promised = a_log()
    first, rest = log.split("\n", 1)
    mixed = f"warning: one thing\n{first}\nTraceback: another\n{rest}no newline at the end"
    assert split_streams(mixed) == (log, "warning: one thing\nTraceback: another\nno newline at the end")
    assert to_outcome(mixed, ended(promised), ["c1-cpu"], "").infrastructure == ""


def test_the_last_words_of_a_crashed_judge_are_told() -> None:
    outcome = to_outcome("Traceback: no such device\n", ended("", "JudgeCrashed"), [], "")
    assert outcome.infrastructure == "JudgeCrashed"
    assert "Traceback: no such device" in outcome.message


def test_a_line_forged_beside_the_judges_makes_the_log_incomplete_instead_of_counting() -> None:
    log, promised = a_log()
    forged = Result(candidate="c9-cpu", verdict=Verdict.OK, stage=Stage.TIMING, speedup=99.0).model_dump_json()
    outcome = to_outcome(f"{forged}\n{log}", ended(promised), ["c1-cpu"], "")
    assert outcome.infrastructure == "LogIncomplete"
    assert "c9-cpu" not in {result.candidate for result in outcome.results}

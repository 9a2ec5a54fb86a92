"""`kernelsearch check`: everything that can be known of a search before anything is spent on it.

In order of price: the file against schema and rules (nothing), one ping per model (a few tokens), the reference on this
machine (some seconds), and the highest possible cost from the prompt that would really be sent first. All of it is
checked and told, not only the first thing that is wrong.
"""

from __future__ import annotations

import time
from pathlib import Path

from kernelharness.protocol import Purpose
from rich.console import Console

from kernelsearch.cli.cost import highest_cost
from kernelsearch.cli.exits import CommandError, Exit
from kernelsearch.cli.flags import Overrides
from kernelsearch.cli.given import Given
from kernelsearch.cli.models import ask_all
from kernelsearch.cli.narrate import reference_line
from kernelsearch.cli.passing import passing_evaluator, run_until_told
from kernelsearch.cli.run import resolve_file
from kernelsearch.cli.views import open_console
from kernelsearch.engine import SearchInputs, to_limits
from kernelsearch.engine.batches import HEADER, to_events, to_request
from kernelsearch.engine.calls import build
from kernelsearch.evaluate.base import Evaluator
from kernelsearch.llm.client import LlmClient
from kernelsearch.llm.pricing import highest_input_tokens
from kernelsearch.search.actions import CallModel
from kernelsearch.search.journal import BatchSubmitted, LimitsChanged, SearchStarted
from kernelsearch.search.policy import ask
from kernelsearch.search.state import State, apply, fold


def check_file(file: Path, overrides: Overrides) -> Exit:
    """Print what was found. Raise CommandError when the file itself is wrong."""
    report = Report(open_console())
    try:
        given = resolve_file(file, overrides)
    except CommandError as error:
        if error.code is Exit.USAGE:
            for line in str(error).splitlines():
                report.bad(line)
        raise CommandError(error.code, f"{file} cannot be run") from error
    report.good(f"{file}: schema and rules hold, search {given.name}")
    for name, why in given.skipped.items():
        report.note(f"target {name}: not checked, {why}")
    run_until_told(_check(given, report))
    return Exit.FAILED if report.failed else Exit.DONE


class Report:
    """Lines with a mark, and whether any of them was bad."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.failed = False

    def good(self, text: str) -> None:
        self._line("ok   ", text)

    def note(self, text: str) -> None:
        self._line("note ", text)

    def bad(self, text: str) -> None:
        self.failed = True
        self._line("FAIL ", text)

    def _line(self, mark: str, text: str) -> None:
        self._console.print(mark + text, markup=False, highlight=False)


async def _check(given: Given, report: Report) -> None:
    inputs = given.inputs("check")
    await _ping(inputs, report)
    started = SearchStarted(at_ns=0, uid="check", name=given.name, problem_digest=inputs.problem_digest, seed=0)
    state = fold([started, LimitsChanged(at_ns=0, generation=1, limits=to_limits(given.spec))])
    prompt_tokens = 0
    async with passing_evaluator() as evaluator:
        for target in given.spec.targets:
            state, tokens = await _probe(inputs, state, target.name, evaluator, report)
            prompt_tokens = max(prompt_tokens, tokens)
    limits = to_limits(given.spec)
    cost = highest_cost(limits, prompt_tokens) if prompt_tokens else highest_cost(limits)
    report.good(f"highest possible cost: {cost}")


async def _ping(inputs: SearchInputs, report: Report) -> None:
    async with LlmClient(retries=1) as client:
        answers = await ask_all(client, inputs.endpoints)
    for name, error in answers.items():
        endpoint = inputs.endpoints[name]
        if error is None:
            report.good(f"model {name}: {endpoint.model} at {endpoint.endpoint} answers")
        else:
            report.bad(f"model {name}: {error}")


async def _probe(
    inputs: SearchInputs, state: State, target: str, evaluator: Evaluator, report: Report
) -> tuple[State, int]:
    """The state after the probe, and the upper bound of tokens in the first prompt (0 when none would be sent)."""
    batch = BatchSubmitted(at_ns=0, id=f"{target}-1-0", target=target, purpose=Purpose.PROBE, candidates=())
    outcome = await evaluator.evaluate(to_request(inputs, state, batch, {}), lambda _: None)
    for event in (batch, *to_events(batch, outcome, "", {})):
        state = apply(state, event)
    known = state.targets[target]
    if known.probed is None:
        why = f"{known.failed.reason}, {known.failed.message}" if known.failed else ""
        report.bad(f"target {target}: {why or f'{outcome.infrastructure}: {outcome.message}'}")
        return state, 0
    report.good(f"target {target}: the problem runs on {known.probed.device}")
    for baseline in known.probed.baselines:
        report.good(f"target {target}: {reference_line(baseline)}")
    header = outcome.artifacts.get(("", HEADER), b"").decode()
    calls = [action for action in ask(state, time.time_ns()) if isinstance(action, CallModel)]
    first = next((action for action in calls if action.target == target), None)
    return state, highest_input_tokens(build(inputs, state, first, header, {}).messages) if first else 0

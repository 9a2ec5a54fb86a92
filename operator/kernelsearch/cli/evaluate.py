"""`kernelsearch evaluate`: what a search would say of these kernels, on this machine, without a search.

One batch goes to the same judge, under the same lock of the machine. For people every verdict is shown as it comes;
with --json standard output is one `Evaluation` document at the end and nothing else. Either way the exit code is the
verdict. Neighbours: chosen.py (what was asked), verdicts.py (the words), passing.py (the judge, gone when this ends).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from kernelharness.protocol import Baseline, CaseFact, Hello, ProblemFact, Purpose, Result, Verdict
from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from kernelsearch.cli.chosen import Chosen, Wanted, choose
from kernelsearch.cli.exits import CommandError, Exit
from kernelsearch.cli.given import reading
from kernelsearch.cli.machine import this_machine
from kernelsearch.cli.narrate import reference_line
from kernelsearch.cli.passing import passing_evaluator, run_until_told
from kernelsearch.cli.verdicts import device_lines, header_lines, headline, problem_lines, result_lines
from kernelsearch.cli.views import open_console
from kernelsearch.engine.batches import HEADER, to_batch
from kernelsearch.evaluate.base import BatchOutcome, BatchRequest, OnProgress, Progress


class Judged(BaseModel):
    """One candidate of the document."""

    file: str
    id: str
    """How the judge calls it, in flags for example."""
    result: Result | None
    """None: the judge ended before it came to this one."""


class Evaluation(BaseModel):
    """What --json prints."""

    format: Literal[1] = 1
    problem_file: str
    profile: str
    language: str
    purpose: Purpose
    exit_code: int
    error: str = ""
    """Why there is no verdict, or why there cannot be one."""
    judge: Hello | None
    problem: ProblemFact | None
    header: str
    """problem.h, which a native kernel is written against; empty for Python languages."""
    baselines: tuple[Baseline, ...]
    candidates: tuple[Judged, ...]
    device_seconds: float


def evaluate_files(file: Path, candidates: Sequence[Path], wanted: Wanted, *, confirm: bool, as_json: bool) -> Exit:
    """Raise CommandError when something keeps the judge from a verdict; what it did say was shown by then."""
    if confirm and len(candidates) != 1:
        raise CommandError(Exit.USAGE, f"--confirm judges one candidate, as a search does; here are {len(candidates)}")
    with reading(file):
        chosen = choose(file, candidates, wanted, this_machine())
    purpose = Purpose.CONFIRM if confirm else Purpose.SEARCH if candidates else Purpose.PROBE
    teller = Teller(open_console(), chosen)
    if as_json:
        outcome = run_until_told(_judge(chosen, purpose, lambda _: None))
    else:
        teller.begin(file)
        outcome = run_until_told(_judge(chosen, purpose, teller.on_progress))
        teller.end(outcome)
    code, why = ending(chosen, outcome)
    if as_json:
        document = to_document(file, chosen, purpose, outcome, code, why)
        sys.stdout.write(document.model_dump_json(indent=2) + "\n")
    if why:
        raise CommandError(code, why)
    return code


async def _judge(chosen: Chosen, purpose: Purpose, on_progress: OnProgress) -> BatchOutcome:
    batch = to_batch("evaluate", purpose, chosen.problem, chosen.profile, chosen.language, chosen.sources)
    request = BatchRequest(search_uid="evaluate", target=chosen.profile.metadata.name, batch=batch)
    async with passing_evaluator() as evaluator:
        return await evaluator.evaluate(request, on_progress)


def ending(chosen: Chosen, outcome: BatchOutcome) -> tuple[Exit, str]:
    """What the shell is told, and why there is no verdict where one is missing."""
    if outcome.problem is not None and outcome.problem.verdict.is_problem_fault:
        return Exit.FAILED, f"no kernel can be judged, {outcome.problem.verdict.value}: {outcome.problem.reason}"
    if outcome.infrastructure == "InvalidBatch":
        return Exit.USAGE, outcome.message
    compiled = {result.candidate for result in outcome.results if result.verdict is Verdict.COMPILED}
    decided = {result.candidate: result for result in outcome.results if not result.verdict.is_infrastructure}
    undecided = [str(path) for id, path in chosen.files.items() if id not in decided and id not in compiled]
    why = ""
    if outcome.infrastructure:
        why = f"the judge did not finish, {outcome.infrastructure}: {outcome.message}"
    elif outcome.problem is None:
        why = "the judge said nothing about the problem"
    elif outcome.problem.verdict is not Verdict.OK:
        why = f"no kernel can be judged here: {outcome.problem.reason}"
    elif undecided:
        why = f"no verdict on {', '.join(undecided)}, by no fault of the candidate: run it again"
    if any(result.verdict is not Verdict.OK for result in decided.values()):
        return Exit.REJECTED, why
    if not why and compiled and outcome.problem is not None:
        return Exit.NOT_RUN, f"compiled, not run: {outcome.problem.not_run}"
    return Exit.UNUSABLE if why else Exit.DONE, why


def to_document(
    file: Path, chosen: Chosen, purpose: Purpose, outcome: BatchOutcome, code: Exit, why: str
) -> Evaluation:
    results = {result.candidate: result for result in outcome.results}
    return Evaluation(
        problem_file=str(file),
        profile=chosen.profile.metadata.name,
        language=chosen.language,
        purpose=purpose,
        exit_code=int(code),
        error=why,
        judge=outcome.hello,
        problem=outcome.problem,
        header=_header(outcome),
        baselines=outcome.baselines,
        candidates=tuple(Judged(file=str(path), id=id, result=results.get(id)) for id, path in chosen.files.items()),
        device_seconds=outcome.device_seconds,
    )


def _header(outcome: BatchOutcome) -> str:
    return outcome.artifacts.get(("", HEADER), b"").decode()


_STYLES = {Verdict.OK: "bold green", Verdict.COMPILED: "bold yellow"}


class Teller:
    """Prints what the judge says, when it says it."""

    def __init__(self, console: Console, chosen: Chosen) -> None:
        self._console, self._chosen = console, chosen
        self._facts: list[CaseFact] = []

    def begin(self, file: Path) -> None:
        chosen = self._chosen
        name = chosen.profile.metadata.name
        self._say([f"problem {file}: {chosen.language} for {name}, on this machine"])
        if chosen.other_languages:
            others = " or ".join(chosen.other_languages)
            self._say([f"note: judged as {chosen.language}; if it is {others}, say so with --language"])

    def on_progress(self, progress: Progress) -> None:
        match progress.said:
            case None:
                if progress.state != "Running":
                    self._say([f"{progress.state.lower()}: {progress.message}"])
            case Hello() as hello:
                self._say(device_lines(hello))
            case ProblemFact() as problem:
                self._facts = problem.cases
                self._say(problem_lines(problem.cases))
                if problem.not_run:
                    self._say([f"note: kernels are compiled and not run: {problem.not_run}"])
            case Baseline() as baseline:
                self._say([reference_line(baseline)])
            case Result() as result:
                style = _STYLES.get(result.verdict, "bold red")
                self._say(["", headline(str(self._chosen.files[result.candidate]), result)], style)
                self._say(f"  {line}" for line in result_lines(result, self._facts))

    def end(self, outcome: BatchOutcome) -> None:
        if outcome.results:
            best = Verdict.COMPILED if outcome.problem and outcome.problem.not_run else Verdict.OK
            count = sum(result.verdict is best for result in outcome.results)
            what = "compiled, none run" if best is Verdict.COMPILED else "right"
            total = len(self._chosen.files)
            self._say(["", f"{count} of {total} {what}; the judge worked for {outcome.device_seconds:.1f} s"])
        if not self._chosen.files and (header := _header(outcome)):
            self._say(["", f"{HEADER}, which a kernel is written against (--json has all of it):", ""])
            self._say(header_lines(header))

    def _say(self, lines: Iterable[str], style: str = "") -> None:
        for line in lines:
            self._console.print(Text(line, style), soft_wrap=True)

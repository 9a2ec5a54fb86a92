"""`kernelsearch run`: one search on this machine, from wherever its journal stands to its end or to Ctrl-C.

Nothing here decides anything about the search: it opens the folder, starts the engine, shows what it says, and turns
how it ended into a table, a report and an exit code.
"""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
import time
from pathlib import Path

from rich.console import Console

from kernelsearch.cli.cost import highest_cost
from kernelsearch.cli.exits import CommandError, Exit
from kernelsearch.cli.flags import Overrides
from kernelsearch.cli.folder import SearchFolder, uid_of
from kernelsearch.cli.given import Given, reading, resolve
from kernelsearch.cli.machine import this_machine
from kernelsearch.cli.models import ask_all
from kernelsearch.cli.narrate import Narrator
from kernelsearch.cli.publisher import FolderPublisher
from kernelsearch.cli.report import write_report
from kernelsearch.cli.views import open_console, targets_table, usage_line, view_for
from kernelsearch.engine import Ended, Engine, ProblemChanged, SearchInputs, to_limits
from kernelsearch.llm.client import LlmClient
from kernelsearch.llm.errors import LlmReason
from kernelsearch.search.state import State, fold
from kernelsearch.store.base import StoreError


def run_search(file: Path, overrides: Overrides, out: Path, *, fresh: bool, yes: bool) -> Exit:
    """Raise CommandError when nothing can be run."""
    console = open_console()
    given = resolve_file(file, overrides)
    if given.spec.suspend:
        raise CommandError(Exit.USAGE, f"search {given.name} is suspended: set spec.suspend to false to run it")
    folder = SearchFolder(out / given.name)
    try:
        return asyncio.run(_run(console, given, folder, fresh=fresh, yes=yes))
    except StoreError as error:
        raise CommandError(Exit.UNUSABLE, str(error)) from error
    except ProblemChanged as error:
        raise CommandError(Exit.USAGE, f"{error} (kernelsearch run {file} --fresh)") from error


def resolve_file(file: Path, overrides: Overrides) -> Given:
    """What the command was given, for this machine. Raise CommandError."""
    with reading(file):
        return resolve(file, overrides, this_machine())


async def _run(console: Console, given: Given, folder: SearchFolder, *, fresh: bool, yes: bool) -> Exit:
    if fresh and folder.journal.exists():
        _agree(console, f"remove the search in {folder.path} with all that it found?", yes)
        await folder.start_over()
    async with folder.open() as store:
        inputs = given.inputs(await uid_of(store))
        before = fold(await store.read(inputs.uid))
        _introduce(console, given, before)
        if not before.uid and console.is_terminal and highest_cost(to_limits(given.spec)).is_money:
            _agree(console, "go on?", yes)
        narrator = Narrator()
        narrator.skip(before)
        max_requests = given.spec.llm.max_concurrent_requests if given.spec.llm else 1
        async with LlmClient(max_concurrent_requests=max_requests) as client:
            if before.stopped is None:
                await _need_a_model(client, inputs)
            with view_for(console, narrator) as view:
                engine = Engine(
                    inputs,
                    store=store,
                    evaluator=folder.evaluator(),
                    client=client,
                    publisher=FolderPublisher(store, folder.bundle),
                    observe=view.show,
                )
                ended = await _until_told(engine, console)
        await write_report(folder.report, inputs, ended, store)
    _conclude(console, given, folder, ended)
    return exit_code(ended)


async def _need_a_model(client: LlmClient, inputs: SearchInputs) -> None:
    """A wrong address or key is told at once, not after the reference was measured and many calls were tried."""
    answers = await ask_all(client, inputs.endpoints)
    reasons = [f"model {name}: {error}" for name, error in answers.items() if error is not None]
    busy = any(error and error.reason is LlmReason.RATE_LIMITED and not error.permanent for error in answers.values())
    if reasons and len(reasons) == len(answers) and not busy:
        raise CommandError(Exit.FAILED, "no model answers, nothing was run\n" + "\n".join(reasons))


async def _until_told(engine: Engine, console: Console) -> Ended:
    """Run; the first Ctrl-C (or SIGTERM) ends the search in good order, the second leaves at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        console.print("stopping; again to leave at once")
        engine.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        return await engine.run()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _agree(console: Console, question: str, yes: bool) -> None:
    if yes:
        return
    if not console.is_terminal:
        raise CommandError(Exit.USAGE, f"{question} Add --yes to say so without a terminal")
    if console.input(f"{question} [y/N] ", markup=False).strip().lower() not in ("y", "yes"):
        raise CommandError(Exit.USAGE, "nothing was done")


def _introduce(console: Console, given: Given, before: State) -> None:
    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    say(f"search {given.name}" + (f", going on after {before.finished} candidates" if before.uid else ""))
    for target in given.spec.targets:
        say(f"target {target.name}: {target.language} for {target.profile}, on this machine")
    for name, why in given.skipped.items():
        say(f"target {name}: skipped, {why}")
    for model in given.spec.llm.models if given.spec.llm else ():
        say(f"model {model.name}: {model.model} at {model.endpoint}")
    say(f"highest possible cost: {highest_cost(to_limits(given.spec))}")


def _conclude(console: Console, given: Given, folder: SearchFolder, ended: Ended) -> None:
    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    say("")
    console.print(targets_table(ended.state))
    for name in given.skipped:
        say(f"{name}: skipped")
    say(usage_line(ended.state, time.time_ns()))
    if ended.stopped is None:
        again = shlex.join(["kernelsearch", *(word for word in sys.argv[1:] if word != "--fresh")])
        say(f"interrupted; nothing is lost: {again} goes on from here")
    else:
        say(f"{ended.stopped.reason.value}: {ended.stopped.message}")
    if ended.refused is not None:
        say(f"not published, {ended.refused.reason}: {ended.refused.message}")
    elif ended.published is not None:
        say(f"kernel: {folder.bundle}")
    elif ended.stopped is not None and not ended.stopped.reason.is_failure:
        say("nothing verified is faster than the reference, so nothing is published")
    say(f"report: {folder.report}")


def exit_code(ended: Ended) -> Exit:
    """What the shell is told."""
    if ended.stopped is None:
        return Exit.INTERRUPTED
    if ended.refused is not None:
        return Exit.FAILED
    if ended.published is not None:
        return Exit.DONE
    return Exit.FAILED if ended.stopped.reason.is_failure else Exit.NO_IMPROVEMENT

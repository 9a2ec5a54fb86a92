"""The commands and their options. What they do is in the module of the same name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kernelsearch.cli.exits import CommandError, Exit
from kernelsearch.cli.flags import Overrides

app = typer.Typer(
    name="kernelsearch",
    help="Search for faster kernels with a language model, and keep only what was verified.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

File = Annotated[Path, typer.Argument(help="A KernelSearch manifest (YAML), or a KernelBench file (.py).")]
Endpoint = Annotated[
    str | None, typer.Option(metavar="URL", help="OpenAI-compatible base URL, in place of the manifest's.")
]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="Model name, in place of the manifest's.")]
Candidates = Annotated[int | None, typer.Option(min=1, help="In place of the manifest's budget.candidates.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="State and results go to DIR/<name of the search>.")]


@app.command()
def run(
    file: File,
    llm_endpoint: Endpoint = None,
    llm_model: Model = None,
    candidates: Candidates = None,
    out: Out = Path("out"),
    fresh: Annotated[bool, typer.Option(help="Remove what is there and start over.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Run a search on this machine. The same command again goes on where it stopped.

    The key of the endpoint is read from KERNELSEARCH_LLM_API_KEY. Exit code: 0 a verified kernel was published, 3
    nothing verified is faster, 4 the search failed, 2 the file is wrong, 5 this machine or its state cannot be used,
    130 interrupted.
    """
    from kernelsearch.cli.run import run_search

    _exit(run_search(file, Overrides(llm_endpoint, llm_model, candidates), out, fresh=fresh, yes=yes))


@app.command()
def check(file: File, llm_endpoint: Endpoint = None, llm_model: Model = None, candidates: Candidates = None) -> None:
    """Check a file before anything is spent: its rules, its problem, its models, its highest possible cost.

    Exit code: 0 in order, 2 the file is wrong, 4 the problem cannot be judged or a model does not answer.
    """
    from kernelsearch.cli.check import check_file

    _exit(check_file(file, Overrides(llm_endpoint, llm_model, candidates)))


@app.command()
def evaluate(
    problem: File,
    candidates: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Kernels (.cpp, .cu, .py, or as the profile says), judged as one batch. None: the reference alone."
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="An AcceleratorProfile: packaged, of the manifest, or a YAML file."),
    ] = None,
    language: Annotated[
        str | None, typer.Option(metavar="NAME", help="In place of the one that the candidates' suffix means.")
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=DIM=N,...]", help="Only this case of the manifest, or one of these sizes. May be repeated."
        ),
    ] = None,
    confirm: Annotated[bool, typer.Option("--confirm", help="As a new best is confirmed: more samples.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Judge kernels on this machine, exactly as a search would: verdict, times, and what the model would be told.

    Without a candidate the reference is measured, and the header shown that a native kernel is written against.
    Exit code: 0 every candidate is right (also one that is slower than the reference: the output says so), 6 a
    candidate was rejected, 2 the command line or a file is wrong, 4 the problem cannot be judged, 5 this machine
    cannot be used or came to no verdict, 130 interrupted.
    """
    from kernelsearch.cli.chosen import Wanted
    from kernelsearch.cli.evaluate import evaluate_files

    wanted = Wanted(profile, language, tuple(case or ()))
    _exit(evaluate_files(problem, candidates or [], wanted, confirm=confirm, as_json=as_json))


@app.command()
def crds(
    directory: Annotated[Path, typer.Argument(help="Repository root.")] = Path(),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail when a file differs.")] = False,
) -> None:
    """Write the custom resource definitions, generated from the typed models."""
    from kernelsearch.cli.crds import write_crds

    _exit(write_crds(directory, check=check))


@app.command()
def operator() -> None:
    """Run the operator in a cluster. Its settings are the environment variables that the chart sets."""
    from kernelsearch.cli.cluster import run_operator

    _exit(run_operator())


@app.command()
def suspend(
    every: Annotated[bool, typer.Option("--all", help="Every search that the operator holds.")] = False,
) -> None:
    """Suspend searches, so that the operator can be removed. The chart's pre-delete hook calls this."""
    from kernelsearch.cli.cluster import suspend_searches

    _exit(suspend_searches(every=every))


def _exit(code: Exit) -> None:
    raise typer.Exit(int(code))


def main() -> None:
    """The console script."""
    try:
        app()
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(int(error.code))

"""The commands that run inside a cluster. Their packages are an extra, so they are imported when they are called."""

from __future__ import annotations

import asyncio

from kernelsearch.cli.exits import CommandError, Exit

_MISSING = "the operator's packages are not installed ({name}): pip install 'kernelsearch[operator]'"


def run_operator() -> Exit:
    """Run the controller until it is told to end."""
    try:
        from kernelsearch.controller.main import run
    except ModuleNotFoundError as error:
        raise CommandError(Exit.UNUSABLE, _MISSING.format(name=error.name)) from error
    return Exit(run())


def suspend_searches(*, every: bool) -> Exit:
    """Suspend every search that the operator holds, and return when it has let go."""
    if not every:
        raise CommandError(
            Exit.USAGE, "only --all is possible; one search is suspended by kubectl patch, or by setting spec.suspend"
        )
    try:
        from kernelsearch.controller.suspend_all import main
    except ModuleNotFoundError as error:
        raise CommandError(Exit.UNUSABLE, _MISSING.format(name=error.name)) from error
    asyncio.run(main())
    return Exit.DONE

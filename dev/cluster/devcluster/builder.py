"""buildah, with its storage in the cache.

It runs in a mount namespace of its own, so that whatever interrupts it leaves no mount behind, and with chroot
isolation, because it may itself run in a container.
"""

from pathlib import Path

from devcluster.instance import Instance
from devcluster.progress import run, run_logged


def _command(instance: Instance, *words: str | Path) -> tuple[str | Path, ...]:
    storage = instance.cache / "buildah"
    return (
        *("unshare", "--mount", "--propagation", "private"),
        *("buildah", "--root", storage / "storage", "--runroot", storage / "run", "--storage-driver", "overlay"),
        *words,
    )


_ENVIRONMENT = {"BUILDAH_ISOLATION": "chroot"}


def buildah(instance: Instance, *words: str | Path) -> str:
    """Runs a short buildah command; returns its standard output."""
    return run(*_command(instance, *words), env=_ENVIRONMENT)


def buildah_logged(instance: Instance, log: Path, *words: str | Path) -> None:
    """Runs a long buildah command with its output in `log`."""
    run_logged(log, *_command(instance, *words), env=_ENVIRONMENT)

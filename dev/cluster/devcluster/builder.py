"""buildah, with its storage in the cache.

It runs in a mount namespace of its own, so that whatever interrupts it leaves no mount behind, and with chroot
isolation, because it may itself run in a container.
"""

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

from devcluster.instance import Instance
from devcluster.locks import exclusive
from devcluster.progress import run, run_logged


@contextlib.contextmanager
def storage(instance: Instance) -> Iterator[None]:
    """Hold this around buildah's commands: one at a time, and what an interrupted one left half-made is dropped."""
    with exclusive(instance.cache / "buildah.lock"):
        buildah(instance, "rm", "--all")
        yield


def _command(instance: Instance, *words: str | Path) -> tuple[str | Path, ...]:
    place = instance.cache / "buildah"
    for folder in (place / "blobs", _BLOBS):
        folder.mkdir(parents=True, exist_ok=True)
    inside = f'mount --bind {shlex.quote(str(place / "blobs"))} {_BLOBS} && exec buildah "$@"'
    return (
        *("unshare", "--mount", "--propagation", "private", "sh", "-c", inside, "buildah"),
        *("--root", place / "storage", "--runroot", place / "run", "--storage-driver", "overlay"),
        *words,
    )


# What buildah remembers of layers in registries has a fixed place; ours lies over it.
_BLOBS = Path("/var/lib/containers/cache")
_ENVIRONMENT = {"BUILDAH_ISOLATION": "chroot"}


def buildah(instance: Instance, *words: str | Path) -> str:
    """Runs a short buildah command; returns its standard output."""
    return run(*_command(instance, *words), env=_ENVIRONMENT)


def buildah_logged(instance: Instance, log: Path, *words: str | Path) -> None:
    """Runs a long buildah command with its output in `log`."""
    run_logged(log, *_command(instance, *words), env=_ENVIRONMENT)

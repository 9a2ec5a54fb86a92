"""What the scripts beside this package do: one command each, failures as text, and another cluster when one is given.

`KERNELSEARCH_KUBECONFIG` names a cluster of your own. Then `up` only checks that it answers, `down` leaves it alone,
and `env` points everything at it.
"""

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from devcluster import binaries, bringup, images, instance, packages
from devcluster.instance import Instance
from devcluster.progress import Failure, run, say


def external() -> Path | None:
    """The kubeconfig of a cluster that was given to us, if any."""
    given = os.environ.get("KERNELSEARCH_KUBECONFIG")
    if not given:
        return None
    path = Path(given).expanduser().absolute()
    if not path.is_file():
        raise Failure(f"KERNELSEARCH_KUBECONFIG={given}: there is no such file")
    return path


def _up(own: Instance) -> None:
    if given := external():
        programs = binaries.build(own)
        run(programs / "kubectl", "--kubeconfig", given, "get", "--raw", "/readyz")
        say(f"using the cluster of {given}")
    else:
        bringup.up(own)


def _down(own: Instance) -> None:
    if given := external():
        say(f"the cluster of {given} is not ours to stop")
    else:
        bringup.down(own)


def _status(own: Instance) -> None:
    if given := external():
        print(run(binaries.folder(own) / "kubectl", "--kubeconfig", given, "get", "nodes"), end="")
    elif not bringup.status(own):
        sys.exit(3)


def _build(own: Instance) -> None:
    packages.ensure(packages.IMAGES, own.cache)
    print(binaries.build(own))


def _images(own: Instance) -> None:
    if "--build-only" in sys.argv[1:]:
        images.build(own, [word for word in sys.argv[1:] if word != "--build-only"])
        return
    for name, reference in images.publish(own, sys.argv[1:]).items():
        print(f"{name} {reference}")


def _env(own: Instance) -> None:
    print(f"export KUBECONFIG={shlex.quote(str(external() or own.kubeconfig))}")
    print(f'export PATH={shlex.quote(str(binaries.folder(own)))}:"$PATH"')


_COMMANDS: dict[str, Callable[[Instance], None]] = {
    "up": _up,
    "down": _down,
    "status": _status,
    "build": _build,
    "images": _images,
    "env": _env,
}


def main(command: str) -> None:
    try:
        _COMMANDS[command](instance.current())
    except Failure as failure:
        sys.exit(f"dev/cluster/{command}: {failure}")
    except KeyboardInterrupt:
        sys.exit(f"\ndev/cluster/{command}: interrupted; run it again to continue, or dev/cluster/down to clean up")

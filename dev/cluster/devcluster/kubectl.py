"""kubectl against an instance's own API server."""

from devcluster import binaries
from devcluster.instance import Instance
from devcluster.progress import run


def kubectl(instance: Instance, *words: str, stdin: str | None = None) -> str:
    """Runs kubectl as the administrator; returns its standard output, raises Failure with its message."""
    program = binaries.folder(instance) / "kubectl"
    return run(program, "--kubeconfig", instance.kubeconfig, *words, stdin=stdin)

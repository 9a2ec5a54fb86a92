"""The few programs that come from the distribution rather than from Go modules."""

import os
import shutil
from pathlib import Path

from devcluster.progress import Failure, run_logged, step

# program or file -> Debian package
NODE = {
    "runc": "runc",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "iptables": "iptables",
    "ip": "iproute2",
    "openssl": "openssl",
    "docker-registry": "docker-registry",
    "buildah": "buildah",
}
IMAGES = {"buildah": "buildah", "debootstrap": "debootstrap"}


def ensure(needed: dict[str, str], logs: Path) -> None:
    """Installs what is missing when that is possible, else says which packages to install."""
    missing = sorted({package for program, package in needed.items() if shutil.which(program) is None})
    if not missing:
        return
    names = " ".join(missing)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Failure(f"missing programs; install these packages (named as in Debian): {names}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    with step(f"installing {names}"):
        # An old package list is the usual reason for a failed download, and refreshing it costs only seconds.
        run_logged(logs / "apt-update.log", "apt-get", "update", env=quiet)
        # The registry's package would start a service of its own on our port.
        run_logged(
            logs / "apt-install.log",
            *("apt-get", "install", "--yes", "--no-install-recommends", *missing),
            env={**quiet, "RUNLEVEL": "1"},
        )

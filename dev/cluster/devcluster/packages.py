"""The few programs that come from the distribution rather than from Go modules."""

import os
import shutil
from pathlib import Path

from devcluster.locks import exclusive
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
# Run level 1: the registry's package would start a service of its own, on our port.
_QUIET = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
IMAGES = {"buildah": "buildah", "debootstrap": "debootstrap"}


def ensure(needed: dict[str, str], cache: Path) -> None:
    """Installs what is missing when that is possible, else says which packages to install."""
    if not _missing(needed):
        return
    with exclusive(cache / "packages.lock"):
        if not (missing := _missing(needed)):  # another command was faster
            return
        names = " ".join(missing)
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise Failure(f"missing programs; install these packages (named as in Debian): {names}")
        with step(f"installing {names}"):
            # An old package list is the usual reason for a failed download, and refreshing it costs only seconds.
            run_logged(cache / "log" / "apt-update.log", "apt-get", "update", env=_QUIET)
            install = ("apt-get", "install", "--yes", "--no-install-recommends", *missing)
            run_logged(cache / "log" / "apt-install.log", *install, env=_QUIET)


def _missing(needed: dict[str, str]) -> list[str]:
    return sorted({package for program, package in needed.items() if shutil.which(program) is None})

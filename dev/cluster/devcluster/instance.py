"""Names and places of one development cluster.

Everything a cluster owns on disk lies under `state` and goes with `down`; what is expensive to make (binaries, image
layers, the registry's storage) lies under `cache`, is shared by all instances and stays. Both are outside the
repository. All addresses of an instance lie in one /16, so two instances never meet.
"""

import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from devcluster.progress import Failure

HERE = Path(__file__).resolve().parent.parent
REPOSITORY = HERE.parent.parent
DEFAULT = "dev"
REGISTRY_PORT = 5000


@dataclass(frozen=True)
class Instance:
    """One cluster: `name` tells instances apart, `block` is the X of its addresses 10.X.0.0/16."""

    name: str
    block: int
    state: Path
    cache: Path

    # -- addresses ------------------------------------------------------------------------------------------------
    @property
    def network(self) -> str:
        """Everything of this instance; the host has one route to it."""
        return f"10.{self.block}.0.0/16"

    @property
    def pods(self) -> str:
        return f"10.{self.block}.0.0/18"

    @property
    def services(self) -> str:
        return f"10.{self.block}.96.0/20"

    @property
    def api_service(self) -> str:
        return f"10.{self.block}.96.1"

    @property
    def dns_service(self) -> str:
        return f"10.{self.block}.96.10"

    @property
    def isolated_pod(self) -> str:
        """The address of every isolated pod: none of them can send anything, so it need not be unique."""
        return f"10.{self.block}.64.1"

    @property
    def host(self) -> str:
        """This machine as pods see it."""
        return f"10.{self.block}.255.1"

    @property
    def node(self) -> str:
        """The node as this machine and the pods see it: API server, kubelet, registry."""
        return f"10.{self.block}.255.2"

    @property
    def link(self) -> str:
        """The interface on the host that leads to the node."""
        return f"ks-{self.name}"

    @property
    def registry(self) -> str:
        """How image names begin: the node pulls there; the default instance serves it on this machine too."""
        return f"127.0.0.1:{REGISTRY_PORT}"

    @property
    def serves_registry(self) -> bool:
        """Only one instance can own the port on this machine; all share one storage, so that is enough."""
        return self.name == DEFAULT

    # -- places ---------------------------------------------------------------------------------------------------
    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def logs(self) -> Path:
        return self.state / "log"

    @property
    def containerd_socket(self) -> Path:
        return self.state / "containerd.sock"

    @property
    def pid_file(self) -> Path:
        """Locked by the sandbox for as long as it lives; its text is the keeper's pid."""
        return self.state.with_suffix(".pid")

    @property
    def command_lock(self) -> Path:
        """Held by `up`, `down` and `images` while they change something."""
        return self.state.with_suffix(".lock")

    @property
    def cgroup(self) -> str:
        return f"kernelsearch-{self.name}"


def current() -> Instance:
    """The instance that the environment names; raises Failure if it cannot have a name or a place like that."""
    name = os.environ.get("KERNELSEARCH_CLUSTER", DEFAULT)
    if not re.fullmatch(r"[a-z0-9]{1,11}", name):
        raise Failure(
            f"KERNELSEARCH_CLUSTER={name!r}: use 1 to 11 lower-case letters and digits (an interface is named so)"
        )
    block = 244 if name == DEFAULT else 128 + zlib.crc32(name.encode()) % 64
    block = int(os.environ.get("KERNELSEARCH_CLUSTER_BLOCK", block))
    home = Path.home()
    states = Path(os.environ.get("KERNELSEARCH_STATE", home / ".local" / "state" / "kernelsearch")).absolute()
    cache = Path(os.environ.get("KERNELSEARCH_CACHE", home / ".cache" / "kernelsearch")).absolute()
    state = states / name
    # The longest socket path below it must fit sockaddr_un (108 bytes).
    if len(str(state)) > 60:
        raise Failure(f"{state} is too long for the Unix sockets inside it: set KERNELSEARCH_STATE to a shorter path")
    return Instance(name, block, state, cache)

"""Builds the cluster's programs from the pinned Go modules under modules/.

The result lies in the cache under a hash of everything that decides it, and appears there by one rename: it is whole
or absent, a second build is a look-up, and an interrupted one goes on from Go's own cache.
"""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

from devcluster.builder import buildah, storage
from devcluster.instance import HERE, Instance
from devcluster.locks import exclusive
from devcluster.progress import Failure, run, run_logged, say, step

MODULES = HERE / "modules"
KUBERNETES = "1.36.3"
COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl")
# Without the version stamped in, clients would see v0.0.0.
_VERSION = "k8s.io/component-base/version"
_STAMP = " ".join(
    f"-X {_VERSION}.{name}={value}"
    for name, value in {
        "gitVersion": f"v{KUBERNETES}",
        "gitMajor": KUBERNETES.split(".")[0],
        "gitMinor": KUBERNETES.split(".")[1],
        "gitTreeState": "clean",
    }.items()
)
# module folder -> (package -> program), extra linker flags
_CONTAINERD = "github.com/containerd/containerd/v2/cmd"
PROGRAMS: dict[str, tuple[dict[str, str], str]] = {
    "kube": ({".": "kube"}, _STAMP),
    "etcd": ({"go.etcd.io/etcd/server/v3": "etcd"}, ""),
    "containerd": (
        {f"{_CONTAINERD}/{name}": name for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
        "-X github.com/containerd/containerd/v2/version.Version=v2.4.2",
    ),
    "coredns": ({".": "coredns"}, ""),
    "helm": ({"helm.sh/helm/v4/cmd/helm": "helm"}, ""),
    "pause": ({".": "pause"}, ""),
}
_FLAGS = {"CGO_ENABLED": "0", "GOFLAGS": "-trimpath", "GOWORK": "off"}
# Programs that run in pods, as images of their own: program -> image
IMAGES = {"pause": "localhost/kernelsearch/pause:dev", "coredns": "localhost/kernelsearch/coredns:dev"}


def key() -> str:
    """A hash of the pins, our own Go sources and how they are built."""
    digest = hashlib.sha256(json.dumps([PROGRAMS, _FLAGS, IMAGES], sort_keys=True).encode())
    for path in sorted(MODULES.glob("*/*")):
        digest.update(f"{path.relative_to(MODULES)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def folder(instance: Instance) -> Path:
    """Where the programs of these pins are once they are built."""
    return instance.cache / "bin" / key()


def build(instance: Instance) -> Path:
    """Builds what is missing and returns the folder of programs."""
    done = folder(instance)
    if done.exists():
        return done
    with exclusive(done.parent / ".lock"):
        if done.exists():
            return done
        _check_go()
        say("Building the cluster's programs (once; minutes on a cold Go cache)")
        work = done.with_suffix(".building")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        for module, (packages, linker) in PROGRAMS.items():
            with step(f"{module}: {', '.join(packages.values())}"):
                for package, program in packages.items():
                    run_logged(
                        instance.cache / "log" / f"go-{program}.log",
                        *("go", "build", "-ldflags", f"-s -w {linker}".strip(), "-o", work / program, package),
                        env=_FLAGS,
                        cwd=MODULES / module,
                    )
        for component in COMPONENTS:
            (work / component).symlink_to("kube")
        for program, image in IMAGES.items():
            with step(f"image of {program}"), storage(instance):
                _archive(instance, work / program, image, work / f"{program}.tar")
        work.rename(done)
    return done


def _check_go() -> None:
    wanted = max(re.findall(r"^go (1\.\d+)", "\n".join(p.read_text() for p in MODULES.glob("*/go.mod")), re.MULTILINE))
    try:
        found = run("go", "env", "GOVERSION").strip()
    except (FileNotFoundError, subprocess.SubprocessError):
        raise Failure(f"Go is not installed: install Go {wanted} or newer from your distribution or go.dev") from None
    numbers = re.match(r"go1\.(\d+)", found)
    if numbers and int(numbers[1]) < int(wanted.split(".")[1]):
        raise Failure(f"{found} is too old: the cluster's modules need Go {wanted} or newer")


def _archive(instance: Instance, program: Path, image: str, archive: Path) -> None:
    """One static program as an image, in a file that containerd imports."""
    container = buildah(instance, "from", "scratch").strip()
    buildah(instance, "copy", "--quiet", "--chmod", "0755", container, program, f"/{program.name}")
    buildah(instance, "config", "--entrypoint", json.dumps([f"/{program.name}"]), "--user", "65535:65535", container)
    buildah(instance, "commit", "--quiet", "--rm", container, image)
    buildah(instance, "push", "--quiet", image, f"docker-archive:{archive}:{image}")

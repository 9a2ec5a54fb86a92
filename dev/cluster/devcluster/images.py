"""The project's images: built from the Dockerfiles that users build, pushed to a registry.

buildah's layer cache and the registry's storage outlive the cluster, so torch is installed once and a change of code
builds and moves one small layer. Layers are compressed for speed rather than size: here they only cross this machine.
"""

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from devcluster import packages
from devcluster.builder import buildah, buildah_logged, storage
from devcluster.instance import REPOSITORY, Instance
from devcluster.locks import exclusive
from devcluster.progress import Failure, run, run_logged, step


@dataclass(frozen=True)
class Image:
    """One of the project's images: a stage of a Dockerfile."""

    dockerfile: str
    target: str | None = None
    arguments: tuple[str, ...] = ()


# Which torch: settings of this build, as a user would give them to `docker build`.
_TORCH = ("TORCH_SPEC", "TORCH_INDEX", "TORCH_DEVICE")
IMAGES = {
    "operator": Image("operator/Dockerfile"),
    "serving": Image("harness-image/Dockerfile", "serving", _TORCH),
    "harness": Image("harness-image/Dockerfile", "harness", _TORCH),
}
TEST_IMAGES = {
    # Speaks the judge's protocol and does as its batch says.
    "scripted-judge": Image("tests/cluster/scripted_judge/Dockerfile"),
}
_SUITE, _MIRROR = "bookworm", "http://deb.debian.org/debian"


def build(instance: Instance, names: list[str]) -> None:
    """Builds images without pushing them: needs no cluster, so it may run while the cluster's programs are built."""
    _check(names)
    packages.ensure(packages.IMAGES, instance.cache)
    with storage(instance):
        _build_all(instance, names)


def publish(instance: Instance, names: list[str]) -> dict[str, str]:
    """Builds and pushes images; returns their references by digest (kept in `images.json` in the cache as well)."""
    _check(names)
    registry = os.environ.get("KERNELSEARCH_REGISTRY", instance.registry)
    packages.ensure(packages.IMAGES, instance.cache)
    references_file = instance.cache / "images.json"
    references: dict[str, str] = json.loads(references_file.read_text()) if references_file.exists() else {}
    with exclusive(instance.command_lock), storage(instance):
        _build_all(instance, names)
        for name in names or IMAGES:
            with step(f"pushing {name}"):
                references[name] = _push(instance, name, registry)
            partial = references_file.with_suffix(".partial")
            partial.write_text(json.dumps(references, indent=1) + "\n")
            partial.replace(references_file)
    return {name: references[name] for name in names or IMAGES}


def _check(names: list[str]) -> None:
    if unknown := sorted(set(names) - set(IMAGES | TEST_IMAGES)):
        raise Failure(f"no such image: {', '.join(unknown)}; there are {', '.join(IMAGES)}")


def _build_all(instance: Instance, names: list[str]) -> None:
    base = _base(instance)
    for name in names or IMAGES:
        with step(f"building {name}"):
            _build(instance, name, base)
    buildah(instance, "rmi", "--prune")  # what earlier builds of the same names left behind


def _local(name: str) -> str:
    return f"localhost/kernelsearch/{name}:dev"


def _base(instance: Instance) -> str:
    """The base image: what KERNELSEARCH_BASE_IMAGE names, else a small Debian made here, because no public registry
    need be reachable."""
    if given := os.environ.get("KERNELSEARCH_BASE_IMAGE"):
        return given
    suite = os.environ.get("KERNELSEARCH_BASE_SUITE", _SUITE)
    mirror = os.environ.get("KERNELSEARCH_DEBIAN_MIRROR", _MIRROR)
    name = _local(f"debian-{suite}")
    if name in buildah(instance, "images", "--format", "{{.Name}}:{{.Tag}}").split():
        return name
    with step(f"base image: Debian {suite}"):
        root = instance.cache / f"debian-{suite}"
        shutil.rmtree(root, ignore_errors=True)
        run_logged(instance.cache / "log" / "debootstrap.log", "debootstrap", "--variant=minbase", suite, root, mirror)
        for package in root.glob("var/cache/apt/archives/*.deb"):
            package.unlink()
        container = buildah(instance, "from", "scratch").strip()
        buildah(instance, "copy", "--quiet", container, root, "/")
        buildah(instance, "config", "--cmd", "bash", container)
        buildah(instance, "commit", "--quiet", "--rm", container, name)
        shutil.rmtree(root)
    return name


def _build(instance: Instance, name: str, base: str) -> None:
    image = (IMAGES | TEST_IMAGES)[name]
    arguments = {"BASE_IMAGE": base}
    # Without a choice: PyPI's torch without what only a GPU loads, since this cluster's node has none.
    choice = {"TORCH_DEVICE": "cpu", **{key: os.environ[key] for key in _TORCH if key in os.environ}}
    arguments |= {key: value for key, value in choice.items() if key in image.arguments}
    with tempfile.TemporaryDirectory() as secrets:
        buildah_logged(
            instance,
            instance.cache / "log" / f"image-{name}.log",
            *("bud", "--layers", "--tag", _local(name), "--file", REPOSITORY / image.dockerfile),
            *(("--target", image.target) if image.target else ()),
            *(word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")),
            *_secrets(Path(secrets)),
            REPOSITORY,
        )


def _secrets(folder: Path) -> tuple[str, ...]:
    """What pip on this machine needs to reach its index (address, certificate), for the build only and in no layer."""
    certificate = os.environ.get("PIP_CERT") or _pip("global.cert") or "/etc/ssl/certs/ca-certificates.crt"
    lines = ["[global]", "disable-pip-version-check = true", "timeout = 180", "cert = /run/secrets/ca.pem"]
    for option in ("index-url", "extra-index-url"):
        value = os.environ.get(f"PIP_{option.upper().replace('-', '_')}") or _pip(f"global.{option}")
        if value:
            lines.append(f"{option} = {value}")
    pip = folder / "pip.conf"
    pip.write_text("\n".join(lines) + "\n")
    return ("--secret", f"id=pip.conf,src={pip}", "--secret", f"id=ca.pem,src={certificate}")


def _pip(option: str) -> str:
    try:
        return run("python3", "-m", "pip", "config", "get", option).strip()
    except (Failure, subprocess.SubprocessError):
        return ""  # not configured, or no pip here: the public index then


def _push(instance: Instance, name: str, registry: str) -> str:
    target = f"{registry}/kernelsearch/{name}"
    plain = ("--tls-verify=false",) if registry == instance.registry else ()
    with tempfile.NamedTemporaryFile(mode="r") as digest:
        log = instance.cache / "log" / f"push-{name}.log"
        fast = ("--compression-format", "zstd", "--compression-level", "1")
        words = ("push", *fast, *plain, "--digestfile", digest.name)
        try:
            buildah_logged(instance, log, *words, _local(name), f"docker://{target}:dev")
        except Failure as failure:
            raise Failure(
                f"{failure}\n  is the registry {registry} there? dev/cluster/up starts the local one"
            ) from None
        return f"{target}@{digest.read().strip()}"

"""What is published: the verified kernels of a search, self-contained, as one flat set of files.

A bundle is a pure function of what was verified: equal winners give equal bytes and an equal digest, so publishing
twice changes nothing. File names are flat because a ConfigMap's keys are; the same files work in a folder, in a mounted
ConfigMap and in an image. `bundled/` holds the Python that travels along; native.py is the harness's own caller, so
that a serving pod calls a kernel as the judge called it.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from kernelharness.protocol import MAX_ARTIFACT_BYTES, PROTOCOL, CaseFact, Problem, Result, TensorFact

FORMAT = 1
MANIFEST = "manifest.json"
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp64": "float64"}


class BundleError(ValueError):
    """These kernels cannot be published; the text says what to do."""


@dataclass(frozen=True)
class VerifiedKernel:
    """One target's winner, with what its confirmation said."""

    target: str
    language: str
    suffix: str
    """Of the source file."""
    vendor: str
    arch: str
    device: str
    candidate: str
    model: str
    """The LLM that wrote it; empty for a seed."""
    source: str
    library: bytes
    """The very file that the confirming pod timed; empty for Python languages."""
    header: str
    """problem.h, for whoever wants to compile it again; empty for Python languages."""
    facts: tuple[CaseFact, ...]
    result: Result
    """Of the confirmation: times and intervals per case."""


@dataclass(frozen=True)
class Bundle:
    files: dict[str, bytes]
    """Flat names, sorted."""
    digest: str
    """sha256 of the manifest, which holds the sha256 of every other file."""

    @property
    def size(self) -> int:
        return sum(len(name) + len(content) for name, content in self.files.items())


def build_bundle(
    *, name: str, uid: str, problem: Problem, problem_digest: str, harness: str, kernels: Sequence[VerifiedKernel]
) -> Bundle:
    """The bundle of a search. Raise BundleError when there is no kernel, or a library is too large or another one.

    `harness`: version of the harness that judged.
    """
    if not kernels:
        raise BundleError("no kernel was verified: there is nothing to publish")
    content: dict[str, bytes] = {}
    problem_files = {file.path: _flat(file.path, problem.entry) for file in problem.files}
    content |= {problem_files[file.path]: file.content.encode() for file in problem.files}
    for script in ("check.py", "kernel.py", "loading.py", "machine.py", "training.py"):
        content[script] = files("kernelsearch.publish").joinpath("bundled", script).read_bytes()
    content["native.py"] = files("kernelharness").joinpath("languages", "native.py").read_bytes()
    targets = [_target(kernel, problem, content) for kernel in sorted(kernels, key=lambda kernel: kernel.target)]
    manifest = {
        "format": FORMAT,
        "search": {"name": name, "uid": uid},
        "harness": {"version": harness, "protocol": PROTOCOL},
        "problem": {
            "digest": problem_digest,
            "entry": problem.entry,
            "files": {path: {"file": flat} for path, flat in problem_files.items()},
            "tolerance": problem.tolerance.model_dump(mode="json"),
        },
        "targets": targets,
        "files": {file: hashlib.sha256(data).hexdigest() for file, data in sorted(content.items())},
    }
    content[MANIFEST] = (json.dumps(manifest, indent=1) + "\n").encode()
    return Bundle(dict(sorted(content.items())), hashlib.sha256(content[MANIFEST]).hexdigest())


def read_manifest(content: Mapping[str, bytes]) -> dict[str, Any]:
    """The manifest of a bundle's files, checked. Raise BundleError naming the file that is missing or changed."""
    if MANIFEST not in content:
        raise BundleError(f"there is no {MANIFEST}: this is no bundle")
    manifest: dict[str, Any] = json.loads(content[MANIFEST])
    if manifest.get("format") != FORMAT:
        raise BundleError(f"the bundle has format {manifest.get('format')}, this version reads {FORMAT}")
    for name, digest in manifest["files"].items():
        if hashlib.sha256(content.get(name, b"")).hexdigest() != digest:
            raise BundleError(f"{name} is missing or not the file that the manifest names")
    return manifest


def _target(kernel: VerifiedKernel, problem: Problem, content: dict[str, bytes]) -> dict[str, Any]:
    source = f"{kernel.target}{kernel.suffix}"
    content[source] = kernel.source.encode()
    if kernel.header:
        content[f"{kernel.target}.problem.h"] = kernel.header.encode()
    result = kernel.result
    return {
        "name": kernel.target,
        "language": kernel.language,
        "vendor": kernel.vendor,
        "arch": kernel.arch,
        "device": kernel.device,
        "candidate": kernel.candidate,
        "model": kernel.model,
        "source": {"file": source, "sha256": hashlib.sha256(content[source]).hexdigest()},
        "library": _library(kernel, content),
        "speedup": result.speedup,
        "low": result.low,
        "high": result.high,
        "cases": list(_cases(kernel, problem)),
    }


def _library(kernel: VerifiedKernel, content: dict[str, bytes]) -> dict[str, Any] | None:
    if not kernel.library:
        return None
    digest = hashlib.sha256(kernel.library).hexdigest()
    if digest != kernel.result.binary_hash:
        raise BundleError(
            f"target {kernel.target}: the library has sha256 {digest[:12]}, the verdict is about "
            f"{kernel.result.binary_hash[:12] or 'none'}; only the file that was timed is published"
        )
    packed = zlib.compress(kernel.library, 9)
    if len(packed) > MAX_ARTIFACT_BYTES:
        raise BundleError(
            f"target {kernel.target}: the library has {len(packed)} bytes compressed, at most {MAX_ARTIFACT_BYTES} fit"
        )
    name = f"{kernel.target}.so.z"
    content[name] = packed
    return {"file": name, "sha256": digest, "bytes": len(kernel.library)}


def _cases(kernel: VerifiedKernel, problem: Problem) -> list[dict[str, Any]]:
    """The cases that were timed; a hidden one was checked only, and its sizes stay hidden."""
    facts = {fact.case: fact for fact in kernel.facts if not fact.hidden}
    stated = {case.name: case for case in problem.cases}
    known = []
    for timed in kernel.result.cases:
        fact = facts.get(timed.case)
        if fact is None:
            raise BundleError(f"target {kernel.target}: case {timed.case} was timed, but its shapes are not known")
        case = stated.get(timed.case)
        dtype = case.dtype.removeprefix("torch.") if case and case.dtype else ""
        known.append(
            {
                "case": timed.case,
                "dims": dict(case.dims) if case else {},
                "dtype": _DTYPES.get(dtype, dtype),
                "inputs": [_tensor(tensor) for tensor in fact.arguments],
                "parameters": [_tensor(tensor) for tensor in fact.parameters],
                "outputs": [_tensor(tensor) for tensor in fact.results],
                "cotangents": [_tensor(tensor) for tensor in fact.cotangents],
                "gradients": [_tensor(tensor) for tensor in fact.gradients],
                "returns": fact.returns,
                "scalars": dict(fact.scalars),
                "ns": timed.ns,
                "baseline": timed.baseline,
                "baseline_ns": timed.baseline_ns,
                "speedup": timed.speedup,
                "low": timed.low,
                "high": timed.high,
                "samples": timed.samples,
            }
        )
    if not known:
        raise BundleError(f"target {kernel.target}: the confirmation timed no case")
    return known


def _tensor(fact: TensorFact) -> dict[str, Any]:
    return fact.model_dump(mode="json")


def _flat(path: str, entry: str) -> str:
    """A problem file's name in the bundle; `.` and `__` keep other files apart from the entry and from each other."""
    return "reference.py" if path == entry else f"reference.{path.replace('/', '__')}"

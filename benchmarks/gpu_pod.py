"""The same batch judged on this machine and in a restricted pod on it: the same verdicts, and what does a pod cost?

    python benchmarks/gpu_pod.py PACK [--device cpu] [--full-size] [--json FILE] [--logs FOLDER]

PACK is the unpacked archive of dev/gpu-pod/pack. Needs root, and for the default `--device gpu` an NVIDIA driver. Eight
candidates of the adversarial suite, good and bad; with `--full-size` those of gpu_speed.py, whose inputs are 7.5 GB.
The Job is the operator's own, made, watched and read by its own evaluator, with a packaged profile; what is added to it
is gpupod/image.py's. Exit code 1 when a verdict differs, is missing, or is not one that the candidate's file asks for.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = ("operator", "harness-image", "dev/cluster", "dev/gpu-pod", "tests/harness/adversarial")
sys.path[1:1] = [str(REPOSITORY / path) for path in SOURCES]

VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
PROBLEMS = {"gpu": ("rmsnorm", "cuda"), "cpu": ("scaled_rows", "cpp")}
CANDIDATES = {
    "gpu": (
        *("rmsnorm_rows", "joined_side_stream", "tail_skipped", "out_of_bounds"),
        *("writes_weights", "47_self_relaunching_graph", "bad_launch", "syntax"),
    ),
    "cpu": (
        *("plain", "joined_thread", "08_tail_skipped", "33_removes_files"),
        *("29_changes_weights", "44_opens_a_socket", "own_reads_the_judges_memory", "31_forges_replies"),
    ),
}
NAMESPACE = "kernelsearch-evaluation"
PATIENCE_SECONDS = 240.0
LOOK_INSIDE = """
import json, os, socket
def attempt(action):
    try: action()
    except OSError as error: return error.strerror
    return "it could"
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
wanted = ("Uid", "Gid", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")
print(json.dumps({
    **{key: " ".join(status[key].split()) for key in wanted},
    "interfaces": sorted(os.listdir("/sys/class/net")),
    "routes": [line.split()[0] for line in open("/proc/net/route").read().splitlines()[1:]],
    "connecting to the node": attempt(lambda: socket.create_connection(("%s", 6443), 2)),
    "writing to /": attempt(lambda: open("/file", "w")),
    "writing to /opt": attempt(lambda: open("/opt/file", "w")),
    "devices": sorted(name for name in os.listdir("/dev") if name.startswith("nvidia")),
}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("--device", choices=sorted(PROBLEMS), default="gpu")
    parser.add_argument("--full-size", action="store_true", help="RMSNorm of KernelBench's size, eight CUDA candidates")
    parser.add_argument("--json", type=Path, help="where the result is recorded")
    parser.add_argument("--logs", type=Path, help="a folder for both judges' logs and, if it fails, the node's")
    options = parser.parse_args()
    packages = options.pack.absolute() / VERSION
    if packages.is_dir():
        sys.path.insert(1, str(packages))
    if options.full_size and options.device != "gpu":
        parser.error("--full-size needs a GPU")
    with tempfile.TemporaryDirectory(prefix="pod-") as folder:
        logs = options.logs or Path(folder)
        logs.mkdir(parents=True, exist_ok=True)
        batch, asked = full_size_batch() if options.full_size else suite_batch(options.device)
        # As in a search after its probe; without ratios torch.compile is left out on both sides.
        batch = batch.model_copy(update={"id": f"{options.device}-1-0", "compile_ratios": {}})
        given = packages if packages.is_dir() else None
        report = compare(options.pack, options.device, batch, asked, given, Path(folder), logs)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    show(report)
    return int(not report["same"] or not report["as_the_files_ask"])


def suite_batch(device: str) -> tuple[Any, dict[str, list[str]]]:
    """The batch, and by candidate the verdicts that its file asks for."""
    import suite

    problem, language = PROBLEMS[device]
    by_name = {entry.name: entry for entry in suite.entries(device) if entry.language == language}
    chosen = [by_name[name] for name in CANDIDATES[device]]
    batch = suite.batch(device, problem, language, [entry.candidate() for entry in chosen])
    return batch, {entry.name: sorted(entry.expect) for entry in chosen}


def full_size_batch() -> tuple[Any, dict[str, list[str]]]:
    """The same of gpu_speed.py's candidates."""
    import gpu_speed

    batch = gpu_speed.batch("rmsnorm", "cuda", 8)
    return batch, {candidate.id: ["OK"] for candidate in batch.candidates}


def compare(
    pack: Path,
    device: str,
    batch: Any,
    asked: dict[str, list[str]],
    packages: Path | None,
    work: Path,
    logs: Path,
) -> dict[str, Any]:
    """Judge outside, bring up a node, judge inside, take the node down; the report."""
    from devcluster.progress import Failure
    from gpupod import node

    outside = judge_here(batch, packages, work, logs)
    state = work / "node"
    try:
        node.up(pack, state, devices=device == "gpu")
        inside = asyncio.run(judge_in_pod(node.instance(pack, state), batch, outside, device, packages, logs))
    except Failure as failure:
        sys.exit(f"benchmarks/gpu_pod.py: {failure}")
    finally:
        with contextlib.suppress(OSError):
            shutil.copytree(state / "log", logs / "node", ignore=shutil.ignore_patterns("pods"), dirs_exist_ok=True)
        node.down(pack, state)
    rows = [
        row(name, verdicts, outside["results"].get(name), inside["results"].get(name))
        for name, verdicts in asked.items()
    ]
    hello = outside["hello"]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": hello.device,
        "driver": hello.driver,
        "versions": hello.versions | inside["versions"],
        "same": not inside["infrastructure"] and all(each["outside"] == each["inside"] for each in rows),
        "as_the_files_ask": all(each["outside"] in each["asked"] and each["inside"] in each["asked"] for each in rows),
        "batch_digest": batch.digest,
        "candidates": rows,
        "isolation": {"outside": hello.isolation, "inside": inside["hello"].isolation if inside["hello"] else {}},
        "eager_us": {"outside": outside["eager_us"], "inside": inside["eager_us"]},
        "seconds": {
            "outside, start to hello": outside["seconds_to_hello"],
            "outside, whole batch": outside["seconds"],
            **inside["seconds"],
        },
        "pod": inside["pod"],
        "infrastructure": inside["infrastructure"],
    }


def row(name: str, asked: list[str], outside: Any, inside: Any) -> dict[str, Any]:
    def interval(result: Any) -> list[float] | None:
        return [result.speedup, result.low, result.high] if result and result.speedup is not None else None

    return {
        "name": name,
        "asked": asked,
        "outside": outside.verdict.value if outside else "MISSING",
        "inside": inside.verdict.value if inside else "MISSING",
        "speedup_outside": interval(outside),
        "speedup_inside": interval(inside),
        "summary_outside": outside.summary if outside else "",
        "summary_inside": inside.summary if inside else "",
    }


def said(messages: Sequence[Any]) -> dict[str, Any]:
    """What a judge's messages say, by kind."""
    from kernelharness.protocol import Baseline, Hello, Result

    return {
        "hello": next((each for each in messages if isinstance(each, Hello)), None),
        "results": {each.candidate: each for each in messages if isinstance(each, Result)},
        "eager_us": next(
            (round(each.ns / 1e3, 2) for each in messages if isinstance(each, Baseline) and each.ns is not None), None
        ),
    }


def judge_here(batch: Any, packages: Path | None, work: Path, logs: Path) -> dict[str, Any]:
    """The judge's command line on this machine, as root and with all of it."""
    from gpupod import image
    from kernelharness.protocol import parse_log

    path = work / "batch.json"
    path.write_text(batch.to_json())
    code = ":".join([str(REPOSITORY / "harness-image"), *([str(packages)] if packages else [])])
    begin = time.monotonic()
    with (logs / "outside.stderr").open("w") as errors:
        judge = subprocess.Popen(
            [sys.executable, "-m", "kernelharness", "judge", "--batch", str(path)],
            env={**os.environ, **image.environment(packages), "PYTHONPATH": code},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=work,
        )
        assert judge.stdout
        first = judge.stdout.readline()
        to_hello = time.monotonic() - begin
        log = first + judge.stdout.read()
        code_of_judge = judge.wait()
    (logs / "outside.log").write_text(log)
    if code_of_judge:
        sys.exit(f"the judge outside ended with {code_of_judge}:\n{(logs / 'outside.stderr').read_text()[-3000:]}")
    seconds = {"seconds_to_hello": round(to_hello, 2), "seconds": round(time.monotonic() - begin, 2)}
    return said(parse_log(log)) | seconds


async def judge_in_pod(
    own: Any, batch: Any, outside: dict[str, Any], device: str, packages: Path | None, logs: Path
) -> dict[str, Any]:
    """The batch as the operator runs it, and what a pod like the judge's sees around it."""
    from gpupod import image, node
    from kernelharness.protocol import parse_log
    from kernelsearch.evaluate import manifests
    from kernelsearch.evaluate.base import BatchRequest, Progress
    from kernelsearch.evaluate.cache import EvaluationCache
    from kernelsearch.evaluate.jobs import JobsEvaluator
    from kernelsearch.evaluate.kube import JOBS, Kind, Kube, Object

    image.load(own, packages)
    node.enter_network(own)
    os.environ["KUBECONFIG"] = str(own.kubeconfig)
    created: dict[str, float] = {}

    class OnThisMachine(Kube):
        """The evaluator's connection; the Job gets the machine's Python mounted on its way out."""

        async def create(self, kind: Kind, namespace: str | None, body: Object) -> Object:
            if kind is not JOBS:
                return await super().create(kind, namespace, body)
            created["at"] = time.time()
            return await super().create(kind, namespace, image.with_machine(body, packages))

    kube = await OnThisMachine.connect()
    try:
        profile, cut = await profile_for(kube, device, outside["hello"].device)
        placement = manifests.Placement(
            search_uid="00000000-0000-4000-8000-000000000000",
            search=f"benchmarks/{device}",
            namespace=NAMESPACE,
            profile=profile,
            language=batch.toolchain.language,
        )
        request = BatchRequest(placement.search_uid, device, batch)
        standard = await prepare_namespaces(kube, own, manifests.job(placement, request, _owner("none")))
        cache = EvaluationCache(kube, [NAMESPACE])
        following = asyncio.create_task(cache.run())
        await cache.wait_until_synced()

        def tell(progress: Progress) -> None:
            print(f"  {progress.state}: {progress.message}", flush=True)

        evaluator = JobsEvaluator(kube, cache, {device: placement})
        begin = time.monotonic()
        try:
            outcome = await asyncio.wait_for(evaluator.evaluate(request, tell), PATIENCE_SECONDS)
        except TimeoutError:
            sys.exit(f"the batch did not end within {PATIENCE_SECONDS:.0f} s; the node's logs are in {logs}")
        seconds = time.monotonic() - begin
        (logs / "inside.log").write_text(outcome.log)
        pod = await look_inside(kube, own, placement, request, packages)
        hello_at = await first_line_at(own, manifests.job_name(request))
        following.cancel()
    finally:
        await kube.close()
    messages = parse_log(outcome.log) if not outcome.infrastructure else []
    to_hello = round(hello_at - created["at"], 2) if hello_at else None
    found = said(messages) if messages else {"hello": outcome.hello, "results": {}, "eager_us": None}
    return {
        **found,
        "infrastructure": f"{outcome.infrastructure}: {outcome.message}" if outcome.infrastructure else "",
        "seconds": {
            "inside, job created to hello": to_hello,
            "inside, whole batch": round(seconds, 2),
            "a pod's overhead before hello": round(to_hello - outside["seconds_to_hello"], 2) if to_hello else None,
        },
        "pod": {"pod_security_restricted": standard, "requests_cut_to_what_the_node_has": cut, **pod},
        "versions": platform_versions(own, device),
    }


def _owner(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": name}}


async def profile_for(kube: Any, device: str, product: str) -> tuple[Any, dict[str, str]]:
    """The packaged profile of this machine with the stand-in image, and the requests that had to be cut to fit it.

    On the way a node with a GPU gets the label that GPU feature discovery would give it.
    """
    import yaml
    from gpupod import image
    from kernelsearch.api.profile import PodResources
    from kernelsearch.api.resources import AcceleratorProfile
    from kernelsearch.evaluate.kube import Kind

    nodes = Kind("/api/v1", "nodes", namespaced=False)
    discovered = {"nvidia.com/gpu.product": product.replace(" ", "-")} if device == "gpu" else {}
    node = await kube.merge(nodes, None, "node", {"metadata": {"labels": discovered}})
    labels, allocatable = node["metadata"]["labels"], node["status"]["allocatable"]
    folder = REPOSITORY / "operator" / "kernelsearch" / "api" / "profiles"
    specs = [AcceleratorProfile.model_validate(yaml.safe_load(path.read_text())).spec for path in folder.glob("*.yaml")]
    vendor = {"gpu": "nvidia", "cpu": "cpu"}[device]
    fitting = [
        spec
        for spec in sorted(specs, key=lambda spec: spec.arch)
        if spec.vendor == vendor and spec.scheduling.node_selector.items() <= labels.items()
    ]
    if not fitting:
        sys.exit(f"no packaged profile of vendor {vendor} selects a node with the labels {labels}")
    spec = fitting[0]
    asked = spec.scheduling.resources or PodResources()
    cut = {
        key: str(allocatable.get(key, "0"))
        for key, value in asked.requests.items()
        if amount(str(value)) > amount(allocatable.get(key, "0"))
    }
    resources = asked.model_copy(update={"requests": {**asked.requests, **cut}})
    toolchains = tuple(each.model_copy(update={"image": image.NAME}) for each in spec.toolchains)
    scheduling = spec.scheduling.model_copy(update={"resources": resources})
    return spec.model_copy(update={"scheduling": scheduling, "toolchains": toolchains}), cut


def amount(quantity: str) -> float:
    """The number that a Kubernetes quantity stands for."""
    units = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    number = quantity.rstrip("".join(units))
    return float(number) * units.get(quantity[len(number) :], 1)


async def prepare_namespaces(kube: Any, own: Any, job: dict[str, Any]) -> str:
    """Make the evaluation namespace; what the restricted Pod Security Standard says of the operator's own pod.

    Asked in a namespace beside it: the stand-in's mounts are host paths, which that standard forbids.
    """
    from devcluster.kubectl import kubectl
    from devcluster.progress import Failure
    from kernelsearch.evaluate.kube import NAMESPACES, Kind

    accounts = Kind("/api/v1", "serviceaccounts")
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    for name, labels in ((NAMESPACE, {}), ("restricted", restricted)):
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        await kube.create(NAMESPACES, None, body)
    for name in (NAMESPACE, "restricted"):
        while await kube.find(accounts, name, "default") is None:
            await asyncio.sleep(0.1)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "judge"}, "spec": job["spec"]["template"]["spec"]}
    try:
        words = ("create", "--dry-run=server", "--namespace=restricted", "-f", "-")
        await asyncio.to_thread(kubectl, own, *words, stdin=json.dumps(pod))
    except Failure as failure:
        return f"refused: {failure}"
    return "admitted"


async def look_inside(kube: Any, own: Any, placement: Any, request: Any, packages: Path | None) -> dict[str, Any]:
    """What a process finds that stands where the judge stood: the same pod with another command."""
    from gpupod import image
    from kernelsearch.evaluate import manifests
    from kernelsearch.evaluate.kube import PODS

    job = image.with_machine(manifests.job(placement, request, _owner("none")), packages)
    spec = job["spec"]["template"]["spec"]
    spec["containers"][0] |= {"command": [sys.executable, "-c", LOOK_INSIDE % own.node], "args": []}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "look-inside"}, "spec": spec}
    await kube.create(PODS, NAMESPACE, body)
    for _ in range(300):
        pod = await kube.get(PODS, NAMESPACE, "look-inside")
        if pod["status"].get("phase") in ("Succeeded", "Failed"):
            break
        await asyncio.sleep(0.1)
    text = await kube.read_log(NAMESPACE, "look-inside", container=manifests.CONTAINER, limit_bytes=65536)
    container = spec["containers"][0]
    said_by_it: dict[str, Any] = json.loads(text) if text.startswith("{") else {"failed": text[-600:]}
    return {
        "security_context": spec["securityContext"] | container["securityContext"],
        "resources": container["resources"],
        **said_by_it,
    }


async def first_line_at(own: Any, job: str) -> float | None:
    """When the judge's first protocol line reached the node's log, seconds since the epoch."""
    from devcluster.kubectl import kubectl

    words = ("logs", f"job/{job}", f"--namespace={NAMESPACE}", "--timestamps")
    for line in (await asyncio.to_thread(kubectl, own, *words)).splitlines():
        stamp, _, text = line.partition(" ")
        if text.startswith('{"type":"hello"'):
            return datetime.fromisoformat(stamp[:26].rstrip("Z") + "+00:00").timestamp()
    return None


def platform_versions(own: Any, device: str) -> dict[str, str]:
    """Of what the pod ran on."""
    from devcluster import binaries
    from devcluster.kubectl import kubectl
    from devcluster.progress import run
    from gpupod import node

    info = json.loads(kubectl(own, "get", "node", "node", "-o", "json"))["status"]["nodeInfo"]
    found = {
        "kubernetes": info["kubeletVersion"],
        "runtime": info["containerRuntimeVersion"],
        "kernel": info["kernelVersion"],
        "runc": run(binaries.folder(own) / "runc", "--version", env=node.environment(own)).split()[2],
    }
    if device == "gpu":
        found["device plugin"] = run(*node.device_plugin(own)[:1], "--version", env=node.environment(own)).split()[-1]
    return found


def show(report: dict[str, Any]) -> None:
    print(f"{report['device']}, driver {report['driver'] or '-'}, {report['versions']}")
    print(f"{'candidate':28} {'outside':18} {'inside':18} speedups")
    for each in report["candidates"]:
        speeds = "  ".join(
            f"{value[0]:.3f} [{value[1]:.3f} {value[2]:.3f}]"
            for value in (each["speedup_outside"], each["speedup_inside"])
            if value
        )
        mark = "" if each["outside"] == each["inside"] else "  DIFFERENT"
        print(f"{each['name']:28} {each['outside']:18} {each['inside']:18} {speeds}{mark}")
    for key in ("isolation", "eager_us", "seconds", "pod", "infrastructure"):
        print(f"{key}: {report[key]}")
    print("the same verdicts" if report["same"] else "NOT the same verdicts")


if __name__ == "__main__":
    sys.exit(main())

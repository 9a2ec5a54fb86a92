"""What this machine can judge: its CPU level, its GPUs, its compilers; and so which targets of a manifest run here.

A profile is matched by vendor and arch alone, because those decide whether a binary runs. A target that does not match
is skipped with the reason, never run on something else under its name.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from kernelsearch.api import AcceleratorProfileSpec

_LEVELS = {
    "x86-64-v2": frozenset({"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}),
    "x86-64-v3": frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}),
    "x86-64-v4": frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
}
"""psABI micro-architecture levels, each on top of the one before, in the flag names of /proc/cpuinfo."""

_GPU_VENDORS = ("nvidia", "amd")
_PLUGINS = "kernelharness.devices"
"""The entry points by which the judge finds other devices (kernelharness/devices/accelerator.py)."""
_COMPILERS = {"cpp": "g++", "cuda": "nvcc", "hip": "hipcc"}


@dataclass(frozen=True)
class Machine:
    cpu: str
    """For people: the model's name."""
    cpu_archs: frozenset[str]
    """Compiler targets that this CPU runs: x86-64, x86-64-v2, ..."""
    gpus: dict[str, str]
    """Arch -> name for people: sm_90 -> NVIDIA H200."""
    has_program: Callable[[str], bool] = lambda name: shutil.which(name) is not None
    plugins: frozenset[str] = frozenset()
    """Vendors whose devices the judge knows by a plugin; whether a device is there, the plugin says when it is used."""

    @property
    def best_cpu_arch(self) -> str:
        """The highest level this CPU has: what a default manifest compiles for."""
        return max(self.cpu_archs)

    def why_not(self, profile: AcceleratorProfileSpec, language: str) -> str:
        """Why a target of this profile and language cannot be judged here; empty when it can."""
        if profile.vendor == "cpu":
            if profile.arch not in self.cpu_archs:
                return f"this CPU ({self.cpu}) has no {profile.arch}, only {', '.join(sorted(self.cpu_archs))}"
        elif not self.has_device(profile):
            there = ", ".join(f"{name} ({arch})" for arch, name in self.gpus.items()) or "no GPU"
            plugin = (
                "" if profile.vendor in _GPU_VENDORS else f", and no device plugin for {profile.vendor} is installed"
            )
            return f"this machine has no {profile.vendor} {profile.arch}; it has {there}{plugin}"
        return self.why_not_compiled(profile, language)

    def has_device(self, profile: AcceleratorProfileSpec) -> bool:
        """Whether a GPU of the profile's architecture, or a plugin for its vendor's devices, is here."""
        return profile.vendor in self.plugins or _family(profile.arch) in {_family(arch) for arch in self.gpus}

    def why_not_compiled(self, profile: AcceleratorProfileSpec, language: str) -> str:
        """Why kernels of this profile and language cannot even be compiled here; empty when they can."""
        try:
            toolchain = profile.toolchain(language)
        except KeyError as error:
            return str(error.args[0])
        compiler = toolchain.command[0] if toolchain.command else _COMPILERS.get(language, "")
        if compiler and not self.has_program(compiler):
            return f"the compiler {compiler} is not installed"
        return ""


def this_machine() -> Machine:
    """Read /proc, /sys and ask nvidia-smi where there is one."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    return Machine(
        cpu=_cpu_field(cpuinfo, "model name") or platform.processor() or platform.machine(),
        cpu_archs=cpu_archs(platform.machine(), _cpu_field(cpuinfo, "flags").split()),
        gpus=_nvidia_gpus() | amd_gpus(Path("/sys/class/kfd/kfd/topology/nodes")),
        plugins=frozenset(entry.name for entry in entry_points(group=_PLUGINS)),
    )


def has_harness() -> bool:
    """Whether a judge can run at all: torch is an extra, because a controller must not need it."""
    return importlib.util.find_spec("torch") is not None


def cpu_archs(machine: str, flags: Iterable[str]) -> frozenset[str]:
    if machine != "x86_64":
        return frozenset({machine})
    have, archs = frozenset(flags), {"x86-64"}
    for level, needed in _LEVELS.items():
        if not needed <= have:
            break
        archs.add(level)
    return frozenset(archs)


def _cpu_field(cpuinfo: str, name: str) -> str:
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _nvidia_gpus() -> dict[str, str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    query = [program, "--query-gpu=compute_cap,name", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    return parse_nvidia_smi(answer.stdout) if answer.returncode == 0 else {}


def parse_nvidia_smi(text: str) -> dict[str, str]:
    """'9.0, NVIDIA H200' -> {'sm_90': 'NVIDIA H200'}"""
    gpus = {}
    for line in text.splitlines():
        capability, _, name = line.partition(",")
        if capability.strip().replace(".", "").isdecimal():
            gpus["sm_" + capability.strip().replace(".", "")] = name.strip()
    return gpus


def amd_gpus(nodes: Path) -> dict[str, str]:
    """From the kfd driver's gfx_target_version: 90402 is gfx942; nodes with 0 are CPUs."""
    gpus = {}
    for properties in sorted(nodes.glob("*/properties")):
        for line in properties.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == "gfx_target_version" and (version := int(value)):
                gpus[f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"] = "AMD GPU"
    return gpus


def _family(arch: str) -> str:
    """sm_90a is sm_90 with instructions that the same device has."""
    return arch.rstrip("af") if arch.startswith("sm_") else arch

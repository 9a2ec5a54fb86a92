"""Is this the machine that a kernel was built and verified for? By CPU flags or the GPU's own name, never by trying."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

_X86_LEVELS = {
    "x86-64-v2": "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3",
    "x86-64-v3": "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
    "x86-64-v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
}
"""What each level adds, as Linux names it."""


def refusal(target: dict[str, Any]) -> str:
    """Why this target's kernel cannot run here; empty when it can."""
    arch: str = target["arch"]
    if target["vendor"] not in ("cpu", "nvidia", "amd"):
        return f"its memory is on a device of {target['vendor']}, which only the vendor's own runtime reaches"
    if target["vendor"] != "cpu":
        return _gpu_refusal(arch)
    if not target["library"]:
        return ""
    if arch != "x86-64" and arch not in _X86_LEVELS:
        return f"it was built for {arch}, and whether this CPU is one cannot be checked"
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"it was built for {arch}, this machine is {platform.machine()}"
    needed = {flag for level, flags in _X86_LEVELS.items() if level <= arch for flag in flags.split()}
    missing = " ".join(sorted(needed - cpu_flags()))
    return f"it was built for {arch}, this CPU lacks {missing}" if missing else ""


def cpu_flags() -> set[str]:
    """The flags of the CPUs here; none when the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.split(":", 1)[1].split()}


def _gpu_refusal(arch: str) -> str:
    if not torch.cuda.is_available():
        return f"it was verified on {arch}, and there is no GPU here"
    properties = torch.cuda.get_device_properties(0)
    # Not whether there is a gcnArchName: on an NVIDIA GPU it is the product's name.
    is_amd = torch.version.hip is not None
    here = properties.gcnArchName.split(":")[0] if is_amd else f"sm_{properties.major}{properties.minor}"
    family = arch.rstrip("af") if arch.startswith("sm_") else arch
    return "" if family == here else f"it was verified on {arch}, this GPU is {here}"

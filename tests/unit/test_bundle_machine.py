"""Whether a published kernel may run on a GPU, by what torch says of it; torch's answers are recorded ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from kernelsearch.publish.bundled.machine import refusal

H100 = SimpleNamespace(major=9, minor=0, gcnArchName="NVIDIA H100 80GB HBM3")
MI300X = SimpleNamespace(major=9, minor=4, gcnArchName="gfx942:sramecc+:xnack-")


@pytest.mark.parametrize(
    ("device", "hip", "arch", "expected"),
    [
        (H100, None, "sm_90a", ""),
        (H100, None, "sm_90", ""),
        (H100, None, "sm_100a", "it was verified on sm_100a, this GPU is sm_90"),
        (MI300X, "7.2", "gfx942", ""),
        (MI300X, "7.2", "gfx950", "it was verified on gfx950, this GPU is gfx942"),
    ],
)
def test_a_gpu_is_known_by_its_architecture(
    device: SimpleNamespace, hip: str | None, arch: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert refusal({"arch": arch, "vendor": "nvidia" if hip is None else "amd", "library": "x"}) == expected

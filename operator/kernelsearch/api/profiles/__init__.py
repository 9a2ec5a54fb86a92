"""Ready-made AcceleratorProfiles: one YAML file each, used by the CLI as they are and installed by the chart.

The same files, so that a target means one thing everywhere. Only `image` differs by installation: here it names a
variant of the harness image (harness-cpu, harness-cuda, harness-rocm), and the chart puts the image of that variant,
from its value `images`, in its place. Running on this machine needs no image and ignores it.

Hardware facts are the vendors' data sheets, dense rates without sparsity; where the judge can measure a ceiling, the
measured one is preferred.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from kernelsearch.api.documents import load_documents
from kernelsearch.api.resources import AcceleratorProfile

HARNESS_VARIANTS = ("harness-cpu", "harness-cuda", "harness-rocm")


@cache
def profile_texts() -> dict[str, str]:
    """File name -> YAML text of every packaged profile."""
    return {
        file.name: file.read_text(encoding="utf-8")
        for file in sorted(files(__name__).iterdir(), key=lambda file: file.name)
        if file.name.endswith(".yaml")
    }


@cache
def _load() -> dict[str, AcceleratorProfile]:
    profiles: dict[str, AcceleratorProfile] = {}
    for text in profile_texts().values():
        profiles |= load_documents(text).profiles
    return profiles


def packaged_profiles() -> dict[str, AcceleratorProfile]:
    """Name -> profile, validated like any other."""
    return dict(_load())
